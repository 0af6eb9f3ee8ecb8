from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from florence_convert.export import export_bundle
from florence_convert.storage import round_weights, store_half
from florence_edge.bundle import Bundle
from florence_edge.errors import CheckpointError
from florence_train.tiny import write_tiny_checkpoint
from support.bundles import make_tiny_bundle


def _model(weights: list[np.ndarray]) -> ir.Model:
    """x [1, n] through a chain of products with the weights."""
    value = ir.Value(name="x", shape=ir.Shape([1, weights[0].shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([value], [], nodes=[], opset_imports={"": 20}, name="chain")
    for index, weight in enumerate(weights):
        stored = ir.Value(
            name=f"w{index}",
            shape=ir.Shape(weight.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(weight, name=f"w{index}"),
        )
        graph.register_initializer(stored)
        node = ir.node("MatMul", inputs=[value, stored], name=f"product{index}")
        graph.append(node)
        value = node.outputs[0]
    value.name, value.shape, value.dtype = "y", ir.Shape([1, weights[-1].shape[1]]), ir.DataType.FLOAT
    graph.outputs.append(value)
    return ir.Model(graph, ir_version=10)


def _run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def test_halved_weights_compute_the_same_bits_and_inexact_ones_stay() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(32, 32)).astype(np.float16).astype(np.float32)
    inexact = rng.normal(size=(32, 16)).astype(np.float32)
    small = np.ones((16, 4), np.float32)
    x = rng.normal(size=(1, 32)).astype(np.float32)
    model = _model([exact, inexact, small])
    wanted = _run(model, x)
    store_half(model.graph)
    kinds = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert kinds == {"w0.fp16": ir.DataType.FLOAT16, "w1": ir.DataType.FLOAT, "w2": ir.DataType.FLOAT}
    np.testing.assert_array_equal(_run(model, x), wanted)


def test_rounding_changes_weights_to_their_nearest_fp16_number_and_leaves_integers() -> None:
    layer = nn.Linear(4, 4)
    layer.register_buffer("count", torch.tensor(70000))
    before = layer.weight.detach().clone()
    round_weights(layer)
    assert torch.equal(layer.weight, before.half().float())
    assert layer.get_buffer("count") == 70000


def test_a_weight_past_the_range_of_fp16_is_refused_by_name() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight[0, 0] = 70000
    with pytest.raises(CheckpointError, match="weight has values up to 70000"):
        round_weights(layer)


@pytest.mark.slow
def test_a_bundle_in_fp16_is_half_as_large_and_answers_as_the_rounded_model(tmp_path: Path) -> None:
    whole = Bundle.open(make_tiny_bundle(tmp_path / "fp32"))
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint")
    half = export_bundle(checkpoint, tmp_path / "fp16", storage="fp16")
    sizes = [bundle.manifest.files["weights.bin"].bytes for bundle in (whole, half)]
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    assert half.manifest.storage == "fp16"
    assert half.manifest.parity is not None
    assert set(half.manifest.parity.identical.values()) == {half.manifest.parity.pairs}
