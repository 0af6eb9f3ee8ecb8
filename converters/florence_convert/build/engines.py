"""One engine after the other: built unless an equal one is there, then measured. Each has its sidecar written last."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from florence_convert.lowering import Buckets, LoweredPart
from florence_edge.backends.tensorrt.device import Device
from florence_edge.backends.tensorrt.engines import load_plugins, open_part
from florence_edge.backends.tensorrt.plugins import PluginLibrary
from florence_edge.backends.tensorrt.sidecar import (
    Gate,
    Machine,
    Plugins,
    Sidecar,
    plan_version,
    read_sidecar,
    sidecar_path,
)
from florence_edge.backends.tensorrt.surface import Platform
from florence_edge.bundle import file_record, sha256
from florence_edge.errors import BuildError, EngineFileError
from florence_edge.files import cache_folder
from florence_edge.manifest import FileRecord, Graph

from .assemble import engine_name, profile_sizes
from .gate import Sample, measure
from .origin import origin_of
from .runner import EngineRunner
from .settings import Job, Settings
from .worker import PlanBuilder


@dataclass(frozen=True, eq=False)
class Bench:
    """What every engine of a build is made with: the machine, its libraries, and where things lie."""

    platform: Platform
    device: Device
    machine: Machine
    plugins: Callable[[], PluginLibrary]
    builder: PlanBuilder
    settings: Settings
    folder: Path
    command: str

    def timing_cache(self) -> Path:
        """TensorRT's timings, which hold for one version of it on one kind of GPU alone."""
        here = self.machine
        key = hashlib.sha256(f"{here.gpu} {here.processors}".encode()).hexdigest()[:8]
        return cache_folder("timing") / f"tensorrt-{here.tensorrt}-sm{here.sm}-{key}.cache"


def make_engine(
    bench: Bench, part: LoweredPart, buckets: Buckets, on_progress: Callable[[float], None]
) -> tuple[Path, Sidecar]:
    """The engine of a part and its sidecar, not yet measured; an equal one that was built before is kept."""
    path = bench.folder / engine_name(part.name)
    wanted = _sidecar(bench, part, buckets)
    kept = _kept(path, wanted)
    if kept is not None:
        on_progress(1.0)
        return path, kept
    sidecar_path(path).unlink(missing_ok=True)
    cache = bench.timing_cache()
    cache.parent.mkdir(parents=True, exist_ok=True)
    library = bench.plugins() if part.plugins else None
    job = Job(
        graph=str(part.tensorrt),
        out=str(path),
        profiles=tuple(dict(profile.shapes) for profile in part.profiles(buckets)),
        settings=bench.settings,
        timing_cache=str(cache),
        plugin_library=str(library.path) if library else None,
        plugin_names=tuple(sorted(part.plugins)),
        plugin_layers=sum(part.plugins.values()),
    )
    started = time.monotonic()
    bench.builder.build(job, on_progress)
    if not path.is_file():
        raise BuildError(f"the builder ended without writing {path}; free disk space and run the same command again")
    plan_version(path)
    built = replace(wanted, engine=file_record(path), seconds=round(time.monotonic() - started, 1))
    built.save(path)
    return path, built


def gate_engine(bench: Bench, part: LoweredPart, path: Path, sidecar: Sidecar, samples: list[Sample]) -> Sidecar:
    """The same sidecar with the engine's measured error, written beside it."""
    graph = Graph(path.name, part.inputs, part.outputs)
    with bench.device.active():
        load_plugins(bench.platform, [sidecar], lambda version: bench.plugins())
        opened = open_part(path, graph, sidecar, bench.platform)
    measured = replace(sidecar, gate=measure(part, EngineRunner(opened, bench.device), samples))
    measured.save(path)
    return measured


def passes(gate: Gate) -> bool:
    """Whether an engine is exact enough."""
    return gate.error <= gate.tolerance


def _sidecar(bench: Bench, part: LoweredPart, buckets: Buckets) -> Sidecar:
    """What the sidecar will say; the engine's own hash and the time it took are not known yet."""
    library = bench.plugins() if part.plugins else None
    return Sidecar(
        part=part.name,
        engine=FileRecord("0" * 64, 0),
        precision=part.precision,
        machine=bench.machine,
        origin=origin_of(part.tensorrt),
        plugins=Plugins(library.abi if library else 0, sha256(library.path) if library else "", part.plugins),
        buckets=profile_sizes(part, buckets),
        settings=asdict(bench.settings),
        seconds=0.0,
        command=bench.command,
    )


def _kept(path: Path, wanted: Sidecar) -> Sidecar | None:
    """The sidecar of an engine that was built of the same things for the same machine, if it is unaltered."""
    try:
        found = read_sidecar(path)
    except EngineFileError:
        return None
    same = replace(wanted, engine=found.engine, seconds=found.seconds, gate=found.gate)
    if found != same or not path.is_file() or sha256(path) != found.engine.sha256:
        return None
    return found
