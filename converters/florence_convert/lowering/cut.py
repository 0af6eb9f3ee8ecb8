"""Finding a module's place in a bundle's graph by the names of its weights, and putting a plugin node there.

A bundle's weights carry the names of the torch modules, so an attention is what lies between its input projections and
its output projection. What operators lie there is the exporter's business: they are checked to be a function of the
projections and of the inputs stated, and then fall away as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from florence_convert.weights import stored
from florence_edge.errors import BundleError
from florence_edge.geometry import AnyArray

from .functions import Plugin


def weight(graph: ir.Graph, name: str) -> ir.Value:
    """The weight of this name; `BundleError` where the graph has none."""
    if name not in graph.initializers:
        raise foreign(f"the graph has no weight {name}")
    return graph.initializers[name]


def reader(graph: ir.Graph, name: str) -> ir.Node:
    """The one node that reads a weight."""
    nodes = {use.node for use in weight(graph, name).uses()}
    if len(nodes) != 1:
        raise foreign(f"{len(nodes)} nodes read {name}, expected is one")
    return nodes.pop()


def producer(value: ir.Value | None) -> ir.Node:
    """The node that computes a value; `BundleError` for inputs and weights."""
    node = None if value is None else value.producer()
    if node is None:
        raise foreign(f"{value.name if value else 'nothing'} is not computed in the graph")
    return node


def projected(graph: ir.Graph, module: str) -> ir.Value:
    """The output of a linear layer, its bias added."""
    product = reader(graph, f"{module}.weight").outputs[0]
    bias = graph.initializers.get(f"{module}.bias")
    if bias is None:
        return product
    sums = [use.node for use in product.uses() if use.node.op_type == "Add" and bias in use.node.inputs]
    if len(sums) != 1:
        raise foreign(f"{len(sums)} nodes add {module}.bias to its product, expected is one")
    return sums[0].outputs[0]


@dataclass(frozen=True, eq=False)
class Attention:
    """A plugin node that takes the place of an attention."""

    plugin: Plugin
    inputs: Mapping[str, ir.Value]
    starts: Collection[ir.Value]
    """What the replaced operators may depend on, weights apart."""
    shape: ir.Shape
    """Of the node's output."""
    rows: tuple[int, ...]
    """The target of the Reshape that makes of it what the output projection reads."""
    attributes: Mapping[str, int | float] = field(default_factory=dict)


def replace_attention(graph: ir.Graph, out: str, attention: Attention) -> None:
    """Feeds the output projection `out` from a plugin node instead of from the operators before it."""
    product = reader(graph, f"{out}.weight")
    context = product.inputs[0]
    if context is None or context.shape is None:
        raise foreign(f"the input of {product.name} has no shape")
    _check_region(context, attention.starts, out)
    name = f"{out.rpartition('.')[0]}/{attention.plugin.name}"
    node = attention.plugin.node(attention.inputs, attention.attributes, name=name, shape=attention.shape)
    result = insert(graph, node, before=product)
    flat = reshaped(graph, result, target=attention.rows, shape=context.shape, before=product, name=f"{name}.out")
    product.replace_input_with(0, flat)


def reshaped(
    graph: ir.Graph, value: ir.Value, *, target: Sequence[int], shape: ir.Shape, before: ir.Node, name: str
) -> ir.Value:
    """`value` in another shape, through a Reshape with a constant target (0 keeps a size, -1 infers one)."""
    node = ir.node("Reshape", [value, constant(graph, np.asarray(target, np.int64))], name=f"{name}/Reshape")
    return insert(graph, typed(node, value.dtype, shape), before=before)


def typed(node: ir.Node, dtype: ir.DataType | None, shape: ir.Shape | None) -> ir.Node:
    """The node, its one output given type and shape."""
    if dtype is None:
        raise foreign(f"what {node.name} reads has no type")
    node.outputs[0].dtype, node.outputs[0].shape = dtype, shape
    return node


