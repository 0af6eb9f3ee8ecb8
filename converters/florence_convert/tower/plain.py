"""The vision graph twice: arranged for CPUs, and plain, as it was exported.

A bundle's `vision.onnx` is the arranged one: within fp32 rounding the same numbers, at base size in a seventh less
time and half of the working memory. Lowering for TensorRT and quantising find attentions whole, by names of the torch
modules, and start from the plain graph, `PLAIN`, which lies beside it. Undoing the arrangement instead would need as
much code as making it. Both graphs read the same weights; the plain one puts q, k and v together again by a Concat that
`lowering.cut.expand_stored` computes while it loads, so that it adds a few hundred KB. Bundles without it, made before
there was one or in INT8, have one form of the graph only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from florence_convert.names import VISION
from florence_convert.products import array_of, products
from florence_convert.weights import stored
from florence_edge.bundle import Bundle

from .bands import cut_into_bands
from .heads import part_names, separate_heads
from .layout import move_transposes

PLAIN = "vision.plain.onnx"


def plain_path(bundle: Bundle, name: str) -> Path:
    """The file of a graph of a bundle as it was exported."""
    arranged = dict(bundle.manifest.graphs.items())[name].file
    return bundle.path(PLAIN if name == VISION and PLAIN in bundle.manifest.files else arranged)


def load_plain(bundle: Bundle, name: str) -> ir.Model:
    """A graph of a bundle as it was exported.

    Weights are named by their whole path: from below a folder onnx_ir takes no file that has several hard links, as
    package caches and image stores make of every file, since one may lead elsewhere. A bundle lists its files.
    """
    model = ir.load(plain_path(bundle, name))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.ExternalTensor(
                bundle.path(str(tensor.location)),
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=tensor.name,
            )
    return model


def arrange(model: ir.Model) -> ir.Model:
    """Arranges the vision graph for CPUs, in place; returns it as it was, made of the weights of the arranged one."""
    plain = model.clone()
    separate_heads(model.graph)
    RemoveUnusedNodesPass()(model)
    move_transposes(model.graph)
    cut_into_bands(model.graph)
    RemoveUnusedNodesPass()(model)  # shapes that only whole images had
    for product in products(plain.graph):
        for value, operator in ((product.weight, "MatMul"), (product.bias, "Add")):
            parts = [model.graph.initializers.get(name) for name in part_names(product, operator)]
            known = [part for part in parts if part is not None]
            # Equal biases are one initializer, which the first product that reads it has replaced for all.
            if value is not None and value.name in plain.graph.initializers and len(known) == len(parts):
                _store_in_parts(plain.graph, value, known)
    return plain


def _store_in_parts(graph: ir.Graph, value: ir.Value, parts: Sequence[ir.Value]) -> None:
    """Puts a Concat of `parts`, along the last axis, in the place of a weight."""
    copies = [stored(graph, part.name or "", array_of(part)) for part in parts]
    node = ir.node("Concat", copies, {"axis": -1}, name=f"{value.name}/Concat")
    whole = node.outputs[0]
    whole.shape, whole.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, whole)
    del graph.initializers[value.name or ""]
    whole.name = value.name
    graph.insert_before(next(iter(graph)), node)
