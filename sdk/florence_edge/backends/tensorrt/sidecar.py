"""The JSON file beside an engine: what the engine was made from, for which machine, and how exact it was measured.

The engine itself is a plain TensorRT plan that trtexec can load. Both are checked before TensorRT sees the plan: one of
another version or machine fails there without saying why, and a plan is code.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from florence_edge import files
from florence_edge.bundle import sha256
from florence_edge.errors import EngineDeviceError, EngineFileError, EngineVersionError, listing
from florence_edge.manifest import FileRecord, Precision
from florence_edge.schema import decode

from .device import Device

FORMAT = 1
_HEADER = struct.Struct("<II16x4B")
_MAGIC = 0x74727466
"""`ftrt`, with which every plan begins; bytes 24 to 27 are TensorRT's version (samples/common/sampleEngines.cpp)."""


@dataclass(frozen=True)
class Machine:
    """What an engine is built for: GPU, compute capability (87 is 8.7), number of multiprocessors, TensorRT version.

    Boards of one name may differ in their multiprocessors (Orin Nano and NX), and tactics are chosen for them.
    """

    gpu: str
    sm: int
    processors: int
    tensorrt: str


@dataclass(frozen=True)
class Origin:
    """What an engine was built from: SHA-256 of the ONNX graph and of its weight file."""

    graph: str
    weights: str


@dataclass(frozen=True)
class Plugins:
    """The plugin library an engine was built with: its ABI number, its SHA-256, and layers per plugin."""

    abi: int
    library: str
    layers: Mapping[str, int]


@dataclass(frozen=True)
class Gate:
    """The engine against the fp32 graph on the same inputs.

    `error` is the largest absolute difference over all outputs, `tolerance` what was allowed, `rounding` the error of
    the engine's own graph in ONNX Runtime: what the precision costs, whoever computes it.
    """

    error: float
    tolerance: float
    rounding: float


@dataclass(frozen=True)
class Sidecar:
    """All that a sidecar says.

    `buckets` are the engine's optimisation profiles in order: each maps a size (B images, K beams, P prompt tokens,
    L cached positions, S image and prompt tokens) to its smallest and largest value. `command` builds it again.
    """

    part: str
    engine: FileRecord
    precision: Precision
    machine: Machine
    origin: Origin
    plugins: Plugins
    buckets: tuple[Mapping[str, tuple[int, int]], ...]
    settings: Mapping[str, int]
    seconds: float
    command: str
    gate: Gate | None = None
    format: int = FORMAT

    def save(self, engine: Path) -> None:
        """Writes the sidecar of this engine."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files.write(sidecar_path(engine), text.encode())


def sidecar_path(engine: Path) -> Path:
    """`vision.engine.json` beside `vision.engine`."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar:
    """The sidecar of an engine; `EngineFileError` where it is missing or not valid."""
    path, faults = sidecar_path(engine), list[str]()
    rebuild = "build the bundle again: florence-edge build BUNDLE"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineFileError(f"{path} cannot be read: {error}; {rebuild}") from error
    found = decode(Sidecar, values, faults=faults)
    if found is None:
        raise EngineFileError(listing(f"{path} is not valid; {rebuild}:", faults))
    if found.format != FORMAT:
        raise EngineFileError(f"{path} has format {found.format}, this version reads {FORMAT}; {rebuild}")
    return found


def plan_version(plan: Path) -> tuple[int, int, int, int]:
    """The version of TensorRT that wrote a plan; `EngineFileError` for a file that is none."""
    with plan.open("rb") as stream:
        head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise EngineFileError(f"{plan} has {len(head)} bytes: it is no TensorRT plan; build the bundle again")
    magic, _, *version = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise EngineFileError(f"{plan} does not begin as a TensorRT plan does; build the bundle again")
    major, minor, patch, build = version
    return major, minor, patch, build


def check_engine(engine: Path, sidecar: Sidecar, here: Machine) -> None:
    """Raises the named error of the first thing that keeps this engine from running here.

    `EngineFileError`: altered. `EngineVersionError`: another TensorRT. `EngineDeviceError`: another GPU.
    """
    again = f"build it again, here: {sidecar.command}"
    there = sidecar.machine
    if not engine.is_file():
        raise EngineFileError(f"{engine} is missing; {again}")
    if engine.stat().st_size != sidecar.engine.bytes or sha256(engine) != sidecar.engine.sha256:
        raise EngineFileError(f"{engine} was altered: it is not the file that its sidecar describes; {again}")
    written, said = plan_version(engine), _numbers(there.tensorrt)
    if written[: len(said)] != said:
        shown = ".".join(map(str, written))
        raise EngineFileError(f"{engine} was written by TensorRT {shown}, its sidecar says {there.tensorrt}; {again}")
    if there.tensorrt != here.tensorrt:
        raise EngineVersionError(
            f"{engine} was built by TensorRT {there.tensorrt}, this machine has {here.tensorrt}, and an engine runs in "
            f"the version that built it alone; {again}"
        )
    if (there.gpu, there.sm, there.processors) != (here.gpu, here.sm, here.processors):
        raise EngineDeviceError(
            f"{engine} was built for {_shown(there)}, this machine has {_shown(here)}; an engine runs on the GPU it "
            f"was built for; {again}"
        )


def machine(device: Device, tensorrt: str) -> Machine:
    """This machine, as a sidecar describes one."""
    return Machine(device.name, device.sm, device.processors, tensorrt)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of `10.3.0` or `10.3.0.26`, at most the four that a plan holds."""
    return tuple(int(part) for part in version.split(".")[:4] if part.isdigit())


def _shown(machine: Machine) -> str:
    return f"{machine.gpu} (sm_{machine.sm}, {machine.processors} multiprocessors)"
