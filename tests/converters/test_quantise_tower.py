"""What makes the vision tower leaner changes no number, but for the order of sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from florence_convert.quantise import bands
from florence_convert.quantise.heads import separate_heads
from florence_convert.quantise.layout import move_transposes
from florence_convert.weights import save_models
from support.bundles import tiny_bundle
from support.engines import tiny_engines


def features(model: ir.Model, folder: Path) -> np.ndarray:
    save_models(folder, [("vision.onnx", model)])
    session = onnxruntime.InferenceSession(folder / "vision.onnx")
    pixels = session.get_inputs()[0]
    (found,) = session.run(None, {pixels.name: noise(*pixels.shape[2:])})
    return np.asarray(found)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)


def towers() -> list[Path]:
    """One whose maps are multiples of the window, and one whose maps are filled up."""
    return [tiny_bundle() / "vision.onnx", tiny_engines().bundle.vision]


@pytest.mark.parametrize("tower", [0, 1], ids=["whole windows", "filled windows"])
@pytest.mark.parametrize("rewrite", [move_transposes, separate_heads, bands.cut_into_bands])
def test_the_same_numbers(
    rewrite: Callable[[ir.Graph], int], tower: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGEST", 1 << 12)
    path = towers()[tower]
    (before := tmp_path / "before").mkdir()
    (after := tmp_path / "after").mkdir()
    wanted = features(ir.load(path), before)
    model = ir.load(path)
    assert rewrite(model.graph) > 0
    RemoveUnusedNodesPass()(model)
    found = features(model, after)
    # Products of fewer rows or columns may be summed in another order.
    np.testing.assert_allclose(found, wanted, atol=0 if rewrite is move_transposes else 2e-5)


def test_bands_of_separate_heads_are_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "LARGEST", 1 << 12)
    wanted = features(ir.load(towers()[0]), tmp_path)
    model = ir.load(towers()[0])
    assert separate_heads(model.graph) > 0
    RemoveUnusedNodesPass()(model)
    assert bands.cut_into_bands(model.graph) > 0
    split = [node.name or "" for node in model.graph if node.op_type == "Split"]
    for part in ("spatial.attention.qkv", "channel.attention.qkv", "mlp.fc1"):
        assert any(part in name for name in split)
    assert any(node.op_type == "Sum" for node in model.graph)
    np.testing.assert_allclose(features(model, tmp_path), wanted, atol=2e-5)


def test_what_is_small_enough_is_left_alone() -> None:
    assert bands.cut_into_bands(ir.load(towers()[0]).graph) == 0
