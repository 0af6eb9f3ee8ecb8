"""Products with stored weights, and the numbers stored in a graph.

Works on `onnx_ir` graphs as `simplify` leaves them: `MatMul(x, weight [K, N])`, with an `Add` of a bias behind most of
them. What takes a product's place is the business of those who look for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from florence_edge.geometry import Float32Array

from .weights import stored


class Product(NamedTuple):
    """A product with a stored weight [K, N], and the bias added to it where there is one."""

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    last: ir.Node
    """The Add, or the product itself."""


def products(graph: ir.Graph) -> list[Product]:
    """All products with a stored weight of two axes that nothing else reads."""
    found = []
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or weight.const_value is None or len(weight.shape or ()) != 2 or len(weight.uses()) > 1:
            continue
        added = _bias_behind(node)
        found.append(Product(node, weight, *added) if added else Product(node, weight, None, node))
    return found


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, None where there are several or none."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 else None


def stored_ids(graph: ir.Graph, name: str, values: Sequence[int]) -> ir.Value:
    """A shape, or other whole numbers, as an initializer; one that is already there is used again."""
    return graph.initializers.get(name) or stored(graph, name, np.asarray(values, np.int64))


def numbers(value: ir.Value | None) -> list[int]:
    """A stored shape or index, empty where it is not stored."""
    return [] if value is None or value.const_value is None else [int(n) for n in value.const_value.numpy().reshape(-1)]


def _bias_behind(product: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """The stored bias that the only reader of a product adds to it."""
    add = only_reader(product.outputs[0])
    if add is None or add.op_type != "Add" or product.outputs[0].is_graph_output():
        return None
    for value in add.inputs:
        if value is not None and value.is_initializer() and len(value.shape or ()) == 1:
            return value, add
    return None


def array_of(value: ir.Value) -> Float32Array:
    """A stored weight."""
    assert value.const_value is not None, f"{value.name} is no stored weight"
    return np.asarray(value.const_value.numpy(), np.float32)
