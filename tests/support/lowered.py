"""Runs lowered graphs in ONNX Runtime on the CPU, the way a runtime on a device would run their engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from florence_convert.lowering import Lowered
from florence_convert.lowering.functions import DOMAIN
from florence_edge import search
from florence_edge.backends import Hypothesis
from florence_edge.geometry import AnyArray, Float32Array, Int32Array, Int64Array
from florence_edge.manifest import Tensor
from florence_edge.options import SearchConfig

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.float32, "int32": np.int32}
"""What tensors are fed as: bf16 enters and leaves as fp32 whose values bf16 has."""


class LoweredModel:
    """The runnable graphs of a `Lowered`, opened one by one as they are needed."""

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self._sessions: dict[str, Any] = {}

    def run(self, name: str, inputs: dict[str, AnyArray]) -> dict[str, AnyArray]:
        """One graph on named arrays."""
        if name not in self._sessions:
            part = next(part for part in self.lowered.parts if part.name == name)
            self._sessions[name] = open_graph(part.runnable)
        session = self._sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def features(self, pixels: Float32Array) -> Float32Array:
        """[B, N, D]."""
        found: Float32Array = self.run("vision", {"pixels": pixels})["features"]
        return found

    def cross(self, features: Float32Array, prompts: Sequence[Int64Array], *, pad_to: int = 0) -> dict[str, AnyArray]:
        """Cross-attention keys and values of prompts, one for each row of features, with their `lengths`."""
        width = max(pad_to, *map(len, prompts))
        ids = np.ones((len(prompts), width), np.int32)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        lengths = np.asarray([features.shape[1] + len(prompt) for prompt in prompts], np.int32)
        return {
            **self.run("encoder", {"features": features, "prompt_ids": ids, "lengths": lengths}),
            "lengths": lengths,
        }

    def generate(self, cross: dict[str, AnyArray], config: SearchConfig) -> list[Hypothesis]:
        """The search of the SDK over the lowered decoder."""
        batch = len(cross["lengths"])
        decoder = LoweredDecoder(self, cross, beams=config.beams, capacity=config.max_new_tokens + 1)
        return search.generate(decoder, batch, config)


class LoweredDecoder:
    """A `search.Decoder`: the caches and the state of a runtime, with histories packed as its kernels have them."""

    def __init__(self, model: LoweredModel, cross: dict[str, AnyArray], *, beams: int, capacity: int) -> None:
        self._model, self._cross = model, dict(cross)
        sizes = {"B": len(cross["lengths"]), "K": beams, "L": -(-capacity // 4) * 4}
        self.indirection = np.zeros((sizes["B"], beams, sizes["L"]), np.uint8)
        self.caches = {
            tensor.name: np.full(shape_of(tensor, sizes), np.nan, NUMPY[tensor.dtype])
            for tensor in model.lowered.decoder.inputs
            if tensor.name.startswith("self_")
        }
        self.position = np.zeros(1, np.int32)
        self.image_done = np.zeros(sizes["B"], np.int32)

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        """Logits [B, K, V]; what no history names stays NaN, as fresh device memory may be."""
        batch, beams = token_ids.shape
        self.indirection[:, :, : ancestors.shape[2]] = ancestors
        found = self._model.run("decoder", self.inputs(token_ids.astype(np.int32)))
        self.append(found)
        self.position += 1
        logits: Float32Array = found["logits"].reshape(batch, beams, -1)
        return logits

    def inputs(self, token_ids: Int32Array) -> dict[str, AnyArray]:
        """All inputs of the decoder graph."""
        state = {"position": self.position, "image_done": self.image_done, "indirection": self.indirection.view("<i4")}
        return {"token_ids": token_ids, **state, **self.caches, **self._cross}

    def append(self, found: dict[str, AnyArray]) -> None:
        """What `florence_kv_append` does."""
        for name, cache in self.caches.items():
            batch, beams, heads, _, head_dim = cache.shape
            new = found[name.replace("self_", "new_")]
            cache[:, :, :, int(self.position[0])] = new.reshape(batch, beams, heads, head_dim)


def shape_of(tensor: Tensor, sizes: dict[str, int]) -> list[int]:
    return [sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape]


def open_graph(path: Path) -> Any:
    """A session on one thread; a bf16 graph is made such that the CPU can run it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = ir.load(path)
    if any(value.dtype is ir.DataType.BFLOAT16 for node in model.graph for value in node.outputs):
        widen(model.graph)
        path = path.with_suffix(".cpu.onnx")
        ir.save(model, path)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def widen(graph: ir.Graph) -> None:
    """Computes every bf16 operator in fp32 and rounds its result to bf16, for a runtime without bf16 arithmetic."""
    for node in list(graph):
        if node.op_type == "Cast" or node.domain == DOMAIN:
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype is ir.DataType.BFLOAT16:
                wide = _cast(value, ir.DataType.FLOAT)
                graph.insert_before(node, wide)
                node.replace_input_with(index, wide.outputs[0])
        for value in node.outputs:
            if value.dtype is ir.DataType.BFLOAT16:
                _round_result(graph, value)
    for index, value in enumerate(graph.inputs):
        if value.dtype is ir.DataType.BFLOAT16:
            _enter_as_fp32(graph, index)
    for index, value in enumerate(graph.outputs):
        if value.dtype is ir.DataType.BFLOAT16:
            wide, name = _cast(value, ir.DataType.FLOAT), value.name
            graph.append(wide)
            value.name, wide.outputs[0].name = f"{name}.bf16", name
            graph.outputs[index] = wide.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value})
    node.outputs[0].shape, node.outputs[0].dtype = value.shape, dtype
    return node


def _round_result(graph: ir.Graph, value: ir.Value) -> None:
    producer = value.producer()
    assert producer is not None
    narrow = _cast(value, ir.DataType.BFLOAT16)
    value.replace_all_uses_with(narrow.outputs[0], replace_graph_outputs=True)
    narrow.replace_input_with(0, value)
    graph.insert_after(producer, narrow)
    narrow.outputs[0].name, value.name = value.name, f"{value.name}.wide"
    value.dtype = ir.DataType.FLOAT


def _enter_as_fp32(graph: ir.Graph, index: int) -> None:
    old = graph.inputs[index]
    new = ir.Value(name=old.name, shape=old.shape, type=ir.TensorType(ir.DataType.FLOAT))
    narrow = _cast(new, ir.DataType.BFLOAT16)
    old.replace_all_uses_with(narrow.outputs[0])
    graph.inputs[index] = new
    graph.insert_before(next(iter(graph)), narrow)
