"""The tied embedding in INT8: read row by row as tokens come in, and as the output projection when logits go out.

Both readers share one stored table, the largest weight of the model: levels [V, D / block, block] and scales.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from florence_convert.products import array_of
from florence_convert.weights import stored

from .products import DOMAIN, ZERO_POINT, block_of, matmul_nbits, quantise_rows


def quantise_embedding(graph: ir.Graph, table: ir.Value) -> bool:
    """Quantises a table [V, D] that `Gather`, and possibly the `Gemm` of the logits, reads; False where it cannot."""
    readers = [use.node for use in table.uses()]
    weight = array_of(table)
    block = block_of(weight.shape[-1])
    if block is None or weight.ndim != 2 or {node.op_type for node in readers} - {"Gather", "Gemm"}:
        return False
    rows, steps = quantise_rows(weight, block)
    levels = stored(graph, f"{table.name}.int8", rows)
    scales = stored(graph, f"{table.name}.scale", steps)
    for reader in readers:
        nodes = _rows(graph, reader, levels, scales) if reader.op_type == "Gather" else _logits(reader, levels, scales)
        _put(graph, reader, nodes)
    del graph.initializers[table.name or ""]
    return True


def _rows(graph: ir.Graph, gather: ir.Node, levels: ir.Value, scales: ir.Value) -> list[ir.Node]:
    """(levels[ids] - 128) * scales[ids] as [..., D] fp32."""
    ids, axes = gather.inputs[1], len(gather.outputs[0].shape or ())
    name = gather.name or "embedding"
    zero = stored(graph, f"{name}.zero", np.asarray(ZERO_POINT, np.float32))
    last = stored(graph, f"{name}.last", np.asarray([-1], np.int64))
    shape = stored(graph, f"{name}.shape", np.asarray([0] * (axes - 1) + [-1], np.int64))
    picked = ir.node("Gather", [levels, ids], {"axis": 0})
    numbers = ir.node("Cast", picked.outputs, {"to": ir.DataType.FLOAT.value})
    centred = ir.node("Sub", [numbers.outputs[0], zero])
    steps = ir.node("Gather", [scales, ids], {"axis": 0})
    spread = ir.node("Unsqueeze", [steps.outputs[0], last])
    scaled = ir.node("Mul", [centred.outputs[0], spread.outputs[0]])
    # Levels are [..., blocks, block]: with zeros for the axes of the ids, -1 joins the two of the table.
    rows = ir.node("Reshape", [scaled.outputs[0], shape])
    return [picked, numbers, centred, steps, spread, scaled, rows]


def _logits(gemm: ir.Node, levels: ir.Value, scales: ir.Value) -> list[ir.Node]:
    return [matmul_nbits(gemm.inputs[0], levels, scales)]


def _put(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node]) -> None:
    """Puts nodes, of which the last gives the result, in the place of one."""
    result, new = old.outputs[0], nodes[-1].outputs[0]
    new.shape, new.type = result.shape, result.type
    for number, node in enumerate(nodes):
        node.name = f"{old.name}/{node.op_type}.{number}"
    graph.insert_before(old, nodes)
    ir.convenience.replace_all_uses_with(result, new, replace_graph_outputs=True)
    new.name = result.name
    graph.remove(old, safe=True)
    graph.opset_imports[DOMAIN] = 1
