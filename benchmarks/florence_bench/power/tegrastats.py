"""The lines that NVIDIA's `tegrastats` prints on a Jetson, from JetPack 4 to 7.

RAM 2820/7620MB (lfb 3x4MB) CPU [12%@1510,off] EMC_FREQ 3%@2133 GR3D_FREQ 45%@[611] VDD_IN 5080mW/5080mW tj@51.5C
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

_MEMORY = re.compile(r"\bRAM (\d+)/(\d+)MB")
_EMC = re.compile(r"\bEMC_FREQ (?:(\d+)%)?(?:@(\d+))?")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)))?")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
_TEMPERATURE = re.compile(r"\b(\w+)@(-?[\d.]+)C\b")


@dataclass(frozen=True)
class TegraLine:
    """One line. Loads are shares (0..1), clocks MHz, power watts at that moment, temperatures degrees Celsius."""

    memory_bytes: int | None
    gpu_load: float | None
    gpu_mhz: tuple[int, ...]
    memory_load: float | None
    memory_mhz: int | None
    watts: Mapping[str, float]
    temperatures: Mapping[str, float]


def parse(line: str) -> TegraLine:
    """What a line says; what it does not say is None or empty."""
    memory, emc, gpu = _MEMORY.search(line), _EMC.search(line), _GPU.search(line)
    clocks = (gpu[2] or gpu[3] or "") if gpu else ""
    return TegraLine(
        memory_bytes=int(memory[1]) * 2**20 if memory else None,
        gpu_load=int(gpu[1]) / 100 if gpu and gpu[1] else None,
        gpu_mhz=tuple(int(clock) for clock in clocks.split(",") if clock),
        memory_load=int(emc[1]) / 100 if emc and emc[1] else None,
        memory_mhz=int(emc[2]) if emc and emc[2] else None,
        watts={name: int(now) / 1e3 for name, now, _ in _RAIL.findall(line)},
        temperatures={name: float(degrees) for name, degrees in _TEMPERATURE.findall(line)},
    )


@contextmanager
def running(command: str = "tegrastats", interval_ms: int = 100) -> Iterator[dict[str, list[float]]]:
    """Power readings in watts per rail, filled from a running `tegrastats` until the block ends; empty without one."""
    readings: dict[str, list[float]] = {}
    if shutil.which(command) is None:
        yield readings
        return
    with subprocess.Popen([command, "--interval", str(interval_ms)], stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout or ()

        def read() -> None:
            for line in lines:
                for rail, watts in parse(line).watts.items():
                    readings.setdefault(rail, []).append(watts)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield readings
        finally:
            process.terminate()
            reader.join()
