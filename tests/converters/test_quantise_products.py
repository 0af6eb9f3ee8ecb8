"""INT8 products against the same sums in fp64: errors within what the steps of the scales allow, and rows apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from florence_convert.lowering.cut import expand_stored
from florence_convert.products import products
from florence_convert.quantise.embedding import quantise_embedding
from florence_convert.quantise.products import Scheme, block_of, blockwise, dynamic, quantise_rows, replace
from florence_convert.storage import store_half

ROWS, WIDTH, COLUMNS = 5, 64, 48


def value(name: str, shape: Sequence[int | str], dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def weight(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    stored = value(name, array.shape)
    stored.const_value = ir.tensor(array, name=name)
    graph.register_initializer(stored)
    return stored


def linear(matrix: np.ndarray, bias: np.ndarray | None) -> ir.Model:
    """x [B, K] times the matrix, plus the bias where there is one."""
    x = value("x", ["B", len(matrix)])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="linear")
    node = ir.node("MatMul", [x, weight(graph, "w", matrix)], name="fc/MatMul")
    graph.append(node)
    if bias is not None:
        node = ir.node("Add", [node.outputs[0], weight(graph, "b", bias)], name="fc/Add")
        graph.append(node)
    result = node.outputs[0]
    result.name, result.shape, result.type = "y", ir.Shape(["B", matrix.shape[1]]), x.type
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(model).SerializeToString())
    (y,) = session.run(None, inputs)
    return np.asarray(y)


def quantised(model: ir.Model, scheme: Scheme) -> list[str]:
    for product in products(model.graph):
        node = scheme(model.graph, product)
        assert node is not None
        replace(model.graph, product, node)
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("scheme", "operator"), [(dynamic, "DynamicQuantizeMatMul"), (blockwise, "MatMulNBits")])
def test_a_product_is_one_operator_and_right_within_its_steps(scheme: Scheme, operator: str, with_bias: bool) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32) * rng.uniform(0.01, 2, COLUMNS).astype(np.float32)
    bias = rng.normal(size=COLUMNS).astype(np.float32) if with_bias else None
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    exact = x.astype(np.float64) @ matrix + (0 if bias is None else bias)
    model = linear(matrix, bias)
    assert quantised(model, scheme) == [operator]
    assert {v.dtype for v in model.graph.initializers.values() if len(v.shape or ()) > 1} <= {
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.FLOAT,
    }
    # Half a step for every weight and every activation: 63 levels a side for weights, 255 over the range of x.
    weight_step = np.abs(matrix).max(axis=0) / 63
    x_step = (x.max() - min(x.min(), 0)) / 255
    bound = weight_step / 2 * np.abs(x).sum(axis=1)[:, None] + x_step * np.abs(matrix).sum(axis=0) + 1e-3
    error = np.abs(run(model, x=x) - exact)
    assert (error <= bound).all()
    assert error.max() > 0


def test_blockwise_rows_do_not_depend_on_each_other_and_dynamic_ones_do() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(WIDTH, COLUMNS)).astype(np.float32)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    loud = np.concatenate([x, 50 * x[:1]])
    same = {}
    for scheme in (dynamic, blockwise):
        model = linear(matrix, None)
        quantised(model, scheme)
        same[scheme] = np.array_equal(run(model, x=x), run(model, x=loud)[:ROWS])
    assert same == {dynamic: False, blockwise: True}


def test_levels_and_scales_give_the_weights_back_and_zeros_stay_zero() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(7, WIDTH)).astype(np.float32)
    rows[2] = 0
    levels, scales = quantise_rows(rows, 32)
    assert levels.shape == (7, 2, 32)
    assert levels.min() >= 1, "the range is symmetric: -127 to 127 around 128"
    again = (levels.astype(np.float64) - 128) * scales[..., None]
    assert np.abs(again.reshape(rows.shape) - rows).max() <= (scales / 2).max() * (1 + 1e-6)
    assert (again[2] == 0).all()


@pytest.mark.parametrize(("width", "block"), [(768, 128), (64, 64), (96, 32), (48, 16), (20, None)])
def test_a_block_divides_the_row(width: int, block: int | None) -> None:
    assert block_of(width) == block


def test_products_of_two_activations_and_shared_weights_are_left_alone() -> None:
    model = linear(np.eye(WIDTH, dtype=np.float32), None)
    graph = model.graph
    x, stored = graph.inputs[0], graph.initializers["w"]
    graph.append(ir.node("MatMul", [x, x]))
    assert len(products(graph)) == 1
    graph.append(ir.node("MatMul", [x, stored]))
    assert products(graph) == []


def test_the_embedding_is_one_table_for_rows_and_logits() -> None:
    rng = np.random.default_rng(6)
    table = rng.normal(size=(90, WIDTH)).astype(np.float32)
    ids = value("ids", ["B", "T"], ir.DataType.INT64)
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 20}, name="tied")
    stored = weight(graph, "embedding.weight", table)
    rows = ir.node("Gather", [stored, ids], name="embedding/Gather")
    rows.outputs[0].shape, rows.outputs[0].type = ir.Shape(["B", "T", WIDTH]), stored.type
    shape = ir.Value(name="s", const_value=ir.tensor(np.asarray([-1, WIDTH]), name="s"))
    graph.register_initializer(shape)
    flat = ir.node("Reshape", [rows.outputs[0], shape])
    logits = ir.node("Gemm", [flat.outputs[0], stored], {"transB": 1}, name="head/Gemm")
    graph.extend([rows, flat, logits])
    result = logits.outputs[0]
    result.name, result.shape, result.type = "y", ir.Shape(["N", 90]), stored.type
    graph.outputs.append(result)
    assert quantise_embedding(graph, stored)
    tables = [v for v in graph.initializers.values() if v.dtype is ir.DataType.UINT8]
    assert [v.name for v in tables] == ["embedding.weight.int8"]
    assert {use.node.op_type for use in tables[0].uses()} == {"Gather", "MatMulNBits"}
    asked = np.asarray([[3, 89, 0]])
    found = run(ir.Model(graph, ir_version=10), ids=asked)
    exact = table[asked[0]].astype(np.float64) @ table.T
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()
    assert (found.argmax(axis=1) == asked[0]).all()


def test_weights_stored_in_half_the_bytes_are_found_too() -> None:
    matrix = np.random.default_rng(7).normal(size=(WIDTH, COLUMNS)).astype(np.float16).astype(np.float32)
    model = linear(matrix, None)
    store_half(model.graph)
    assert products(model.graph) == []
    expand_stored(model.graph)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    (product,) = products(model.graph)
    assert product.weight.const_value is not None
    np.testing.assert_array_equal(product.weight.const_value.numpy(), matrix)
