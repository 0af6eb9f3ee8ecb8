"""Clocks, power mode and throttling at one moment: what else decides a latency beside the program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .nvml import Nvml

_THROTTLE_COUNTERS = (
    "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
)
"""Counters that rise when Intel cores were throttled, and when a Jetson ran into its over-current limits."""
_GOVERNORS = "sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"


@dataclass(frozen=True)
class Conditions:
    """The machine at one moment.

    `clocks_mhz` maps `cpu`, a device (`17000000.gpu`) or `GPU 0 sm` to its present clock, `temperatures` a sensor to
    degrees Celsius. `power_mode` is the mode's name (its number differs from release to release), `governor` the
    processor's. `throttle_events` counts since the machine was started, `throttling` names what holds clocks down now.
    `load` is the load average of the last minute.
    """

    clocks_mhz: Mapping[str, float]
    temperatures: Mapping[str, float]
    power_mode: str | None
    governor: str | None
    throttle_events: int
    throttling: tuple[str, ...]
    load: float | None


def look(root: Path = Path("/")) -> Conditions:
    """The conditions now."""
    with Nvml.open() as nvml:
        gpus = list(nvml.gpus())
        clocks = {f"GPU {i} {name}": float(mhz) for i, gpu in enumerate(gpus) for name, mhz in gpu.clocks_mhz().items()}
        throttling = tuple(f"GPU {i}: {reason}" for i, gpu in enumerate(gpus) for reason in gpu.throttling())
    governors = sorted({text for path in root.glob(_GOVERNORS) if (text := _text(path))})
    load = re.match(r"[\d.]+", _text(root / "proc/loadavg"))
    return Conditions(
        clocks_mhz={**_cpu_clock(root), **_device_clocks(root), **clocks},
        temperatures=_temperatures(root),
        power_mode=power_mode(root),
        governor=", ".join(governors) or None,
        throttle_events=sum(_number(path) or 0 for pattern in _THROTTLE_COUNTERS for path in root.glob(pattern)),
        throttling=throttling,
        load=float(load[0]) if load else None,
    )


def power_mode(root: Path = Path("/"), command: str = "nvpmodel") -> str | None:
    """The name of a Jetson's power mode, or the platform profile of other machines."""
    if shutil.which(command):
        try:
            done = subprocess.run([command, "-q"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        named = re.search(r"NV Power Mode:\s*(\S+)", done.stdout)
        if named:
            return named[1]
    return _text(root / "sys/firmware/acpi/platform_profile") or None


def _cpu_clock(root: Path) -> dict[str, float]:
    """The mean over the cores; cpufreq has kilohertz, `/proc/cpuinfo` megahertz."""
    kilohertz = [_number(path) for path in root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")]
    known = [value / 1e3 for value in kilohertz if value]
    if not known:
        known = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo"), re.M)]
    return {"cpu": round(sum(known) / len(known), 1)} if known else {}


def _device_clocks(root: Path) -> dict[str, float]:
    """Devices with a clock of their own, a Jetson's GPU among them (hertz)."""
    return {
        path.parent.name: hertz / 1e6 for path in root.glob("sys/class/devfreq/*/cur_freq") if (hertz := _number(path))
    }


def _temperatures(root: Path) -> dict[str, float]:
    """Thermal zones by type (millidegrees)."""
    found = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            found[_text(zone / "type") or zone.name] = value / 1e3
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
