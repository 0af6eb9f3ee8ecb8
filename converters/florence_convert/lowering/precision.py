"""Precision written into a graph, the one way that TensorRT 10.3 to 11 agree on: every tensor has the type it needs.

All floating-point arithmetic is done in one element type, but for what `STATISTICS` lists and what a graph pins, which
stays in fp32 between explicit Casts. Weights are stored once, in the type in which they are read.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from florence_convert.names import EMBEDDING
from florence_edge.manifest import DType, Graph

from . import cut
from .language import PINNED

STATISTICS = frozenset({"LayerNormalization", "Softmax", "ReduceMean"})
"""Operators that sum over many values or take exponentials: in half precision these are what drifts."""

WITHOUT_BF16 = frozenset({"Conv"})
"""Operators that ONNX defines for bf16 only from opset 22 on; TensorRT 10.3 reads up to 20. In a bf16 part: fp32."""

DTYPES: Mapping[DType, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int32": ir.DataType.INT32,
}
_FLOATS = {DTYPES[name] for name in ("float32", "float16", "bfloat16")}


def set_precision(graph: ir.Graph, table: Graph, element: DType) -> None:
    """Types a graph of fp32 tensors, in place; its inputs and outputs become those of the table."""
    types = _Types(graph, DTYPES[element])
    for value, tensor in zip(graph.inputs, table.inputs, strict=True):
        value.dtype = DTYPES[tensor.dtype]
    for node in list(graph):
        types.apply(node)
    for index, tensor in enumerate(table.outputs):
        graph.outputs[index] = types.output(graph.outputs[index], DTYPES[tensor.dtype])
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


class _Types:
    """Values in the types that were asked for, each made once."""

    def __init__(self, graph: ir.Graph, element: ir.DataType) -> None:
        self._graph, self._element = graph, element
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def apply(self, node: ir.Node) -> None:
        """Gives a node inputs of the one type it computes in, and its outputs that type."""
        if node.op_type == "Cast":
            return
        wanted = self._type_of(node)
        node.metadata_props.pop(PINNED, None)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS:
                node.replace_input_with(index, self._as(value, wanted, before=node))
        for value in node.outputs:
            if value.dtype in _FLOATS:
                value.dtype = wanted

    def output(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A graph output in its type, under its own name."""
        if value.dtype == dtype:
            return value
        name, producer = value.name, value.producer()
        result = self._as(value, dtype, before=None)
        value.name = f"{name}.{producer.op_type if producer else 'input'}"
        result.name = name
        return result

    def _type_of(self, node: ir.Node) -> ir.DataType:
        brain = self._element is ir.DataType.BFLOAT16
        if node.op_type in STATISTICS or PINNED in node.metadata_props or (brain and node.op_type in WITHOUT_BF16):
            return ir.DataType.FLOAT
        if brain and any(v is not None and v.name == EMBEDDING for v in node.inputs):
            # The last product decides between tokens, and bf16 has 8 bits. The table fits fp16, which has 11.
            return ir.DataType.FLOAT16
        return self._element

    def _as(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node | None) -> ir.Value:
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._made:
            self._made[value, dtype] = self._cast(value, dtype, before)
        return self._made[value, dtype]

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node | None) -> ir.Value:
        name = f"{value.name}.{dtype.name.lower()}"
        if value.is_initializer() and value.const_value is not None:
            made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
            made.const_value = cut.converted(value.const_value, dtype, name)
            self._graph.register_initializer(made)
            return made
        node = cut.typed(ir.node("Cast", [value], {"to": dtype.value}, name=name), dtype, value.shape)
        if before is not None:
            return cut.insert(self._graph, node, before=before)
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]
