"""The decoder on the device: one replay of a recorded graph is one token of every beam of every image.

A step is the engine, the appending of its keys and values to the caches, and the beam step, which advances position,
tokens and histories in device memory. Nothing in it depends on the host, so one graph serves all steps of a search and
the host only watches two numbers in pinned memory.
"""

from __future__ import annotations

import ctypes
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from florence_edge.backends._beam_state import SearchResult, beam_dims
from florence_edge.backends.kernel_library import DTYPES, BeamState, SelfDims
from florence_edge.errors import BackendError
from florence_edge.geometry import Int32Array
from florence_edge.options import SearchConfig

from .engines import tensor_bytes
from .stages import Lane, image_tokens

IN_FLIGHT = 2
"""Replays the host launches ahead of the last one known to be done. With fewer the GPU would wait for the host; what is
launched beyond the end is to no purpose."""

KEPT = 8
"""Recorded searches kept per decoder; another set of search options is recorded in some milliseconds."""

_POLL_S = 2e-5
_POLLS_BETWEEN_CHECKS = 500


class Decoder:
    """The decoder engine for a batch, a number of beams and a padded prompt length; the searches recorded over it."""

    def __init__(self, lane: Lane, batch: int, beams: int, prompt: int) -> None:
        part = lane.engines.decoder
        capacity = part.choices("L")[-1]
        self.lane, self.capacity, self.rows = lane, capacity, batch * beams
        self.sizes = {
            "B": batch,
            "K": beams,
            "R": self.rows,
            "L": capacity,
            "W": part.choices("W")[-1],
            "S": image_tokens(lane.engines.encoder) + prompt,
        }
        tensors = {tensor.name: tensor for tensor in (*part.graph.inputs, *part.graph.outputs)}
        self.vocabulary = int(tensors["logits"].shape[-1])
        cross = lane.cross(batch)
        self.addresses = {
            name: cross[name] if name in cross else lane.memory.take(tensor_bytes(tensor, self.sizes))
            for name, tensor in tensors.items()
        }
        self.caches = sorted(name for name in tensors if name.startswith("self_key_"))
        self._clear({name: tensor_bytes(tensors[name], self.sizes) for name in tensors if name.startswith("self_")})
        heads, head_dim = (int(size) for size in tensors[self.caches[0]].shape[2::2])
        self.self_dims = SelfDims(
            batch=batch,
            beams=beams,
            heads=heads,
            head_dim=head_dim,
            max_length=capacity,
            row_stride=heads * head_dim,
            dtype=DTYPES[tensors[self.caches[0]].dtype],
        )
        self.engine = lane.bind(part, self.sizes, self.addresses)
        self._searches: OrderedDict[SearchConfig, Search] = OrderedDict()
        self._reserve(SearchConfig(beams=beams, max_new_tokens=capacity - 1))

    def _clear(self, sizes: dict[str, int]) -> None:
        """Zeroes the caches: a history is followed in whole blocks, and what lies behind it must be finite."""
        for name, size in sizes.items():
            self.lane.device.driver.memset_d8_async(self.addresses[name], 0, size, self.lane.stream)

    def _reserve(self, longest: SearchConfig) -> None:
        """Takes memory for the largest search that fits, which every other one is a part of."""
        dims, memory = self.dims(longest), self.lane.memory
        self.state_bytes = self.lane.kernels.size("florence_beam_state_size", dims)
        self.workspace_bytes = self.lane.kernels.size("florence_beam_step_workspace", dims)
        self.state, self.workspace = memory.take(self.state_bytes), memory.take(self.workspace_bytes)
        self.block = memory.pinned((self.state_bytes,), np.uint8)
        self.progress: Int32Array = memory.pinned((2,), np.int32)

    def dims(self, config: SearchConfig) -> ctypes.Structure:
        """The search as the kernels take it."""
        return beam_dims(config, batch=self.sizes["B"], vocabulary=self.vocabulary)

    def search(self, config: SearchConfig) -> Search:
        """The recorded search for these settings."""
        if config in self._searches:
            self._searches.move_to_end(config)
        else:
            if len(self._searches) == KEPT:
                self._searches.popitem(last=False)[1].close()
            self._searches[config] = Search(self, config)
        return self._searches[config]

    def close(self) -> None:
        """Destroys the recorded graphs; the stream must be idle."""
        while self._searches:
            self._searches.popitem()[1].close()


