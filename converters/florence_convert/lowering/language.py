"""The encoder and decoder graphs for a runtime that keeps its search on the device.

The decoder works on rows, one per beam of every image, and its two attentions are plugin nodes; the encoder keeps its
operators, which TensorRT fuses, and learns from `lengths` instead of a mask what is padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from florence_convert.names import EMBEDDING
from florence_edge.manifest import Graph

from . import cut
from .functions import CROSS, SELF

PINNED = "florence.fp32"
"""Mark of nodes that stay in fp32 whatever their part computes in."""


def input_values(table: Graph) -> dict[str, ir.Value]:
    """New graph inputs for a table, all floating-point ones in fp32 for now."""
    types = [ir.TensorType(ir.DataType.INT32 if t.dtype == "int32" else ir.DataType.FLOAT) for t in table.inputs]
    return {
        tensor.name: ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=kind)
        for tensor, kind in zip(table.inputs, types, strict=True)
    }


def lower_encoder(graph: ir.Graph, table: Graph) -> None:
    """Replaces the prompt mask by `lengths`, and the cross mask with it."""
    inputs = input_values(table)
    old = {value.name: value for value in graph.inputs}
    for name in ("features", "prompt_ids"):
        old[name].replace_all_uses_with(inputs[name])
    mask = graph.outputs.pop()
    mask.replace_all_uses_with(_length_mask(graph, inputs["lengths"]))
    cut.remove_unused(graph)
    cut.replace_inputs(graph, list(inputs.values()))
    _rename_dims(graph, {"T": "P"})


def _length_mask(graph: ir.Graph, lengths: ir.Value) -> ir.Value:
    """True `[B, S]` for positions before `lengths` [B]; S is that of the tokens with their positions added."""
    embedded = next(use.node for use in cut.reader(graph, "encoder.positions.weight").outputs[0].uses())
    before = next(iter(embedded.outputs[0].uses())).node
    zero, one = (cut.constant(graph, np.asarray(number, np.int64)) for number in (0, 1))

    def add(kind: str, inputs: Sequence[ir.Value], shape: Sequence[int | str], **attributes: int) -> ir.Value:
        node = ir.node(kind, inputs, attributes, name=f"encoder/mask/{kind}")
        dtype = ir.DataType.BOOL if kind == "Less" else ir.DataType.INT64
        return cut.insert(graph, cut.typed(node, dtype, ir.Shape(shape)), before=before)

    count = add("Squeeze", [add("Shape", [embedded.outputs[0]], [1], start=1, end=2)], [])
    places = add("Range", [zero, count, one], ["S"])
    whole = add("Cast", [lengths], ["B"], to=ir.DataType.INT64.value)
    column = add("Unsqueeze", [whole, one], ["B", 1])
    return add("Less", [places, column], ["B", "S"])


def lower_decoder(graph: ir.Graph, table: Graph) -> None:
    """Rows instead of `[B, K]`, plugin nodes instead of the attentions, device state instead of host arrays."""
    inputs = input_values(table)
    _feed_tokens(graph, inputs)
    layers = sum(name.startswith("self_key_") for name in inputs)
    size = int(table.outputs[1].shape[1]), int(table.outputs[1].shape[2])
    new = []
    for layer in range(layers):
        new += _replace_self(graph, layer, inputs, size)
        _replace_cross(graph, layer, inputs, size)
    graph.outputs.clear()
    graph.outputs.extend([_flatten_head(graph), *new])
    for value, tensor in zip(graph.outputs, table.outputs, strict=True):
        value.name = tensor.name
    cut.remove_unused(graph)
    cut.replace_inputs(graph, list(inputs.values()))
    _rows(graph)


def _feed_tokens(graph: ir.Graph, inputs: dict[str, ir.Value]) -> None:
    """Token ids as rows [R], and the position as the int32 [1] that the search state holds."""
    first = next(iter(graph))
    ids = inputs["token_ids"]
    rows = cut.reshaped(graph, ids, target=(-1,), shape=ir.Shape(["R"]), before=first, name="token_ids")
    embed = next(use.node for use in cut.weight(graph, EMBEDDING).uses() if use.node.op_type == "Gather")
    embed.replace_input_with(1, rows)
    place = cut.reader(graph, "decoder.positions.weight")
    offset = _position_offset(place)
    added = ir.node("Add", [inputs["position"], cut.constant(graph, np.asarray(offset, np.int32))], name="position/Add")
    place.replace_input_with(1, cut.insert(graph, cut.typed(added, ir.DataType.INT32, ir.Shape([1])), before=place))
    place.outputs[0].shape = ir.Shape([1, *(place.outputs[0].shape or ())[-1:]])


def _position_offset(place: ir.Node) -> int:
    """What the bundle's graph adds to a position before it looks it up."""
    numbers = [value.const_value for value in cut.producer(place.inputs[1]).inputs if value is not None]
    (offset,) = (number.numpy() for number in numbers if number is not None)
    return int(offset)


