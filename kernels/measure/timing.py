"""How time is taken: CUDA events around replayed recordings, the host's clock around whole answers; always medians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from florence_bench.stats import Summary, summarise
from florence_train.kernels.recording import Recorder

Work = Callable[[], object]


@dataclass(frozen=True)
class Clock:
    """Takes `rounds` samples of work on a device, in microseconds, after `warm_ups` that do not count."""

    device: torch.device
    rounds: int
    warm_ups: int = 5

    def recorded(self, works: Sequence[Work]) -> Summary:
        """One of several pieces of work of the same kind, replayed in one recording: the device's own time.

        Many pieces on tensors of their own keep the caches as cold as they are in a model, and hide the launch.
        """

        def together() -> None:
            for work in works:
                work()

        replay = Recorder(self.device).record(together)
        return summarise([sample / len(works) for sample in self._samples(replay)])

    def called(self, work: Work) -> Summary:
        """Work as a caller waits for it, by the host's clock, until the device is done."""
        samples = []
        for index in range(self.warm_ups + self.rounds):
            self.wait()
            start = perf_counter()
            work()
            self.wait()
            if index >= self.warm_ups:
                samples.append((perf_counter() - start) * 1e6)
        return summarise(samples)

    def wait(self) -> None:
        """Until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _samples(self, work: Work) -> list[float]:
        if self.device.type != "cuda":
            start = perf_counter()
            work()
            return [(perf_counter() - start) * 1e6] * self.rounds
        for _ in range(self.warm_ups):
            work()
        samples = []
        for _ in range(self.rounds):
            before, after = _event(), _event()
            before.record()
            work()
            after.record()
            after.synchronize()
            samples.append(before.elapsed_time(after) * 1e3)
        return samples


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured by torch: bytes copied and operations multiplied per microsecond."""

    bytes_per_us: float
    flops_per_us: float

    def floor_us(self, size: float, flops: float = 0) -> float:
        """The least time for moving `size` bytes and doing `flops` operations."""
        return max(size / self.bytes_per_us, flops / self.flops_per_us)


def ceilings(clock: Clock, dtype: torch.dtype, *, copied: int, side: int) -> Ceilings:
    """Copies `copied` bytes, far more than any cache holds, and multiplies square matrices of `side`."""
    source = torch.zeros(copied, dtype=torch.uint8, device=clock.device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    copy = clock.recorded([lambda: target.copy_(source)])
    product = clock.recorded([lambda: torch.mm(left, right, out=out)])
    return Ceilings(2 * copied / copy.median, 2 * side**3 / product.median)


def second_level_cache(device: torch.device) -> int:
    """Bytes of the GPU's L2 cache; 0 on a CPU."""
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else 0
