"""Whether a build fits into memory, asked before it starts: a Jetson that runs out kills the build, or hangs.

The need is an estimate: the weights three times (file, network, plan), room for tactics, and what the libraries take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from florence_edge.cli.output import size
from florence_edge.errors import BuildError

from .settings import MEBIBYTE, Settings

_COPIES = 3
_LIBRARIES = 1200 * MEBIBYTE
_DEFAULT_TACTICS = 1024 * MEBIBYTE
_MEMINFO = re.compile(r"^(MemAvailable|SwapFree):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Available:
    """Bytes that are free: `host` with swap, `device` None where GPU and CPU share one memory (Jetson)."""

    host: int
    device: int | None

    @classmethod
    def now(cls, device: int, root: Path = Path("/")) -> Available:
        """What is free now; `device` is what CUDA reports, `root` where `proc` and `etc` lie."""
        found = dict(_MEMINFO.findall((root / "proc/meminfo").read_text(encoding="utf-8")))
        host = sum(int(value) for value in found.values()) * 1024
        return cls(host, None if (root / "etc/nv_tegra_release").is_file() else device)


def needed(weights: int, settings: Settings) -> int:
    """Bytes that building an engine takes, of weights of so many bytes."""
    tactics = (settings.workspace + settings.tactics) * MEBIBYTE or _DEFAULT_TACTICS
    return _COPIES * weights + tactics + _LIBRARIES


def check_memory(weights: int, settings: Settings, free: Available, *, low_memory: bool) -> None:
    """Raises `BuildError` where the build of the largest engine would not fit."""
    wanted = needed(weights, settings)
    places = {"memory": free.host} if free.device is None else {"memory": free.host, "GPU memory": free.device}
    short = [f"{size(found)} of {place} are free" for place, found in places.items() if found < wanted]
    if not short:
        return
    cures = "stop the desktop (sudo systemctl isolate multi-user.target) and other programs, or add swap"
    if not low_memory:
        cures = f"pass --low-memory, {cures}"
    raise BuildError(f"the largest engine needs about {size(wanted)} to be built, but {' and '.join(short)}; {cures}")
