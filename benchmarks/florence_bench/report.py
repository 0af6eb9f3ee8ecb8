"""Everything one run found, as a frozen dataclass: written to JSON, read back strictly.

Times are milliseconds where a name says `_ms` and seconds where it says `seconds`; memory is bytes, energy joules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import listing
from florence_edge.options import SearchConfig
from florence_edge.schema import decode

from .camera import Camera
from .errors import BenchmarkError
from .growth import Growth
from .machine import Machine
from .pictures import Picture
from .power.conditions import Conditions
from .power.meter import Energy
from .roofline import Roofline
from .scenarios import Scenario
from .series import Series
from .settings import RaceSettings, Settings
from .stages import Stages
from .standings import Race

FORMAT = 1
"""Changes when older readers could misread a result."""
SCHEMA = Path(__file__).with_name("report.schema.json")


@dataclass(frozen=True)
class Model:
    """The bundle that was measured; `identity` is a digest over all that can change an answer."""

    name: str
    identity: str
    precision: str
    bytes: int
    height: int
    width: int
    search: SearchConfig
    engine: str


@dataclass(frozen=True)
class Footprint:
    """Cold start and memory of fresh processes that answer one question each.

    `cold_start_ms` runs from the start of the process to the answer; files are in the page cache.
    """

    cold_start_ms: Series
    peak_resident_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class Report:
    """One run. What was not asked for, or cannot be told on this machine, is None or empty."""

    format: int
    created: str
    seconds: float
    machine: Machine
    settings: Settings
    race_settings: RaceSettings
    model: Model
    images: tuple[Picture, ...]
    stages: Stages
    footprint: Footprint | None
    scenarios: tuple[Scenario, ...]
    camera: Camera | None
    energy: Energy | None
    roofline: Roofline | None
    growth: tuple[Growth, ...]
    race: Race | None
    before: Conditions
    after: Conditions
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Strict JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Report:
        """The inverse of `to_dict`; `BenchmarkError` lists every fault."""
        number = values.get("format") if isinstance(values, Mapping) else None
        if number != FORMAT:
            raise BenchmarkError(f"the result has format {number!r}; this florence-edge reads format {FORMAT}")
        faults: list[str] = []
        report = decode(cls, values, faults=faults)
        if report is None:
            raise BenchmarkError(listing("this is no benchmark result:", faults))
        return report

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads a result file."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{path} cannot be read as a result: {error}") from error
        except BenchmarkError as error:
            raise BenchmarkError(f"{path}: {error}") from error
