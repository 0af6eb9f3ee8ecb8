"""Lowered graphs in ONNX Runtime against the bundle they were made from: the same numbers, the same answers.

The bundled model has windows and groups of 24 channels, which keep their operators, and of 32, which become plugins.
The slow tests add padded windows, heads of 64, unused tokens and the true base size.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from florence_convert.export import export_bundle, trace
from florence_convert.graphs import graph_sources, graph_tables
from florence_convert.lowering import Lowered, lower
from florence_convert.lowering.language import lower_decoder
from florence_convert.lowering.parts import part_tables
from florence_convert.lowering.precision import set_precision
from florence_convert.simplify import simplify
from florence_edge.bundle import Bundle
from florence_edge.geometry import ImageSize
from florence_train.model import FlorenceModel
from support.engines import kernel_engines
from support.lowered import LoweredDecoder, LoweredModel
from support.lowered_checks import cases_of, check_decoder_steps, check_searches, check_vision_and_encoder
from support.published import write_published


@pytest.fixture(scope="module")
def model(lowered: Lowered) -> LoweredModel:
    return LoweredModel(lowered)


def test_vision_and_encoder_are_those_of_the_bundle(bundle: Bundle, model: LoweredModel) -> None:
    check_vision_and_encoder(bundle, model)


def test_decoder_steps_are_those_of_the_bundle_from_the_first_position_to_the_last(
    bundle: Bundle, model: LoweredModel
) -> None:
    cases = cases_of(bundle)
    cross = model.cross(model.features(cases.pixels), cases.prompts[:2])
    check_decoder_steps(bundle, model, cross, length=8)


def test_whole_searches_give_the_same_ids(bundle: Bundle, model: LoweredModel) -> None:
    check_searches(bundle, model)


def test_rows_of_finished_images_do_not_reach_the_others(bundle: Bundle, model: LoweredModel) -> None:
    cases = cases_of(bundle)
    cross = model.cross(model.features(cases.pixels), cases.prompts[:2])
    decoder = LoweredDecoder(model, cross, beams=2, capacity=4)
    inputs = decoder.inputs(np.full((2, 2), 7, np.int32))
    whole = model.run("decoder", inputs)["logits"]
    found = model.run("decoder", {**inputs, "image_done": np.asarray([1, 0], np.int32)})["logits"]
    np.testing.assert_allclose(found[2:], whole[2:], atol=1e-5)
    assert np.abs(found[:2] - whole[:2]).max() > 1e-3


def test_a_bundle_is_lowered_without_torch(bundle: Bundle, lowered: Lowered, tmp_path: Path) -> None:
    """As on a device that has the bundle, onnx and onnx_ir."""
    absent = "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnxscript', 'onnxruntime', 'transformers')))"
    work = f"from florence_convert.lowering import lower; lower('tabletop', {str(tmp_path)!r}, precision='fp32')"
    done = subprocess.run(
        [sys.executable, "-c", f"{absent}; {work}"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    for part in lowered.parts:
        for path in (part.runnable, part.tensorrt):
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_files_may_have_several_hard_links(bundle: Bundle, lowered: Lowered, tmp_path: Path) -> None:
    """As `cp -l`, package caches and image stores make them."""
    shutil.copytree(bundle.folder, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", tmp_path / "linked", copy_function=os.link)
    again = lower(tmp_path / "linked", tmp_path / "graphs", precision="fp32")
    assert (again.folder / "weights.bin").read_bytes() == (lowered.folder / "weights.bin").read_bytes()


@pytest.mark.slow
def test_padded_windows_and_heads_of_64(tmp_path: Path) -> None:
    """A random model whose maps are no multiples of the window, from its bundle."""
    bundle = kernel_engines().bundle
    model = LoweredModel(lower(bundle, tmp_path, precision="fp32"))
    assert model.lowered.vision.plugins == {"FlorenceWindowAttention": 5, "FlorenceChannelAttention": 5}
    check_decoder_steps(bundle, model, check_vision_and_encoder(bundle, model), length=12)
    check_searches(bundle, model)


@pytest.mark.slow
def test_a_checkpoint_is_converted_first(tmp_path: Path) -> None:
    lowered = lower(kernel_engines().checkpoint, tmp_path, precision="fp16")
    assert lowered.decoder.plugins == {"FlorenceDecoderSelfAttention": 2, "FlorenceDecoderCrossAttention": 2}
    assert np.isfinite(LoweredModel(lowered).features(np.zeros((1, 3, 64, 64), np.float32))).all()


@pytest.mark.slow
def test_logits_of_unused_tokens_are_suppressed_in_fp32() -> None:
    """The sum with the suppression follows the output projection, whatever type that has."""
    engines = kernel_engines()
    config = engines.config
    text = replace(config.text, decoder_layers=1, unused_tokens=(5, 9))
    florence = FlorenceModel(replace(config, text=text, image=engines.bundle.manifest.image)).eval()
    source = graph_sources(florence, graph_tables(florence.config))[2]
    traced = trace(source, opset=20)
    simplify(traced, source.table)
    manifest = replace(engines.bundle.manifest, graphs=graph_tables(florence.config))
    table = part_tables(manifest, "float16")["decoder"]
    lower_decoder(traced.graph, table)
    set_precision(traced.graph, table, "float16")
    (suppression,) = (node for node in traced.graph if node.outputs[0].name == "logits")
    assert suppression.op_type == "Add"
    kinds = {value.dtype for value in (*suppression.inputs, *suppression.outputs) if value is not None}
    assert kinds == {ir.DataType.FLOAT}
    assert "Gemm" in {node.op_type for node in traced.graph}
    assert not {"Shape", "Concat"} & {node.op_type for node in traced.graph}


@pytest.mark.slow
def test_base_size(tmp_path: Path) -> None:
    """The published dimensions, on pictures small enough for a test; 12 blocks of two attentions, 6 decoder layers."""
    write_published(tmp_path / "checkpoint", layout="native", size="base")
    small = ImageSize(width=320, height=256)
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", image_size=small, storage="fp16")
    model = LoweredModel(lower(bundle, tmp_path / "lowered", precision="fp32"))
    assert model.lowered.vision.plugins == {"FlorenceWindowAttention": 12, "FlorenceChannelAttention": 12}
    assert model.lowered.decoder.plugins == {"FlorenceDecoderSelfAttention": 6, "FlorenceDecoderCrossAttention": 6}
    check_decoder_steps(bundle, model, check_vision_and_encoder(bundle, model), length=4)
