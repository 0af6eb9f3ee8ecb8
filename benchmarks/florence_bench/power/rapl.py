"""Intel's and AMD's energy counters as Linux shows them: `/sys/class/powercap/intel-rapl:*` (microjoules)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RaplZone:
    """A package or the whole platform; zones inside a package are left out, for it counts them already."""

    folder: Path
    name: str

    def energy(self) -> int:
        """The counter, in microjoules since some moment."""
        return int((self.folder / "energy_uj").read_text())

    def between(self, before: int, after: int) -> float:
        """Joules between two readings, of which the counter may have run over once."""
        spent = after - before
        if spent < 0:
            spent += int((self.folder / "max_energy_range_uj").read_text()) + 1
        return spent / 1e6


def zones(root: Path = Path("/")) -> tuple[RaplZone, ...]:
    """The zones that may be read; since 2020 that mostly takes root's rights."""
    found = []
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if folder.name.count(":") != 1:
            continue
        try:
            zone = RaplZone(folder, (folder / "name").read_text().strip())
            zone.energy()
        except (OSError, ValueError):
            continue
        found.append(zone)
    platform = [zone for zone in found if zone.name.startswith("psys")]
    return tuple(platform or found)