def _replace_self(graph: ir.Graph, layer: int, inputs: dict[str, ir.Value], size: tuple[int, int]) -> list[ir.Value]:
    """The self-attention of a layer; returns its new key and value [R, heads, head_dim]."""
    module, names = f"decoder.layers.{layer}.self_attention", (f"self_key_{layer}", f"self_value_{layer}")
    old = {value.name: value for value in graph.inputs}
    starts = {cut.projected(graph, f"{module}.{name}") for name in ("query", "key", "value")}
    q, k, v = (_by_head(graph, module, name, size) for name in ("query", "key", "value"))
    state = {name: inputs[name] for name in ("indirection", "position", "image_done")}
    attention = cut.Attention(
        SELF,
        {"q": q, "k": k, "v": v, "k_cache": inputs[names[0]], "v_cache": inputs[names[1]], **state},
        starts=starts | {old[name] for name in (*names, "ancestors", "token_ids")},
        shape=ir.Shape(["R", *size]),
        rows=(-1, size[0] * size[1]),
        attributes={"scale": size[1] ** -0.5},
    )
    cut.replace_attention(graph, f"{module}.out", attention)
    return [k, v]


def _replace_cross(graph: ir.Graph, layer: int, inputs: dict[str, ir.Value], size: tuple[int, int]) -> None:
    """The cross-attention of a layer."""
    module, names = f"decoder.layers.{layer}.cross_attention", (f"cross_key_{layer}", f"cross_value_{layer}")
    old = {value.name: value for value in graph.inputs}
    given = {"k": inputs[names[0]], "v": inputs[names[1]]} | {name: inputs[name] for name in ("lengths", "image_done")}
    attention = cut.Attention(
        CROSS,
        {"q": _by_head(graph, module, "query", size), **given},
        starts={cut.projected(graph, f"{module}.query"), *(old[name] for name in (*names, "cross_mask"))},
        shape=ir.Shape(["R", *size]),
        rows=(-1, size[0] * size[1]),
        attributes={"scale": size[1] ** -0.5},
    )
    cut.replace_attention(graph, f"{module}.out", attention)


def _by_head(graph: ir.Graph, module: str, name: str, size: tuple[int, int]) -> ir.Value:
    """A projection of an attention as [R, heads, head_dim]."""
    value, before = cut.projected(graph, f"{module}.{name}"), cut.reader(graph, f"{module}.out.weight")
    shape = ir.Shape(["R", *size])
    return cut.reshaped(graph, value, target=(-1, *size), shape=shape, before=before, name=f"{module}.{name}")


def _flatten_head(graph: ir.Graph) -> ir.Value:
    """Takes the shapes [B, K] out of the output projection; returns the logits [R, V]."""
    gemm = next(use.node for use in cut.weight(graph, EMBEDDING).uses() if use.node.op_type == "Gemm")
    flatten = cut.producer(gemm.inputs[0])
    unflatten = next(use.node for use in gemm.outputs[0].uses())
    gemm.replace_input_with(0, flatten.inputs[0])
    after = [use.node for use in unflatten.outputs[0].uses()]
    unflatten.outputs[0].replace_all_uses_with(gemm.outputs[0])
    for suppression in after:
        suppression.metadata_props[PINNED] = "1"
    return after[0].outputs[0] if after else gemm.outputs[0]


def _rows(graph: ir.Graph) -> None:
    """Writes [B, K, ...] as [R, ...] in every shape between the inputs and the outputs."""
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and [str(dim) for dim in value.shape[:2]] == ["B", "K"]:
                value.shape = ir.Shape(["R", *value.shape[2:]])
            elif value.shape is not None and value.shape and str(value.shape[0]) == "B*K":
                value.shape = ir.Shape(["R", *value.shape[1:]])


def _rename_dims(graph: ir.Graph, letters: dict[str, str]) -> None:
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([letters.get(str(dim), dim) for dim in value.shape])
