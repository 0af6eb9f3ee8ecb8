"""Whether a build fits into memory, asked before it starts: a Jetson that runs out kills the build, or hangs.

The need is an estimate. Three times the bundle's weights are what measuring the engines took of a base model (2.5 GB
where the weights have 0.93 GB), and more than five copies of its largest engine in fp32, which is what a builder holds
(file, network, device, plan, the plan's copy). To that come room for tactics and a guess at what the libraries take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from florence_edge.errors import BuildError
from florence_edge.health.checks import text_of
from florence_edge.units import size

from .settings import LOW_MEMORY, MEBIBYTE, Settings

_COPIES = 3
_LIBRARIES = 1200 * MEBIBYTE
_DEFAULT_TACTICS = 1024 * MEBIBYTE
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
_SWAP = re.compile(r"^(\S+)\s+\S+\s+(\d+)\s+(\d+)", re.MULTILINE)
"""A line of /proc/swaps: name, kind, size and what is used of it, in kB."""


@dataclass(frozen=True)
class Available:
    """Bytes that are free: `host` with swap on a disk, `device` None where GPU and CPU share one memory (Jetson)."""

    host: int
    device: int | None

    @classmethod
    def now(cls, device: int, root: Path = Path("/")) -> Available:
        """What is free now; `device` is what CUDA reports, `root` where `proc` and `etc` lie.

        JetPack's own swap, zram, lies in the memory that it should relieve, and is not counted.
        """
        free = [int(value) for value in _AVAILABLE.findall(text_of(root / "proc/meminfo"))]
        for name, size_kb, used_kb in _SWAP.findall(text_of(root / "proc/swaps")):
            if not name.startswith("/dev/zram"):
                free.append(int(size_kb) - int(used_kb))
        return cls(sum(free) * 1024, None if (root / "etc/nv_tegra_release").is_file() else device)


def needed(weights: int, settings: Settings) -> int:
    """Bytes that building an engine takes, of weights of so many bytes."""
    tactics = (settings.workspace + settings.tactics) * MEBIBYTE or _DEFAULT_TACTICS
    return _COPIES * weights + tactics + _LIBRARIES


def check_memory(weights: int, settings: Settings, free: Available) -> None:
    """Raises `BuildError` where the build of the largest engine would not fit."""
    wanted = needed(weights, settings)
    places = {"memory": free.host} if free.device is None else {"memory": free.host, "GPU memory": free.device}
    short = [f"{size(found)} of {place} are free" for place, found in places.items() if found < wanted]
    if not short:
        return
    raise BuildError(
        f"the largest engine needs about {size(wanted)} to be built, but {' and '.join(short)}; {cures(settings)}"
    )


def cures(settings: Settings) -> str:
    """What to do where memory does not suffice for a build."""
    first = "" if settings == LOW_MEMORY else "pass --low-memory, "
    return f"{first}stop the desktop (sudo systemctl isolate multi-user.target) and other programs, or add swap"
