"""What makes the vision tower leaner changes no number, but for the order of sums, and can be had without."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from florence_convert.lowering.cut import expand_stored
from florence_convert.storage import store_half
from florence_convert.tower import bands
from florence_convert.tower.heads import separate_heads
from florence_convert.tower.layout import move_transposes
from florence_convert.tower.plain import PLAIN, arrange, load_plain, plain_path
from florence_convert.weights import save_models
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from support.bundles import tiny_bundle
from support.engines import tiny_engines

TOLERANCE = 2e-5
"""Products of fewer rows or columns may be summed in another order."""


def features(model: ir.Model, folder: Path, *, batch: int = 1) -> np.ndarray:
    save_models(folder, [("vision.onnx", model)])
    session = onnxruntime.InferenceSession(folder / "vision.onnx")
    pixels = session.get_inputs()[0]
    (found,) = session.run(None, {pixels.name: noise(batch, *pixels.shape[2:])})
    return np.asarray(found)


def noise(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 3, height, width)).astype(np.float32)


def towers() -> list[Bundle]:
    """One whose maps are multiples of the window, and one whose maps are filled up."""
    return [Bundle.open(tiny_bundle()), tiny_engines().bundle]


def plain(tower: int) -> ir.Model:
    model = load_plain(towers()[tower], "vision")
    expand_stored(model.graph)
    return model


each_tower = pytest.mark.parametrize("tower", [0, 1], ids=["whole windows", "filled windows"])


@each_tower
@pytest.mark.parametrize("rewrite", [move_transposes, separate_heads, bands.cut_into_bands])
def test_the_same_numbers(
    rewrite: Callable[[ir.Graph], int], tower: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGEST", 1 << 12)
    wanted = features(plain(tower), tmp_path)
    model = plain(tower)
    assert rewrite(model.graph) > 0
    RemoveUnusedNodesPass()(model)
    np.testing.assert_allclose(
        features(model, tmp_path), wanted, atol=0 if rewrite is move_transposes else TOLERANCE, rtol=0
    )


@each_tower
def test_a_batch_is_arranged_as_one_image_is(tower: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "LARGEST", 1 << 12)
    wanted = features(plain(tower), tmp_path, batch=3)
    model = plain(tower)
    arrange(model)
    split = [node.name or "" for node in model.graph if node.op_type == "Split"]
    cut = (
        ["channel.attention.qkv", "mlp.fc1"] if tower else ["spatial.attention.qkv", "channel.attention.qkv", "mlp.fc1"]
    )
    for part in cut:
        assert any(part in name for name in split)
    assert any(node.op_type == "Sum" for node in model.graph)
    together = features(model, tmp_path, batch=3)
    np.testing.assert_allclose(together, wanted, atol=TOLERANCE, rtol=0)


def test_what_is_small_enough_is_left_alone() -> None:
    assert bands.cut_into_bands(plain(0).graph) == 0


@pytest.mark.parametrize("half", [False, True])
def test_the_plain_graph_holds_every_weight_whole_once_it_is_expanded(half: bool, tmp_path: Path) -> None:
    model = plain(0)
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    if half:
        before = {name: array.astype(np.float16).astype(array.dtype) for name, array in before.items()}
        for name, value in model.graph.initializers.items():
            value.const_value = ir.tensor(before[name], name=name)
    kept = arrange(model)
    for graph in (model.graph, kept.graph):
        if half:
            store_half(graph)
    save_models(tmp_path, [("vision.onnx", model), (PLAIN, kept)])
    found = ir.load(tmp_path / PLAIN)
    expand_stored(found.graph)
    assert [node.op_type for node in found.graph] == [node.op_type for node in plain(0).graph]
    after = {name: value.const_value.numpy() for name, value in found.graph.initializers.items() if value.const_value}
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name])


def test_both_forms_lie_in_a_bundle_and_share_their_weights() -> None:
    bundle = towers()[0]
    session = onnxruntime.InferenceSession(bundle.path(PLAIN))
    pixels = noise(2, *session.get_inputs()[0].shape[2:])
    wanted, found = (
        onnxruntime.InferenceSession(path).run(None, {"pixels": pixels})[0]
        for path in (bundle.path(PLAIN), bundle.vision)
    )
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)
    assert plain_path(bundle, "encoder") == bundle.encoder


def test_weights_are_read_from_files_of_the_bundle_alone(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(towers()[0].folder, tmp_path / "bundle"))
    graph = folder / "encoder.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"weights.bin", b"../abcd.bin"))
    with pytest.raises(BundleError, match=r"'\.\./abcd\.bin' is no file of .*/bundle"):
        load_plain(Bundle(folder, towers()[0].manifest), "encoder")
