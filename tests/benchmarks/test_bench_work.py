"""The work of the stages, against published numbers and torch's own count."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from florence_bench.work import stage_work
from florence_edge.manifest import Manifest, Precision, Tensor
from florence_edge.preprocess import ImageSpec
from florence_train.model import BASE, LARGE, FlorenceConfig, FlorenceModel
from support.manifests import manifest

PUBLISHED = {"base": (BASE, 380, 57 + 8.4, 0.11 + 0.08), "large": (LARGE, 1488, 195 + 29.7, 0.38 + 0.11)}
"""GFLOP of vision, encoder with cross-attention (590 positions) and one token: counted on the published models."""


def manifest_of(config: FlorenceConfig) -> Manifest:
    given = manifest()
    pixels = Tensor("pixels", "float32", ("B", 3, "height", "width"))
    graphs = replace(given.graphs, vision=replace(given.graphs.vision, inputs=(pixels,)))
    return replace(given, model=config.to_dict(), image=config.image, graphs=graphs)


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_work_is_that_of_the_published_models(size: str) -> None:
    config, vision, encoder, step = PUBLISHED[size]
    work = stage_work(manifest_of(config), prompt_tokens=13, new_tokens=2, beams=1)
    assert work
    assert work["vision"].flops == pytest.approx(vision * 1e9, rel=0.01)
    assert work["encoder"].flops == pytest.approx(encoder * 1e9, rel=0.01)
    assert work["step"].flops == pytest.approx(step * 1e9, rel=0.03)


@pytest.mark.parametrize("size", [(768, 768), (480, 640)])
def test_vision_is_what_torch_counts(size: tuple[int, int]) -> None:
    height, width = size
    config = replace(BASE, image=ImageSpec(height=height, width=width))
    with torch.device("meta"):
        model = FlorenceModel(config).eval()
        pixels = torch.empty(1, 3, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_image(pixels)
    work = stage_work(manifest_of(config), prompt_tokens=10, new_tokens=32, beams=3)
    assert work
    assert work["vision"].flops == pytest.approx(counter.get_total_flops(), rel=0.005)


def test_the_least_bytes_are_every_matrix_once_what_goes_in_and_what_comes_out() -> None:
    with torch.device("meta"):
        model = FlorenceModel(BASE)

    def weights(prefix: str) -> int:
        found = [value.numel() for name, value in model.named_parameters() if re.match(prefix, name) and value.ndim > 1]
        assert found
        return sum(found)

    cross = weights(r"decoder\.layers\.\d+\.cross_attention\.(key|value)")
    tokens, dim, layers = 577, 768, BASE.text.decoder_layers
    cached = 2 * layers * (tokens + 13) * dim
    least = {
        "vision": (weights(r"vision|projector\.proj"), 3 * 768 * 768 + tokens * dim),
        "encoder": (weights(r"encoder\.layers") + cross, tokens * dim + cached),
        "step": (
            weights(r"decoder\.layers|embedding") - cross,
            cached + 3 * (2 * layers * 10 * dim + BASE.text.vocab_size),
        ),
    }
    precisions: tuple[tuple[Precision, int], ...] = (("fp32", 4), ("int8", 1))
    for precision, size in precisions:
        manifest = replace(manifest_of(BASE), precision=precision)
        work = stage_work(manifest, prompt_tokens=13, new_tokens=20, beams=3)
        assert work
        for name, (matrices, moved) in least.items():
            assert work[name].bytes == matrices * size + moved * 4, name


def test_weights_are_read_once_for_all_beams_and_shrink_with_precision() -> None:
    made = {}
    cases: tuple[tuple[Precision, int], ...] = (("fp32", 1), ("fp32", 3), ("int8", 1))
    for precision, beams in cases:
        manifest = replace(manifest_of(BASE), precision=precision)
        work = stage_work(manifest, prompt_tokens=10, new_tokens=2, beams=beams)
        assert work
        made[precision, beams] = work["step"]
    assert made["fp32", 3].flops == pytest.approx(3 * made["fp32", 1].flops)
    assert made["fp32", 3].bytes < 1.1 * made["fp32", 1].bytes
    assert made["int8", 1].bytes < 0.4 * made["fp32", 1].bytes
    parameters = made["fp32", 1].bytes / 4
    assert 80e6 < parameters < 100e6


def test_a_model_of_unknown_dimensions_has_no_work() -> None:
    assert stage_work(replace(manifest(), model={}), prompt_tokens=1, new_tokens=4, beams=1) is None
