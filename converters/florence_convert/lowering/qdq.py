"""INT8 as pairs of QuantizeLinear and DequantizeLinear, which TensorRT turns into integer products.

Weights are quantised per output channel, activations per tensor, both symmetrically. Quantised are the products with
weights: linear layers, and convolutions that mix channels; not the first of the vision tower, which reads the picture,
nor its last, whose result is the features that every later part reads (that one alone brings a fifth of their error
on the bundled model). Depthwise convolutions, LayerNorm, Softmax and the attentions stay in the type of the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from florence_convert.weights import stored
from florence_edge.errors import InputError
from florence_edge.geometry import AnyArray, Float32Array

from . import cut

LARGEST = 127
_PIXELS = "pixels"
_OPSET = 19  # the first in which QuantizeLinear takes fp16


@dataclass(frozen=True)
class Product:
    """A product with a weight: its node, the values it reads, and the weight's axis of output channels."""

    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    axis: int


def products(graph: ir.Graph) -> list[Product]:
    """What is quantised of a graph, in order."""
    found = []
    for node in graph:
        if node.op_type not in ("MatMul", "Conv"):
            continue
        activation, weight = node.inputs[0], node.inputs[1]
        if activation is None or weight is None or not weight.is_initializer() or activation.name == _PIXELS:
            continue
        if node.op_type == "MatMul":
            found.append(Product(node, activation, weight, axis=1))
        elif node.attributes.get_int("group", 1) == 1:
            found.append(Product(node, activation, weight, axis=0))
    return found[:-1] if any(value.name == _PIXELS for value in graph.inputs) else found


def observed(graph: ir.Graph) -> list[str]:
    """Names of the activations whose ranges `quantise` needs."""
    return list(dict.fromkeys(product.activation.name or "" for product in products(graph)))


def quantise(graph: ir.Graph, largest: Mapping[str, float]) -> None:
    """Puts a pair before every activation and weight of `products`; `largest` is by activation name.

    Values that several products read are quantised once. Raises `InputError` for a graph of an opset before 19.
    """
    opset = graph.opset_imports[""]
    if opset < _OPSET:
        raise InputError(
            f"the bundle's graphs have opset {opset}; int8 beside fp16 needs {_OPSET}: convert with --opset 20"
        )
    made: dict[ir.Value, ir.Value] = {}
    for product in products(graph):
        activation = product.activation
        if activation not in made:
            made[activation] = _activation_pair(graph, product, largest[activation.name or ""])
        product.node.replace_input_with(0, made[activation])
        product.node.replace_input_with(1, _weight(graph, product))
    cut.remove_unused(graph)


def scale_of(largest: AnyArray) -> Float32Array:
    """Scales for values up to `largest`, already such as fp16 has: the graph will hold what was quantised with."""
    smallest = np.finfo(np.float16).smallest_subnormal
    scales = np.maximum(np.asarray(largest, np.float32) / LARGEST, smallest)
    return np.asarray(scales.astype(np.float16), np.float32)


def _activation_pair(graph: ir.Graph, product: Product, largest: float) -> ir.Value:
    value = product.activation
    scale = stored(graph, f"{value.name}.scale", scale_of(np.asarray(largest)))
    zero = cut.constant(graph, np.asarray(0, np.int8))
    quantise = ir.node("QuantizeLinear", [value, scale, zero], name=f"{value.name}/QuantizeLinear")
    levels = cut.insert(graph, cut.typed(quantise, ir.DataType.INT8, value.shape), before=product.node)
    dequantise = ir.node("DequantizeLinear", [levels, scale, zero], name=f"{value.name}/DequantizeLinear")
    return cut.insert(graph, cut.typed(dequantise, value.dtype, value.shape), before=product.node)


def _weight(graph: ir.Graph, product: Product) -> ir.Value:
    """The weight as int8 with one scale per output channel, dequantised."""
    value, axis = product.weight, product.axis
    if value.const_value is None:
        raise cut.foreign(f"the weight {value.name} has no content")
    exact = value.const_value.numpy()
    scales = scale_of(np.abs(exact).max(axis=tuple(i for i in range(exact.ndim) if i != axis)))
    across = scales.reshape([-1 if i == axis else 1 for i in range(exact.ndim)])
    rounded = np.clip(np.rint(exact / across), -LARGEST, LARGEST).astype(np.int8)
    levels = stored(graph, f"{value.name}.int8", rounded)
    scale = stored(graph, f"{value.name}.scale", scales)
    node = ir.node("DequantizeLinear", [levels, scale], {"axis": axis}, name=f"{value.name}/DequantizeLinear")
    return cut.insert(graph, cut.typed(node, value.dtype, value.shape), before=product.node)
