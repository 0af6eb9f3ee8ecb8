"""The vision tower's widest parts, a band of the image at a time: what they need at once shrinks with the bands.

Windows do not see each other and the tokens of an MLP do not either, so that both can be computed band by band; the
first stage alone has 36,864 tokens at 768 pixels. Besides, every band gets its own scale for its activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from .products import stored_ids

LARGEST = 20 << 20
"""Bytes of fp32 that one band's widest result may have."""

PARTS = (("spatial.attention.qkv", "spatial.attention.proj"), ("mlp.fc1", "mlp.fc2"))
"""Names of the first products and of the last of what can be cut."""

_OPERATORS = frozenset(
    ("DynamicQuantizeMatMul", "MatMul", "Add", "Gelu", "Reshape", "Transpose", "Gather", "Mul", "Softmax")
)
_TOKENS = 1  # the axis of tokens in [B, N, C], and of rows in what it is reshaped to


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
    bands = _bands(whole, nodes)
    if whole is None or bands < 2:
        return False
    attributes = {"axis": _TOKENS, "num_outputs": bands}
    split = ir.node("Split", [whole], attributes, num_outputs=bands, name=f"{first[0].name}/Split")
    copies, parts = [], []
    for number, band in enumerate(split.outputs):
        values: dict[ir.Value, ir.Value] = {whole: band}
        for node in nodes:
            copy = _copy(graph, node, values, bands)
            copy.name = f"{node.name}.band{number}"
            copies.append(copy)
            values.update(zip(node.outputs, copy.outputs, strict=True))
        parts.append(values[result])
    join = ir.node("Concat", parts, {"axis": _TOKENS}, name=f"{last.name}/Concat")
    joined = join.outputs[0]
    joined.shape, joined.type = result.shape, result.type
    graph.insert_before(last, [split, *copies, join])
    ir.convenience.replace_all_uses_with(result, joined, replace_graph_outputs=True)
    graph.remove(reversed(nodes), safe=True)
    return True


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


def _bands(whole: ir.Value | None, nodes: Iterable[ir.Node]) -> int:
    """The fewest bands with which nothing is too wide; 1 where these nodes cannot be cut."""
    if whole is None or any(node.op_type not in _OPERATORS for node in nodes):
        return 1
    sizes, rows = [], []
    for node in nodes:
        target = _target(node)
        rows += [target[_TOKENS]] if target and target[_TOKENS] > 0 else []
        shape = node.outputs[0].shape
        if shape is not None and all(isinstance(dim, int) for dim in list(shape)[1:]):
            count = 4
            for dim in list(shape)[1:]:
                count *= int(dim)  # type: ignore[arg-type]  # all are whole numbers
            sizes.append(count)
    tokens = whole.shape[_TOKENS] if whole.shape is not None else None
    if not sizes or not isinstance(tokens, int):
        return 1
    wanted = -(-max(sizes) // LARGEST)
    divisible = (bands for bands in range(wanted, tokens + 1) if not any(size % bands for size in (tokens, *rows)))
    return next(divisible, 1) if wanted > 1 else 1


def _copy(graph: ir.Graph, node: ir.Node, values: dict[ir.Value, ir.Value], bands: int) -> ir.Node:
    """A node for one band: other inputs, fewer rows."""
    inputs = [values.get(value, value) if value is not None else None for value in node.inputs]
    target = _target(node)
    if target and target[_TOKENS] > 0:
        target[_TOKENS] //= bands
        inputs[1] = stored_ids(graph, f"{node.name}.{bands}th", target)
    copy = ir.node(node.op_type, inputs, domain=node.domain, num_outputs=len(node.outputs))
    copy.attributes.update(node.attributes)
    return copy


def _target(node: ir.Node) -> list[int]:
    """The shape that a Reshape makes, empty for anything else."""
    value = node.inputs[1] if node.op_type == "Reshape" else None
    return [] if value is None or value.const_value is None else [int(size) for size in value.const_value.numpy()]