class Search:
    """One recorded search: begun, replayed, read."""

    def __init__(self, decoder: Decoder, config: SearchConfig) -> None:
        self._decoder, self._config, self._dims = decoder, config, decoder.dims(config)
        self._lane, self._kernels = decoder.lane, decoder.lane.kernels
        self._handle = self._lane.stream.handle
        self._state = BeamState()
        self._kernels.call("florence_beam_state_bind", self._dims, decoder.state, self._state)
        # The engine reads these where they are: its tensors stay bound for good, so the state points at them.
        self._state.position = decoder.addresses["position"]
        self._state.next_tokens = decoder.addresses["token_ids"]
        self._state.image_done = decoder.addresses["image_done"]
        self._slots = self._state.indirection
        self._aligned = config.max_new_tokens + 1 == decoder.capacity
        if self._aligned:
            self._state.indirection = decoder.addresses["indirection"]
        self._progress = decoder.progress.ctypes.data
        self._graph: ctypes.c_void_p | None = None
        self.result = SearchResult(self._kernels, self._dims, decoder.block, config)

    def begin(self) -> None:
        """Starts the search; the encoder was enqueued before. Records the step when there is no graph yet."""
        self._decoder.progress[:] = self._decoder.sizes["B"], 1
        self._kernels.call("florence_beam_begin", self._dims, self._state, self._progress, self._handle)
        if self._graph is None:
            # TensorRT sets a context up at its first run, which cannot be recorded. The run changes no state.
            self._decoder.engine.enqueue()
            self._lane.stream.synchronize()
            self._graph = self._record()

    def run(self) -> None:
        """Replays steps until every image is done, without ever waiting for the device to be idle."""
        launched = 0
        while launched < self._config.max_new_tokens and self._searching:
            self._launch()
            launched += 1
            self._wait(launched - IN_FLIGHT + 1)

    def steps(self) -> Iterator[int]:
        """Replays step by step and copies the state after each; yields the tokens per sequence."""
        for _ in range(self._config.max_new_tokens):
            if not self._searching:
                return
            self._launch()
            self.fetch()
            yield self._length

    def fetch(self) -> None:
        """Copies the state to the host, behind all that was launched, and waits for it."""
        self._lane.device.driver.memcpy_dtoh_async(self._decoder.block, self._decoder.state, self._lane.stream)
        self._lane.stream.synchronize()

    def close(self) -> None:
        """Destroys the graph."""
        if self._graph is not None:
            self._kernels.call("florence_graph_destroy", self._graph)
            self._graph = None

    @property
    def _searching(self) -> bool:
        """Whether any image is still searching, as far as the host can see."""
        return bool(self._decoder.progress[0])

    @property
    def _length(self) -> int:
        """Tokens per sequence, as far as the host can see."""
        return int(self._decoder.progress[1])

    def _launch(self) -> None:
        self._kernels.call("florence_graph_launch", self._graph, self._handle)

    def _wait(self, steps: int) -> None:
        """Waits until so many steps are done, or the search is; sleeps, so that other threads run."""
        polls = 0
        while self._length <= steps and self._searching:
            time.sleep(_POLL_S)
            polls += 1
            # A stream that is idle, or broken, will report nothing more.
            idle = polls % _POLLS_BETWEEN_CHECKS == 0 and self._lane.stream.is_done()
            if idle and self._length <= steps and self._searching:
                raise BackendError(
                    f"the decoder stopped after {self._length - 1} tokens without finishing; the GPU reports no fault: "
                    "verify the engines (florence-edge verify) and report this"
                )

    def _record(self) -> ctypes.c_void_p:
        """Captures one step as a CUDA graph."""
        graph, nodes = ctypes.c_void_p(), ctypes.c_uint64()
        with self._capturing():
            self._step()
        self._kernels.call("florence_graph_end", self._handle, graph, nodes)
        if not nodes.value:
            raise BackendError("the recorded decoder step is empty: the engine did not run on its stream")
        self._kernels.call("florence_graph_upload", graph, self._handle)
        return graph

    @contextmanager
    def _capturing(self) -> Iterator[None]:
        """Leaves the stream usable when recording fails."""
        self._kernels.call("florence_graph_begin", self._handle)
        try:
            yield
        except BaseException:
            self._kernels.call("florence_graph_abort", self._handle)
            raise

    def _step(self) -> None:
        """Enqueues one step."""
        decoder, address = self._decoder, self._decoder.addresses
        decoder.engine.enqueue()
        for key in decoder.caches:
            value = key.replace("_key_", "_value_")
            self._kernels.call(
                "florence_kv_append",
                decoder.self_dims,
                address[key.replace("self_", "new_")],
                address[value.replace("self_", "new_")],
                address[key],
                address[value],
                address["position"],
                address["image_done"],
                self._handle,
            )
        beam_step: tuple[Any, ...] = (self._dims, self._state, address["logits"], self._progress, decoder.workspace)
        self._kernels.call("florence_beam_step", *beam_step, self._handle)
        if not self._aligned:
            self._spread()

    def _spread(self) -> None:
        """Copies histories of `max_length` slots to the rows of `capacity` slots that the engine reads."""
        driver, length = self._lane.device.driver, self._config.max_new_tokens + 1
        for row in range(self._decoder.rows):
            to = self._decoder.addresses["indirection"] + row * self._decoder.capacity
            driver.memcpy_dtod_async(to, self._slots + row * length, length, self._lane.stream)
