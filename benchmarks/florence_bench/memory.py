"""Memory of this process and of its GPU, read where the system keeps count."""

from __future__ import annotations

import re
import resource
from pathlib import Path

_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def peak_resident(root: Path = Path("/")) -> int:
    """The most bytes this process ever had in memory.

    Linux' own high-water mark (`VmHWM`), which begins anew with every program; elsewhere `ru_maxrss`, which a process
    inherits from the one that started it.
    """
    try:
        found = _HIGH_WATER.search((root / "proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