def insert(graph: ir.Graph, node: ir.Node, *, before: ir.Node) -> ir.Value:
    """Puts a node with one output into the graph and returns that output, named after the node."""
    node.outputs[0].name = node.name
    graph.insert_before(before, node)
    return node.outputs[0]


def constant(graph: ir.Graph, array: AnyArray) -> ir.Value:
    """A small initializer with this content; equal ones are one."""
    name = f"constant.{array.dtype}.{'x'.join(map(str, array.flatten().tolist()))}"
    return graph.initializers[name] if name in graph.initializers else stored(graph, name, array)


def replace_inputs(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Makes `values` the inputs of the graph; nothing may read the old ones that are not among them."""
    kept = {value.name for value in values}
    for value in graph.inputs:
        if value.name not in kept and value.uses():
            raise foreign(f"{[use.node.name for use in value.uses()]} still read the input {value.name}")
    graph.inputs.clear()
    graph.inputs.extend(values)


def expand_stored(graph: ir.Graph) -> None:
    """Takes weights stored in fp16 behind a Cast, or in parts behind a Concat, as the fp32 weights they stand for."""
    for node in [node for node in graph if node.op_type in ("Cast", "Concat")]:
        parts = [value for value in node.inputs if value is not None]
        tensors = [value.const_value for value in parts if value.is_initializer() and value.const_value is not None]
        if len(tensors) < len(node.inputs):
            continue
        result = node.outputs[0]
        name = result.name or ""
        exact = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        exact.const_value = _joined(tensors, node, name)
        exact.shape = ir.Shape(exact.const_value.shape.numpy())
        result.replace_all_uses_with(exact)
        graph.remove(node, safe=True)
        result.name = None
        graph.register_initializer(exact)
        for value in parts:
            if not value.uses():
                del graph.initializers[value.name or ""]


def _joined(tensors: Sequence[ir.TensorProtocol], node: ir.Node, name: str) -> ir.TensorProtocol:
    """What a Cast or a Concat makes of stored tensors."""
    if node.op_type == "Cast":
        return converted(tensors[0], ir.DataType.FLOAT, name)
    axis = node.attributes["axis"].as_int()
    return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis), name=name)


def converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> ir.LazyTensor:
    """The same numbers rounded to another type, when they are read; `BundleError` where the type cannot hold them."""

    def read() -> ir.TensorProtocol:
        exact = tensor.numpy()
        with np.errstate(over="ignore"):  # what overflows is refused, with more than a warning
            rounded = exact.astype(dtype.numpy())
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise BundleError(
                f"{name} has values up to {np.abs(exact).max():g}, which {dtype.name.lower()} cannot hold; lower this "
                "part in bf16 or fp32"
            )
        return ir.tensor(rounded, name=name)

    return ir.LazyTensor(read, dtype=dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def remove_unused(graph: ir.Graph) -> None:
    """Removes nodes and weights that nothing reads any more."""
    kept = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value.uses() or value in kept for value in node.outputs):
            graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _check_region(context: ir.Value, starts: Collection[ir.Value], out: str) -> None:
    """Refuses unless `context` is computed from `starts` and constants, with one Softmax on the way."""
    softmaxes = sum(node.op_type == "Softmax" for node in _region(context, starts, out))
    if softmaxes != 1:
        raise foreign(f"{softmaxes} Softmax operators lie before {out}, expected is one")


def _region(context: ir.Value, starts: Collection[ir.Value], out: str) -> Iterator[ir.Node]:
    """The nodes between `starts` and `context`, each once."""
    known = set(starts)
    waiting, seen = [context], set[ir.Node]()
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if value in known or value.is_initializer() or node in seen:
            continue
        if node is None:
            raise foreign(f"the attention before {out} depends on {value.name}")
        seen.add(node)
        yield node
        waiting.extend(value for value in node.inputs if value is not None)


def foreign(fault: str) -> BundleError:
    """The error for a graph that was not made the way this module expects."""
    return BundleError(
        f"the bundle's graphs are not such as this florence-edge converts, so they cannot be lowered: {fault}; convert "
        "the checkpoint again with this version"
    )
