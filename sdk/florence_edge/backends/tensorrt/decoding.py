"""The decoder on the device: memory for one size of search, and everything that is launched for a token."""

from __future__ import annotations

import ctypes
from collections import OrderedDict

import numpy as np

from florence_edge.backends._beam_state import beam_dims
from florence_edge.backends.kernel_library import DTYPES, BeamState, SelfDims
from florence_edge.geometry import Int32Array, UInt8Array
from florence_edge.manifest import Tensor
from florence_edge.options import FormedConfig, SearchConfig

from .engines import tensor_bytes
from .searching import FormedSearch, Search
from .stages import Lane, image_tokens

KEPT = 8
"""Recorded searches kept per decoder; another set of search options is recorded in some milliseconds."""


class Decoder:
    """The decoder engine for a batch, a number of beams and a padded prompt length; the searches recorded over it.

    Tokens, position, histories and finished images lie in the search's state, where the beam step writes and the engine
    reads them.
    """

    def __init__(self, lane: Lane, batch: int, beams: int, prompt: int) -> None:
        part = lane.engines.decoder
        self.lane, self.batch, self.beams, self.capacity = lane, batch, beams, part.choices("L")[-1]
        sizes = {
            "B": batch,
            "K": beams,
            "R": batch * beams,
            "L": self.capacity,
            "W": part.choices("W")[-1],
            "S": image_tokens(lane.engines.encoder) + prompt,
        }
        tensors = {tensor.name: tensor for tensor in (*part.graph.inputs, *part.graph.outputs)}
        self.vocabulary = int(tensors["logits"].shape[-1])
        self.state = self._reserve(SearchConfig(beams=beams, max_new_tokens=self.capacity - 1))
        given = {
            **lane.cross(batch),
            "token_ids": self.state.next_tokens,
            "position": self.state.position,
            "indirection": self.state.indirection,
            "image_done": self.state.image_done,
        }
        self._addresses = {
            name: given[name] if name in given else lane.memory.take(tensor_bytes(tensor, sizes))
            for name, tensor in tensors.items()
        }
        self._caches = sorted(name for name in tensors if name.startswith("self_key_"))
        self._clear({name: tensor_bytes(tensors[name], sizes) for name in tensors if name.startswith("self_")})
        self._cache_dims = self._dims_of(tensors[self._caches[0]])
        self._engine = lane.bind(part, sizes, self._addresses)
        self._searches: OrderedDict[tuple[SearchConfig, bool], Search] = OrderedDict()
        self._bits: tuple[UInt8Array, int] | None = None

    def _dims_of(self, cache: Tensor) -> ctypes.Structure:
        """A layer's cache [B, K, heads, L, head_dim] as the kernel that appends to it takes it."""
        heads, head_dim = (int(size) for size in cache.shape[2::2])
        return SelfDims(
            batch=self.batch,
            beams=self.beams,
            heads=heads,
            head_dim=head_dim,
            max_length=self.capacity,
            row_stride=heads * head_dim,
            dtype=DTYPES[cache.dtype],
        )

    def _clear(self, sizes: dict[str, int]) -> None:
        """Zeroes the caches: a history is followed in whole blocks, and what lies behind it must be finite."""
        for name, size in sizes.items():
            self.lane.device.driver.memset_d8_async(self._addresses[name], 0, size, self.lane.stream)

    def _reserve(self, longest: SearchConfig) -> ctypes.Structure:
        """Takes memory for the largest search that fits; smaller ones lie in it in the same places."""
        dims, memory, state = self.dims(longest), self.lane.memory, BeamState()
        size = self.lane.kernels.size("florence_beam_state_size", dims)
        self.block_address, self.block = memory.take(size), memory.pinned((size,), np.uint8)
        self._workspace = memory.take(self.lane.kernels.size("florence_beam_step_workspace", dims))
        self.progress: Int32Array = memory.pinned((2,), np.int32)
        self.lane.kernels.call("florence_beam_state_bind", dims, self.block_address, state)
        return state

    def dims(self, config: SearchConfig) -> ctypes.Structure:
        """The search as the kernels take it."""
        return beam_dims(config, batch=self.batch, vocabulary=self.vocabulary, capacity=self.capacity)

    def bits(self) -> tuple[UInt8Array, int]:
        """Pinned memory [B, K, ceil(V / 8)] uint8 for the bits of allowed tokens, and where the device has its copy."""
        if self._bits is None:
            pinned = self.lane.memory.pinned((self.batch, self.beams, -(-self.vocabulary // 8)), np.uint8)
            self._bits = pinned, self.lane.memory.take(pinned.nbytes)
        return self._bits

    def begin(self, config: SearchConfig) -> Search:
        """Starts a search behind the encoder, which was enqueued before."""
        key = SearchConfig(**config.to_dict()), isinstance(config, FormedConfig)
        if key not in self._searches:
            if len(self._searches) == KEPT:
                self._searches.popitem(last=False)[1].close()
            self._searches[key] = FormedSearch(self, key[0]) if key[1] else Search(self, key[0])
        self._searches.move_to_end(key)
        self._searches[key].begin(config)
        return self._searches[key]

    def forward(self) -> None:
        """Enqueues the engine, and the appending of its keys and values to the caches."""
        self._engine.enqueue()
        for key in self._caches:
            value = key.replace("_key_", "_value_")
            self.lane.kernels.call(
                "florence_kv_append",
                self._cache_dims,
                self._addresses[key.replace("self_", "new_")],
                self._addresses[value.replace("self_", "new_")],
                self._addresses[key],
                self._addresses[value],
                self._addresses["position"],
                self._addresses["image_done"],
                self.lane.stream.handle,
            )

    def choose(self, dims: ctypes.Structure, allowed: int | None) -> None:
        """Enqueues the beam step, which advances tokens, histories and position; `allowed` are the bits it heeds."""
        self.lane.kernels.call(
            "florence_beam_step",
            dims,
            self.state,
            self._addresses["logits"],
            allowed,
            self.progress.ctypes.data,
            self._workspace,
            self.lane.stream.handle,
        )

    def close(self) -> None:
        """Destroys the recorded graphs; the stream must be idle."""
        while self._searches:
            self._searches.popitem()[1].close()
