"""What a build is asked for, and the jobs it is made of. Plain values only: a job travels to another process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from florence_edge.errors import InputError

MEBIBYTE = 1 << 20
Precision = Literal["fp16", "bf16", "fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "fp32", "int8")


@dataclass(frozen=True)
class BuildOptions:
    """What `florence-edge build` takes.

    `beams` are the numbers of beams that searches may use (None: one, and the bundle's own). `calibration` are pictures
    such as the model will see, files or folders, for "int8". `data` is annotated data as `florence-edge eval` takes it:
    the first `limit` images say what the engines lose of every task's metric, and a mean of more than `max_loss` is
    refused. `low_memory` is for boards with 8 GB: less room for
    tactics, and fewer of them tried. Engines that were built before with the same result are kept, unless `fresh`.
    """

    precision: Precision = "fp16"
    batches: tuple[int, ...] = (1,)
    beams: tuple[int, ...] | None = None
    calibration: tuple[str, ...] = ()
    low_memory: bool = False
    overwrite: bool = False
    fresh: bool = False
    data: str | None = None
    limit: int = 40
    max_loss: float = 0.02

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; engines are built in {', '.join(PRECISIONS)}")
        if (self.precision == "int8") != bool(self.calibration):
            raise InputError(
                "int8 needs pictures such as the model will see, to measure ranges on, and no other precision has use "
                "for them: give --precision int8 --calibration FOLDER"
            )


@dataclass(frozen=True)
class Settings:
    """How TensorRT builds: its optimisation level (0 to 5), and limits in MiB (0: TensorRT's own)."""

    level: int
    workspace: int
    tactics: int

    @classmethod
    def of(cls, options: BuildOptions) -> Settings:
        """TensorRT's defaults, or what an 8 GB board can bear."""
        return LOW_MEMORY if options.low_memory else cls(level=3, workspace=0, tactics=0)


LOW_MEMORY = Settings(level=2, workspace=256, tactics=512)


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Job:
    """One engine to build: the graph for TensorRT, per profile the smallest, usual and largest shape of every input,
    the plugin library (None: no plugins) and how many plugin layers the parsed network must have.
    """

    graph: str
    out: str
    profiles: tuple[Mapping[str, Shapes], ...]
    settings: Settings
    timing_cache: str
    plugin_library: str | None
    plugin_names: tuple[str, ...]
    plugin_layers: int

    def save(self, path: Path) -> None:
        """Writes the job for another process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Job:
        """The inverse of `save`."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "settings": Settings(**values["settings"])})
