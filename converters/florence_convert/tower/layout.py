"""Channels-last convolutions, as ONNX Runtime likes them: the same numbers with half the copies.

The tower's tokens are [B, H * W, C] and its convolutions want [B, C, H, W]. Written as a transpose of four axes right
beside the convolution, the change of layout becomes a part of the one that ONNX Runtime makes for its own blocked
convolutions anyway; as a transpose of three axes and a Reshape, it is one more pass over the feature map.
"""

from __future__ import annotations

import onnx_ir as ir

from florence_convert.products import only_reader, stored_ids

_SWAP, _TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 2, 1], [0, 3, 1, 2], [0, 2, 3, 1]


def move_transposes(graph: ir.Graph) -> int:
    """Rewrites the changes of layout around convolutions; returns how many."""
    moved = 0
    for node in [node for node in graph if node.op_type == "Conv"]:
        moved += _before(graph, node) + _behind(graph, node)
    return moved


def _before(graph: ir.Graph, conv: ir.Node) -> bool:
    """tokens -> Transpose -> Reshape -> Conv becomes tokens -> Reshape -> Transpose -> Conv."""
    spread = conv.inputs[0].producer() if conv.inputs[0] is not None else None
    if spread is None or spread.op_type != "Reshape" or spread.inputs[0] is None:
        return False
    swap = spread.inputs[0].producer()
    mapped = spread.outputs[0]
    if swap is None or not _swaps(swap) or mapped.shape is None or len(mapped.uses()) > 1:
        return False
    batch, channels, height, width = mapped.shape
    shape = stored_ids(graph, f"{conv.name}.channels_last", [0, int(height), int(width), int(channels)])  # type: ignore[arg-type]  # whole numbers
    last = _typed(ir.node("Reshape", [swap.inputs[0], shape]), [batch, height, width, channels], mapped)
    first = _typed(ir.node("Transpose", last.outputs, {"perm": _TO_CHANNELS_FIRST}), mapped.shape, mapped)
    _insert(graph, conv, last, first)
    conv.replace_input_with(0, first.outputs[0])
    _remove_unused(graph, spread, swap)
    return True


def _behind(graph: ir.Graph, conv: ir.Node) -> bool:
    """Conv -> Reshape -> Transpose -> tokens becomes Conv -> Transpose -> Reshape -> tokens."""
    mapped = conv.outputs[0]
    flat = only_reader(mapped)
    swap = only_reader(flat.outputs[0]) if flat is not None and flat.op_type == "Reshape" else None
    if flat is None or swap is None or not _swaps(swap) or mapped.shape is None:
        return False
    batch, channels, height, width = mapped.shape
    shape = stored_ids(graph, f"{conv.name}.tokens", [0, int(height) * int(width), int(channels)])  # type: ignore[arg-type]  # whole numbers
    turned = ir.node("Transpose", [mapped], {"perm": _TO_CHANNELS_LAST})
    last = _typed(turned, [batch, height, width, channels], mapped)
    tokens = swap.outputs[0]
    rows = _typed(ir.node("Reshape", [last.outputs[0], shape]), tokens.shape or [], mapped)
    _insert(graph, swap, last, rows)
    ir.convenience.replace_all_uses_with(tokens, rows.outputs[0])
    _remove_unused(graph, swap, flat)
    return True


def _swaps(node: ir.Node) -> bool:
    return node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == _SWAP


def _typed(node: ir.Node, shape: ir.Shape | list[int | ir.SymbolicDim], like: ir.Value) -> ir.Node:
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), like.type
    return node


def _insert(graph: ir.Graph, place: ir.Node, *nodes: ir.Node) -> None:
    for number, node in enumerate(nodes):
        node.name = f"{place.name}/{node.op_type}.layout{number}"
    graph.insert_before(place, nodes)


def _remove_unused(graph: ir.Graph, *nodes: ir.Node) -> None:
    """Removes nodes, readers first, that nobody reads any more."""
    for node in nodes:
        if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
