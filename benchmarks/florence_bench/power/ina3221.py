"""The INA3221 power monitors of Jetson boards, through hwmon: voltages in millivolts, currents in milliamperes.

The whole board is the rail that feeds it (`VDD_IN` or `POM_5V_IN`) where there is one, else the sum of all rails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

INPUTS = ("VDD_IN", "POM_5V_IN")
"""Rails that feed a whole board."""
_UNUSED = ("NC", "SUM OF SHUNT VOLTAGES")
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True)
class Rail:
    """One measured supply."""

    name: str
    voltage: Path
    current: Path

    def watts(self) -> float:
        """The present power."""
        return int(self.voltage.read_text()) * int(self.current.read_text()) / 1e6


def rails(root: Path = Path("/")) -> tuple[Rail, ...]:
    """All rails of all monitors that can be read."""
    found = []
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        try:
            if (folder / "name").read_text().strip() != "ina3221":
                continue
        except OSError:
            continue
        for channel in _CHANNELS:
            try:
                label = (folder / f"in{channel}_label").read_text().strip()
                rail = Rail(label, folder / f"in{channel}_input", folder / f"curr{channel}_input")
                if label not in _UNUSED:
                    rail.watts()
                    found.append(rail)
            except (OSError, ValueError):
                continue
    return tuple(found)


def board_watts(readings: Mapping[str, float]) -> float | None:
    """The power of the board from the power of its rails."""
    for name in INPUTS:
        if name in readings:
            return readings[name]
    return sum(readings.values()) if readings else None
