"""The torch backend's own: models without a bundle, any image size, and the way from a bundle to its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.options import SearchOptions
from florence_train.backend import CHECKPOINT_VARIABLE, TorchBackend, find_checkpoint, open_backend, probe
from florence_train.checkpoint import load_checkpoint
from florence_train.tiny import write_tiny_checkpoint
from support.engines import Engines, random_pixels, random_prompts, reference_generate, tiny_engines

SHORT = SearchOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return tiny_engines()


@pytest.fixture
def elsewhere(engines: Engines, tmp_path: Path) -> Bundle:
    """The bundle as if it lay in a folder without its checkpoint."""
    return Bundle(tmp_path / "bundle", engines.bundle.manifest)


def test_a_checkpoint_runs_without_a_bundle(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    backend = TorchBackend.open(folder)
    features = backend.encode_image(random_pixels(0, 1, ImageSize(64, 64)))
    (answer,) = backend.generate(features, [np.asarray([0, 9, 2])])
    assert 2 <= len(answer.ids) <= load_checkpoint(folder)[1].text.max_positions - 1


@pytest.mark.parametrize("size", [ImageSize(64, 64), ImageSize(70, 100), ImageSize(160, 40)])
def test_images_of_any_size_equal_transformers(engines: Engines, size: ImageSize) -> None:
    backend = TorchBackend.open(engines.checkpoint)
    pixels = random_pixels(3, 2, size)
    features = backend.encode_image(pixels)
    (prompt,) = random_prompts(4, [9], vocabulary=engines.config.text.vocab_size)
    options = SearchOptions(beams=3, max_new_tokens=16)
    answers = backend.generate(features, [prompt, prompt], options)
    output = reference_generate(engines, pixels, prompt, engines.bundle.manifest.search.over(options))
    for row, answer in enumerate(answers):
        assert answer.ids.tolist() == output.sequences[row, 1 : len(answer.ids) + 1].tolist()
        assert answer.score == pytest.approx(float(output.sequences_scores[row]), abs=1e-4)


def test_an_image_past_the_position_tables_is_refused(engines: Engines) -> None:
    with pytest.raises(InputError, match="exceeds the 16x16 position table"):
        TorchBackend.open(engines.checkpoint).encode_image(random_pixels(0, 1, ImageSize(1024, 64)))


def test_a_larger_image_leaves_less_room_for_the_prompt(engines: Engines) -> None:
    backend = TorchBackend.open(engines.checkpoint)
    features = backend.encode_image(random_pixels(0, 1, ImageSize(256, 256)))
    room = engines.config.text.max_positions - engines.config.image_tokens(256, 256)
    with pytest.raises(InputError, match=rf"1\.\.{room} token ids"):
        backend.generate(features, [np.full(room + 1, 5)], SHORT)
    assert len(backend.generate(features, [np.full(room, 5)], SHORT)) == 1


def test_half_precision_answers_stay_close(engines: Engines) -> None:
    """bf16 may choose other tokens, but what it says about its own tokens must be finite and near the fp32 truth."""
    model, _ = load_checkpoint(engines.checkpoint)
    exact = TorchBackend(model, engines.bundle.manifest.search)
    half = TorchBackend(load_checkpoint(engines.checkpoint)[0].to(torch.bfloat16), engines.bundle.manifest.search)
    pixels = random_pixels(0, 1)
    scale = np.abs(exact.encode_image(pixels).numpy()).max()
    np.testing.assert_allclose(half.encode_image(pixels).numpy(), exact.encode_image(pixels).numpy(), atol=0.1 * scale)
    (answer,) = half.generate(half.encode_image(pixels), [np.asarray([0, 9, 2])], SHORT)
    assert answer.token_logprobs.dtype == np.float32
    assert np.isfinite(answer.token_logprobs).all()


def test_a_bundle_finds_its_checkpoint_beside_it_or_where_it_is_told(
    engines: Engines, elsewhere: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_checkpoint(engines.bundle).samefile(engines.checkpoint)
    monkeypatch.setenv(CHECKPOINT_VARIABLE, str(engines.checkpoint))
    assert find_checkpoint(elsewhere).samefile(engines.checkpoint)
    pixels, options = random_pixels(5, 1), SearchOptions(beams=3, max_new_tokens=16)
    (prompt,) = random_prompts(5, [6], vocabulary=engines.config.text.vocab_size)
    ids = []
    for backend in (open_backend(elsewhere), OnnxBackend(engines.bundle)):
        ids.append(backend.generate(backend.encode_image(pixels), [prompt], options)[0].ids.tolist())
    assert ids[0] == ids[1]


def test_a_missing_or_another_checkpoint_is_refused(
    elsewhere: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)
    with pytest.raises(BackendError, match=rf"{CHECKPOINT_VARIABLE}.*\n.*checkpoint does not exist"):
        open_backend(elsewhere)
    write_tiny_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(BackendError, match="is another checkpoint: its digest is not the manifest's"):
        open_backend(elsewhere)
    renamed = replace(elsewhere.manifest, source=replace(elsewhere.manifest.source, name="../../secret/checkpoint"))
    with pytest.raises(BackendError, match="another checkpoint"):
        open_backend(Bundle(elsewhere.folder, renamed))


def test_providers_are_not_torchs(engines: Engines) -> None:
    with pytest.raises(InputError, match="takes none"):
        open_backend(engines.bundle, providers=["CPUExecutionProvider"])


def test_probe_names_version_and_device() -> None:
    assert probe().startswith(f"torch {torch.__version__} on ")
