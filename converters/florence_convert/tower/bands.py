"""The vision tower's widest parts, a band of the image at a time: what they need at once shrinks with the bands.

Windows do not see each other and the tokens of an MLP do not either, so that both can be computed band by band; the
channels of the other attention meet in a sum over all tokens, which is the sum of what the bands give. The first stage
alone has 36,864 tokens at 768 pixels. A band holds its part of every image, so that a batch is cut as one image is.
Besides, where products are quantised every band gets its own scale for its activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx_ir as ir

from florence_convert.products import stored_ids

from .laid import Laid, laid_out, target_of

LARGEST = 10 << 20
"""Bytes of fp32 that one band's widest result may have."""

PARTS = (
    ("spatial.attention.qkv", "spatial.attention.proj"),
    ("channel.attention.qkv", "channel.attention.proj"),
    ("mlp.fc1", "mlp.fc2"),
)
"""Names of the first products and of the last of what can be cut."""

_TOKENS = 1  # the axis of tokens in [B, N, C]


def cut_into_bands(graph: ir.Graph) -> int:
    """Cuts what is too wide; returns how many parts were cut."""
    cut = 0
    for last in list(graph):
        for begin, end in PARTS:
            module, found, _ = (last.name or "").partition(f"{end}/")
            first = [node for node in graph if (node.name or "").startswith(f"{module}{begin}/")] if found else []
            cut += bool(first) and _cut(graph, first, last)
    return cut


def _cut(graph: ir.Graph, first: Sequence[ir.Node], last: ir.Node) -> bool:
    """Replaces the nodes from those of `first` that read the same to `last` by copies for every band."""
    whole, result = first[0].inputs[0], last.outputs[0]
    nodes = _between(graph, [node for node in first if node.inputs[0] is whole], last)
    laid = laid_out(whole, nodes, axis=_TOKENS) if whole is not None else {}
    bands = _bands(laid)
    if whole is None or bands < 2:
        return False
    split = ir.node("Split", [whole], {"axis": _TOKENS, "num_outputs": bands}, num_outputs=bands)
    split.name = f"{first[0].name}/Split"
    graph.insert_before(nodes[0], split)
    parts: dict[ir.Value, Sequence[ir.Value]] = {whole: split.outputs}
    for node in nodes:
        if any(value in parts for value in node.inputs):
            copies = [_copy(graph, node, parts, band, laid) for band in range(bands)]
            graph.insert_before(node, copies)
            parts[node.outputs[0]] = [copy.outputs[0] for copy in copies]
            if laid[node.outputs[0]].axis is None:
                _join(graph, node, ir.node("Sum", parts.pop(node.outputs[0])))
                graph.remove(node, safe=True)
    _join(graph, last, ir.node("Concat", parts[result], {"axis": _TOKENS}))
    graph.remove([node for node in reversed(nodes) if laid[node.outputs[0]].axis is not None], safe=True)
    return True


def _join(graph: ir.Graph, node: ir.Node, join: ir.Node) -> None:
    """Puts what joins the results of a node's copies in the place of the node's own."""
    old, new = node.outputs[0], join.outputs[0]
    new.shape, new.type, join.name = old.shape, old.type, f"{node.name}/{join.op_type}"
    graph.insert_before(node, join)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def _between(graph: ir.Graph, first: Sequence[ir.Node], last: ir.Node) -> list[ir.Node]:
    """The nodes that depend on `first` and that `last` depends on, in order, both included."""
    behind = set(first)
    for node in graph:
        if any(value is not None and value.producer() in behind for value in node.inputs):
            behind.add(node)
    needed = {last}
    for node in reversed(graph):
        if any(use.node in needed for value in node.outputs for use in value.uses()):
            needed.add(node)
    return [node for node in graph if node in behind & needed]


def _bands(laid: Mapping[ir.Value, Laid]) -> int:
    """The fewest bands with which nothing is too wide; 1 where these nodes cannot be cut."""
    cut = [(value.shape, value.axis) for value in laid.values() if value.axis is not None]
    wanted = max((-(-4 * prod(shape) // LARGEST) for shape, _ in cut), default=1)
    rows = [shape[axis] for shape, axis in cut]
    divisible = (bands for bands in range(wanted, min(rows, default=0) + 1) if not any(size % bands for size in rows))
    return next(divisible, 1) if wanted > 1 else 1


def _copy(
    graph: ir.Graph,
    node: ir.Node,
    parts: Mapping[ir.Value, Sequence[ir.Value]],
    band: int,
    laid: Mapping[ir.Value, Laid],
) -> ir.Node:
    """A node for one band: other inputs, fewer rows."""
    inputs = [parts[value][band] if value is not None and value in parts else value for value in node.inputs]
    target, axis = target_of(node), laid[node.outputs[0]].axis
    if target and axis is not None and target[axis] > 0:
        bands = len(next(parts[value] for value in node.inputs if value is not None and value in parts))
        target[axis] //= bands
        inputs[1] = stored_ids(graph, f"{node.name}.{bands}th", target)
    copy = ir.node(node.op_type, inputs, domain=node.domain, num_outputs=len(node.outputs))
    copy.attributes.update(node.attributes)
    copy.name = f"{node.name}.band{band}"
    return copy
