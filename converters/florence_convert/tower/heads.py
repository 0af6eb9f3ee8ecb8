"""Queries, keys and values as three products instead of one that is taken apart afterwards.

The exported tower computes qkv [B, N, 3 * C] at once, changes its layout and picks the three parts out of the result:
three copies of the widest tensors there are. Three products with a third of the weight each give the same numbers and
leave two of the copies, and two thirds of their memory, out.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx_ir as ir

from florence_convert.products import Product, array_of, numbers, only_reader, products, stored_ids
from florence_convert.weights import stored

_PARTS = 3


def separate_heads(graph: ir.Graph) -> int:
    """Rewrites every qkv product whose parts are picked out of a transposed result; returns how many."""
    return sum(_separate(graph, product) for product in products(graph))


def part_names(product: Product, operator: str) -> list[str]:
    """Names of the three parts of a product's weight (`operator` "MatMul") or bias ("Add")."""
    return [f"{product.node.name}.{part}.{operator}" for part in range(_PARTS)]


def _separate(graph: ir.Graph, product: Product) -> bool:
    """product -> Reshape with an axis of 3 -> Transpose, that axis first [-> Reshape] -> picks becomes three chains."""
    path = _path(product.last)
    if path is None:
        return False
    spread, turn, merge = path
    target, order = numbers(spread.inputs[1]), [int(axis) for axis in turn.attributes["perm"].as_ints()]
    picked = [_pick(use.node) for use in (merge or turn).outputs[0].uses()]
    picks = {part: value for found in picked if found is not None for part, value in [found]}
    if order[0] >= len(target) or target[order[0]] != _PARTS or sorted(picks) != list(range(_PARTS)):
        return False
    shape = stored_ids(graph, f"{spread.name}.part", target[: order[0]] + target[order[0] + 1 :])
    perm = [axis - (axis > order[0]) for axis in order[1:]]
    for part, value in picks.items():
        nodes = [*_projection(graph, product, part), ir.node("Reshape", [None, shape], {"allowzero": 1})]
        nodes.append(ir.node("Transpose", [None], {"perm": perm}))
        if merge is not None:
            merged = stored_ids(graph, f"{merge.name}.part", numbers(merge.inputs[1])[1:])
            nodes.append(ir.node("Reshape", [None, merged], {"allowzero": 1}))
        for number, (before, node) in enumerate(pairwise(nodes)):
            node.replace_input_with(0, before.outputs[0])
            node.name = f"{spread.name}.{part}.{number}"
        nodes[-1].outputs[0].shape, nodes[-1].outputs[0].type = value.shape, value.type
        graph.insert_before(spread, nodes)
        ir.convenience.replace_all_uses_with(value, nodes[-1].outputs[0])
    return True


def _path(last: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node | None] | None:
    """The Reshape and the Transpose behind a product, and a Reshape behind those."""
    nodes = [last]
    while len(nodes) <= _PARTS and (reader := only_reader(nodes[-1].outputs[0])) is not None:
        nodes.append(reader)
    kinds = [node.op_type for node in nodes[1:]]
    if kinds[:2] != ["Reshape", "Transpose"]:
        return None
    return nodes[1], nodes[2], nodes[3] if kinds[2:] == ["Reshape"] else None


def _pick(node: ir.Node) -> tuple[int, ir.Value] | None:
    """Which entry of the first axis a node picks, and what comes out: a Gather, or a Slice with its Squeeze."""
    if node.op_type == "Gather" and (index := numbers(node.inputs[1])):
        return index[0], node.outputs[0]
    squeeze = only_reader(node.outputs[0])
    if node.op_type == "Slice" and squeeze is not None and squeeze.op_type == "Squeeze":
        start, stop, axes = (numbers(value) for value in node.inputs[1:4])
        return (start[0], squeeze.outputs[0]) if axes == [0] and stop[0] == start[0] + 1 else None
    return None


def _projection(graph: ir.Graph, product: Product, part: int) -> list[ir.Node]:
    """The product with one third of the weight, and its bias."""
    nodes: list[ir.Node] = []
    for value, operator in ((product.weight, "MatMul"), (product.bias, "Add")):
        if value is not None:
            third = np.split(array_of(value), _PARTS, axis=-1)[part]
            inputs = [
                nodes[-1].outputs[0] if nodes else product.node.inputs[0],
                stored(graph, part_names(product, operator)[part], third),
            ]
            node = ir.node(operator, inputs, name=f"{product.node.name}.{part}/{operator}")
            shape = list(product.last.outputs[0].shape or ())
            node.outputs[0].shape, node.outputs[0].type = ir.Shape([*shape[:-1], third.shape[-1]]), value.type
            nodes.append(node)
    return nodes
