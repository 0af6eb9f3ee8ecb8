"""Work of fixed sizes and addresses that is recorded as a CUDA graph, so that doing it again is a single launch."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable

from florence_edge.errors import BackendError

from .device import Device
from .surface import CudaStream, Kernels

_LOG = logging.getLogger(__name__)


class Recording:
    """Work on one stream: done as it is the first time, recorded the second, replayed from then on.

    TensorRT sets a context up in its first run and CUDA loads kernels when they are first launched; neither may happen
    in a recording. Where recording is refused, the work is done as it is for good, and the log says so once.
    """

    def __init__(self, what: str, *, device: Device, kernels: Kernels, stream: CudaStream) -> None:
        """`what` names the work in the log."""
        self._what, self._device, self._kernels, self._stream = what, device, kernels, stream
        self._graph: ctypes.c_void_p | None = None
        self._ran = self._refused = False

    def run(self, work: Callable[[], None]) -> None:
        """Does `work`, which puts the same on the stream every time and neither waits nor allocates.

        The device must be active. The work is not kept: it may hold pinned memory, which only goes with its last user.
        """
        if self._ran and self._graph is None and not self._refused:
            self._graph = self._record(work)
            self._refused = self._graph is None
        if self._graph is not None:
            self._kernels.call("florence_graph_launch", self._graph, self._stream.handle)
        else:
            work()
            self._ran = True

    def close(self) -> None:
        """Destroys the graph; the stream must be idle."""
        if self._graph is not None:
            self._kernels.call("florence_graph_destroy", self._graph)
            self._graph = None

    def _record(self, work: Callable[[], None]) -> ctypes.c_void_p | None:
        """The graph, or None where it was refused."""
        graph, nodes = ctypes.c_void_p(), ctypes.c_uint64()
        self._stream.synchronize()
        try:
            self._capture(work)
            self._kernels.call("florence_graph_end", self._stream.handle, graph, nodes)
            if not nodes.value:
                raise BackendError("the recording is empty")
            self._kernels.call("florence_graph_upload", graph, self._stream.handle)
        except (BackendError, self._device.driver.Error) as error:
            _LOG.warning("%s is not recorded as a CUDA graph and runs slower: %s", self._what, error)
            if graph.value:
                self._kernels.call("florence_graph_destroy", graph)
            return None
        return graph

    def _capture(self, work: Callable[[], None]) -> None:
        """Records the work, and leaves the stream usable where that fails."""
        self._kernels.call("florence_graph_begin", self._stream.handle)
        try:
            work()
        except BaseException:
            self._kernels.call("florence_graph_abort", self._stream.handle)
            raise
