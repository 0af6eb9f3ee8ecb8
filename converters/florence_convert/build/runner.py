"""Runs one graph on arrays: as an engine on the device, or in ONNX Runtime. What the gate compares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from florence_edge.backends.onnx import open_session
from florence_edge.backends.tensorrt.device import Device, Memory
from florence_edge.backends.tensorrt.engines import Part, shape_of, tensor_bytes
from florence_edge.backends.tensorrt.stages import BoundEngine
from florence_edge.errors import BackendError
from florence_edge.geometry import AnyArray

Arrays = Mapping[str, AnyArray]


class EngineRunner:
    """An engine that runs at whatever built size its inputs have; everything is taken and freed at every call."""

    def __init__(self, part: Part, device: Device) -> None:
        self._part, self._device = part, device

    def run(self, inputs: Arrays, sizes: Mapping[str, int]) -> dict[str, AnyArray]:
        """Outputs by name, for inputs whose letters have these sizes."""
        with self._device.active():
            memory = Memory(self._device)
            try:
                return self._run(inputs, sizes, memory)
            finally:
                memory.free()

    def _run(self, inputs: Arrays, sizes: Mapping[str, int], memory: Memory) -> dict[str, AnyArray]:
        """The same. Stream and context end with this call, while the device is active."""
        driver, graph, stream = self._device.driver, self._part.graph, self._device.stream()
        addresses = {
            tensor.name: memory.take(tensor_bytes(tensor, sizes)) for tensor in (*graph.inputs, *graph.outputs)
        }
        scratch = self._part.scratch
        room = (memory.take(scratch), scratch)
        bound = BoundEngine(self._part, sizes, addresses, scratch=room, stream=stream)
        for tensor in graph.inputs:
            given = np.ascontiguousarray(inputs[tensor.name], np.dtype(tensor.dtype))
            driver.memcpy_htod_async(addresses[tensor.name], given, stream)
            stream.synchronize()  # pageable memory must outlive its copy
        bound.enqueue()
        found: dict[str, AnyArray] = {}
        for tensor in graph.outputs:
            found[tensor.name] = np.empty(shape_of(tensor, sizes), np.dtype(tensor.dtype))
            driver.memcpy_dtoh_async(found[tensor.name], addresses[tensor.name], stream)
        stream.synchronize()
        return found


class GraphRunner:
    """A lowered graph in ONNX Runtime on the CPU."""

    def __init__(self, graph: Path) -> None:
        self._path, self._session = graph, open_session(graph)
        self._types = {value.name: _NUMPY[value.type] for value in self._session.get_inputs()}

    def run(self, inputs: Arrays) -> dict[str, AnyArray]:
        """Outputs by name; inputs are given the types that the graph takes."""
        names = [output.name for output in self._session.get_outputs()]
        feeds = {name: np.ascontiguousarray(inputs[name], dtype) for name, dtype in self._types.items()}
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise BackendError(f"ONNX Runtime failed in {self._path}: {error}") from error


_NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}
