"""Products with stored weights, in INT8 operators of ONNX Runtime: what each computes, and what it is good for.

Works on `onnx_ir` graphs as `simplify` leaves them: `MatMul(x, weight [K, N])`, with an `Add` of a bias behind most of
them. Everything else (LayerNorm, Softmax, convolutions, products of two activations) stays in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_convert.products import Product, array_of
from florence_convert.weights import stored
from florence_edge.geometry import Float32Array

DOMAIN = "com.microsoft"
ZERO_POINT = 128
"""What stands for 0 in the unsigned bytes of `MatMulNBits`."""

BLOCKS = (128, 64, 32, 16)
"""Weights that share a scale in `MatMulNBits`: the first of these sizes that divides a row."""

_SEVEN_BITS, _EIGHT_BITS = 63, 127
_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level: activations in blocks of INT8 too

Scheme = Callable[[ir.Graph, Product], ir.Node | None]
"""Makes the node that takes a product's place, or None where it cannot."""


def replace(graph: ir.Graph, product: Product, node: ir.Node) -> None:
    """Puts a node in the place of a product and the Add behind it."""
    old, new = product.last.outputs[0], node.outputs[0]
    new.shape, new.type, node.name = old.shape, old.type, product.node.name
    graph.insert_before(product.last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name = old.name
    graph.remove(product.last, safe=True)
    if product.last is not product.node:
        graph.remove(product.node, safe=True)
    del graph.initializers[product.weight.name or ""]
    graph.opset_imports[DOMAIN] = 1


def dynamic(graph: ir.Graph, product: Product) -> ir.Node:
    """`DynamicQuantizeMatMul`: one scale per column of the weight, one for the whole of x, found when it runs.

    The fastest for many rows, two to three times fp32. The scale of x makes every row depend on all others, so it is
    for graphs that see one image at a time. Weights have seven bits: with eight, the sums of two products overflow the
    16 bits that CPUs with AVX2 but without VNNI have for them, and a bundle would answer differently there.
    """
    weight = array_of(product.weight)
    scales = _scales(np.abs(weight).max(axis=0), _SEVEN_BITS)
    levels = np.round(weight / scales).astype(np.int8)
    inputs = [
        product.node.inputs[0],
        stored(graph, f"{product.weight.name}.int8", levels),
        stored(graph, f"{product.weight.name}.scale", scales),
        None,
        product.bias,
    ]
    return ir.node("DynamicQuantizeMatMul", inputs, domain=DOMAIN)


def blockwise(graph: ir.Graph, product: Product) -> ir.Node | None:
    """`MatMulNBits` with eight bits: a scale per block of weights, and per block of every row of x.

    For few rows as fast as `dynamic` and more exact; for many, hardly faster than fp32. Rows do not depend on each
    other, so that a prompt's answer is the same whatever else is in its batch.
    """
    weight = array_of(product.weight).T
    block = block_of(weight.shape[1])
    if block is None:
        return None
    levels, scales = quantise_rows(weight, block)
    name = product.weight.name
    return matmul_nbits(
        product.node.inputs[0],
        stored(graph, f"{name}.int8", levels),
        stored(graph, f"{name}.scale", scales),
        product.bias,
    )


def matmul_nbits(x: ir.Value | None, levels: ir.Value, scales: ir.Value, bias: ir.Value | None = None) -> ir.Node:
    """x [..., K] times the transpose of rows as `quantise_rows` gives them."""
    rows, blocks, block = (int(size) for size in levels.shape or ())  # type: ignore[arg-type]  # sizes of a stored tensor
    attributes = {
        "K": blocks * block,
        "N": rows,
        "bits": 8,
        "block_size": block,
        "accuracy_level": _INT8_ARITHMETIC,
    }
    return ir.node("MatMulNBits", [x, levels, scales, None, None, bias], attributes, domain=DOMAIN)


def quantise_rows(weight: Float32Array, block: int) -> tuple[npt.NDArray[np.uint8], Float32Array]:
    """Rows [N, K] as levels [N, K / block, block] around `ZERO_POINT` and scales [N, K / block]."""
    blocks = weight.reshape(len(weight), -1, block)
    scales = _scales(np.abs(blocks).max(axis=-1), _EIGHT_BITS)
    levels = np.round(blocks / scales[..., None]) + ZERO_POINT
    return levels.astype(np.uint8), scales


def block_of(width: int) -> int | None:
    """The size of the blocks in rows of `width` weights, None where no size divides it."""
    return next((block for block in BLOCKS if width % block == 0), None)


def _scales(peaks: Float32Array, levels: int) -> Float32Array:
    """Scales with which `peaks` become the largest level; 1 where there is nothing but zeros."""
    scales: Float32Array = np.where(peaks > 0, peaks / np.float32(levels), np.float32(1)).astype(np.float32)
    return scales
