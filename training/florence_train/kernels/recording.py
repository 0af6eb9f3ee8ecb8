"""Work that is recorded once as a CUDA graph and then replayed; and how the host follows it without waiting for it.

On the CPU nothing can be recorded: the same work is called directly, everything else stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a recording: libraries choose their algorithms and load their code in the first ones."""
LAG = 2
"""How many steps the host is ahead of what it knows. The device always has that many to do while the host looks."""


_RECORDING = threading.Lock()
"""Torch waits for the whole device when a recording begins, which may not happen during another one."""


class Recorder:
    """Records work on one device. All its recordings share their scratch memory, so they must not run side by side."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Returns what does `work` again, on the current stream: a CUDA graph's replay, or on the CPU `work` itself.

        On a GPU `work` runs first, more than once. It may only read and write tensors that outlive the recording, and
        must not wait for the device.
        """
        if self._device.type != "cuda":
            return work
        with _RECORDING, torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Only this thread's forbidden calls end a recording: others may run a model of their own meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay


class Moment(Protocol):
    """A point in the device's work; `torch.cuda.Event` is one."""

    def record(self) -> None:
        """Marks the end of what was given to the device so far."""
        ...

    def synchronize(self) -> None:
        """Waits until the device has come so far."""
        ...


class Now:
    """A moment on a device that works at once."""

    def record(self) -> None:
        """Nothing is outstanding."""

    def synchronize(self) -> None:
        """Nothing is outstanding."""


class Lookout:
    """Tells the host that a search is over, `LAG` steps late: it waits for an old step, never for the newest.

    Without that wait a host that is quicker than the device would have given it all steps before the first was done.
    """

    def __init__(self, device: torch.device, moment: Callable[[], Moment] | None = None) -> None:
        cuda = device.type == "cuda"
        self._moments = [(moment or (torch.cuda.Event if cuda else Now))() for _ in range(LAG)]
        # The device writes to pinned memory by itself, while the host goes on.
        self._told = torch.zeros(LAG, 2, dtype=torch.int32, pin_memory=cuda)
        self._left = self._told.numpy()[:, 0]
        self._steps = 0

    def begin(self) -> None:
        """Forgets what an earlier search told."""
        self._steps = 0

    def over(self, progress: Tensor) -> bool:
        """To be asked after every step, with `SearchState.progress`: whether no image was left `LAG` steps ago."""
        place = self._steps % LAG
        over = False
        if self._steps >= LAG:
            self._moments[place].synchronize()
            over = bool(self._left[place] == 0)
        self._told[place].copy_(progress, non_blocking=True)
        self._moments[place].record()
        self._steps += 1
        return over
