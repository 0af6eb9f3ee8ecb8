"""Clean-up of exported graphs: plain names, constant shapes, one copy of the tied embedding, no trace of the machine.

Works on `onnx_ir` models. Every pass keeps the values that a graph computes; `simplify` runs them in order.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from onnxscript import optimizer

from florence_edge.manifest import Graph

from .weights import stored

PREFIX = "model."
"""Where the wrappers of `graphs` keep the model; weights are named from there on."""

FOLDED_UP_TO = 1024
"""Most elements of a constant that is computed while converting; storing larger ones costs more than it saves."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def simplify(model: ir.Model, table: Graph) -> None:
    """Makes an exported model lean and reproducible, in place; its inputs and outputs become those of the table."""
    name_weights(model.graph)
    transpose_weights(model.graph)
    optimizer.optimize_ir(model, output_size_limit=FOLDED_UP_TO)
    rename_dims(model.graph, table)
    constant_reshapes(model.graph)
    project_with_tied_weight(model.graph)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    name_nodes(model.graph)
    strip(model)


def name_weights(graph: ir.Graph) -> None:
    """Gives every weight the name it has in the torch model."""
    for value in list(graph.initializers.values()):
        if value.name is not None and value.name.startswith(PREFIX):
            value.name = value.name.removeprefix(PREFIX)


def transpose_weights(graph: ir.Graph) -> None:
    """Stores weights the way their product reads them, unless something else reads them too.

    torch keeps a linear layer's weight as [out, in], MatMul wants [in, out]. Transposing here, lazily, keeps the
    layer's name on the weight and spares every session that opens the graph the work.
    """
    for node in [node for node in graph if node.op_type == "Transpose"]:
        weight, result = node.inputs[0], node.outputs[0]
        if weight is None or weight.const_value is None or not weight.is_initializer() or len(weight.uses()) > 1:
            continue
        turned = _transposed(weight.const_value, node.attributes["perm"].as_ints())
        ir.convenience.replace_all_uses_with(result, weight)
        graph.remove(node, safe=True)
        weight.const_value, weight.shape = turned, ir.Shape(turned.shape)


def _transposed(tensor: ir.TensorProtocol, order: Sequence[int]) -> ir.LazyTensor:
    """A tensor with its axes reordered when it is read."""
    sizes = [int(dim) for dim in tensor.shape]  # type: ignore[arg-type]  # a stored tensor has integer sizes
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(order)), name=tensor.name),
        dtype=tensor.dtype,
        shape=ir.Shape([sizes[axis] for axis in order]),
        name=tensor.name,
    )


def rename_dims(graph: ir.Graph, table: Graph) -> None:
    """Replaces expressions such as `T + 577` by the letter the table has for them, in every shape of the graph."""
    letters = {}
    for value, tensor in zip(graph.outputs, table.outputs, strict=True):
        for found, wanted in zip(value.shape or (), tensor.shape, strict=True):
            if isinstance(wanted, str):
                letters[str(found)] = wanted
    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([letters.get(str(dim), dim) for dim in value.shape])


def constant_reshapes(graph: ir.Graph) -> None:
    """Gives Reshape a constant shape (0 keeps a size, -1 infers one) wherever one says the same as the computed one."""
    for node in [node for node in graph if node.op_type == "Reshape"]:
        data, target, result = node.inputs[0], node.inputs[1], node.outputs[0]
        if data is None or target is None or target.const_value is not None or None in (data.shape, result.shape):
            continue
        shape = _reshape_target(list(data.shape or ()), list(result.shape or ()))
        if shape is None:
            continue
        node.replace_input_with(1, stored(graph, f"{result.name}.shape", np.asarray(shape, np.int64)))
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _reshape_target(before: list[int | ir.SymbolicDim], after: list[int | ir.SymbolicDim]) -> list[int] | None:
    """The constant that turns one shape into the other, or None when two sizes would have to be inferred."""
    target = []
    for axis, dim in enumerate(after):
        if isinstance(dim, int):
            target.append(dim)
        elif axis < len(before) and before[axis] == dim:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def project_with_tied_weight(graph: ir.Graph) -> None:
    """Reads the output projection from the embedding as it is stored, [V, D], through a Gemm that transposes it.

    A Transpose in the graph would be folded by every session that opens it, into a second copy of the largest weight.
    """
    for turn in [node for node in graph if node.op_type == "Transpose"]:
        weight = turn.inputs[0]
        products = [use.node for use in turn.outputs[0].uses()]
        if weight is None or not weight.is_initializer() or [node.op_type for node in products] != ["MatMul"]:
            continue
        _replace_by_gemm(graph, products[0], weight)


def _replace_by_gemm(graph: ir.Graph, product: ir.Node, weight: ir.Value) -> None:
    """hidden [B, K, D] @ weight^T as Reshape -> Gemm -> Reshape to [B, K, V]."""
    hidden, logits = product.inputs[0], product.outputs[0]
    assert hidden is not None
    assert hidden.shape is not None
    assert logits.shape is not None
    rows, width, classes = ir.SymbolicDim("B*K"), hidden.shape[-1], logits.shape[-1]
    one_row_each = stored(graph, "head.rows", np.asarray([-1, width], np.int64))
    flat = _node("Reshape", [hidden, one_row_each], ir.Shape([rows, width]))
    gemm = _node("Gemm", [flat, weight], ir.Shape([rows, classes]), transB=1)
    size = _node("Shape", [hidden], ir.Shape([2]), ir.DataType.INT64, start=0, end=2)
    last = stored(graph, "head.classes", np.asarray([classes], np.int64))
    shape = _node("Concat", [size, last], ir.Shape([3]), ir.DataType.INT64, axis=0)
    unflat = _node("Reshape", [gemm, shape], logits.shape)
    nodes = [node for value in (flat, gemm, size, shape, unflat) if (node := value.producer()) is not None]
    for node in nodes:
        node.metadata_props.update(product.metadata_props)
    graph.insert_before(product, nodes)
    ir.convenience.replace_all_uses_with(logits, unflat, replace_graph_outputs=True)
    unflat.name = logits.name
    graph.remove(product, safe=True)


def _node(
    kind: str, inputs: Sequence[ir.Value], shape: ir.Shape, dtype: ir.DataType = ir.DataType.FLOAT, **attributes: int
) -> ir.Value:
    """The output of a new node."""
    node = ir.node(kind, inputs=inputs, attributes=attributes)
    node.outputs[0].shape, node.outputs[0].dtype = shape, dtype
    return node.outputs[0]


def name_nodes(graph: ir.Graph) -> None:
    """Names nodes by the module they come from, as `decoder.layers.0.mlp.fc1/MatMul`, for profiles and viewers."""
    seen: Counter[str] = Counter()
    last = ""
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))
        named = [scope for scope in scopes[:-1] if scope.startswith(PREFIX)]
        # What a module does between its submodules may carry no scope of its own; it belongs to the last one's parent.
        last = named[-1].removeprefix(PREFIX) if named else last
        module = last if named else last.rpartition(".")[0]
        name = f"{module}/{node.op_type}" if module else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"


def strip(model: ir.Model) -> None:
    """Removes what tells of the machine and the code that exported the model: stack traces, paths, notes."""
    graph = model.graph
    for holder in (model, graph, *graph, *_values(graph)):
        holder.metadata_props.clear()
        holder.doc_string = None


def _values(graph: ir.Graph) -> list[ir.Value]:
    """Every value of a graph once: inputs, weights, results."""
    results = (value for node in graph for value in node.outputs)
    return list(dict.fromkeys([*graph.inputs, *graph.initializers.values(), *results]))
