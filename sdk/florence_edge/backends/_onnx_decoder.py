"""One search's decoder in ONNX Runtime: the caches, and one step over memory that was bound beforehand.

Imports nothing of ONNX Runtime; it is handed an open session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from florence_edge.errors import BackendError
from florence_edge.geometry import AnyArray, Float32Array, Int32Array, Int64Array
from florence_edge.manifest import Graph, Tensor

from .request import Request

FIRST_CAPACITY = 64
"""Positions of a new cache. It doubles when it is full: ONNX Runtime plans memory anew for every shape it meets."""

NO_ENTRY = -1
"""Ancestor of a position that holds no cache entry."""


class OnnxDecoder:
    """A `search.Decoder` over B prompts with K beams.

    All inputs and outputs but the cross-attention cache are NumPy arrays that ONNX Runtime reads and writes in place;
    between two steps only the new cache entries move, into their slot.
    """

    def __init__(self, session: Any, graph: Graph, cross: Mapping[str, Any], request: Request) -> None:
        self._session, self._graph, self._cross = session, graph, cross
        self._sizes = {"B": len(request.prompt_ids), "K": request.config.beams}
        self._past = {tensor.name: tensor for tensor in graph.inputs if tensor.name.startswith("self_")}
        self._fixed = {
            tensor.name: _zeros(tensor, self._sizes)
            for tensor in (*graph.inputs, *graph.outputs)
            if {size for size in tensor.shape if isinstance(size, str)} <= self._sizes.keys()
        }
        self._grown: dict[str, AnyArray] = {}
        self._position = 0
        self._reserve(FIRST_CAPACITY)

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        """One token of every beam; the logits returned are overwritten by the next step."""
        position = self._position
        if position == self._capacity:
            self._reserve(2 * self._capacity)
        self._fixed["token_ids"][...] = token_ids
        self._fixed["position"][...] = position
        self._grown["ancestors"][:, :, :position] = ancestors
        run_bound(self._session, self._binding, self._graph.file)
        for name in self._past:
            self._grown[name][:, :, position] = self._fixed[name.replace("self_", "new_", 1)]
        self._position += 1
        logits: Float32Array = self._fixed["logits"]
        return logits

    def _reserve(self, capacity: int) -> None:
        """Gives the cache room for so many positions and binds everything anew."""
        sizes = {**self._sizes, "L": capacity}
        grown = {name: _zeros(tensor, sizes) for name, tensor in self._past.items()}
        if self._position:
            for name, cache in grown.items():
                cache[:, :, : self._position] = self._grown[name]
        grown["ancestors"] = np.full((sizes["B"], sizes["K"], capacity), NO_ENTRY, np.int32)
        self._capacity, self._grown = capacity, grown
        self._binding = self._session.io_binding()
        for tensor in self._graph.inputs:
            if tensor.name in self._cross:
                self._binding.bind_ortvalue_input(tensor.name, self._cross[tensor.name])
            else:
                _bind(self._binding.bind_input, tensor.name, self._array(tensor.name))
        for tensor in self._graph.outputs:
            _bind(self._binding.bind_output, tensor.name, self._array(tensor.name))

    def _array(self, name: str) -> AnyArray:
        return self._grown[name] if name in self._grown else self._fixed[name]


def run_bound(session: Any, binding: Any, file: str, options: Any = None) -> None:
    """Runs what was bound; `BackendError` for whatever ONNX Runtime raises, its exceptions having no common base."""
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed in {file}: {error}") from error


def _zeros(tensor: Tensor, sizes: Mapping[str, int]) -> AnyArray:
    """Memory for a tensor of a graph. Zeros: what no ancestor names is still read, so it has to be finite."""
    return np.zeros([sizes[size] if isinstance(size, str) else size for size in tensor.shape], tensor.dtype)


def _bind(bind: Any, name: str, array: AnyArray) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
