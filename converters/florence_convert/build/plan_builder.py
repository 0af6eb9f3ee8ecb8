"""One engine by Polygraphy and TensorRT, in a process of its own; the one module of this package that imports either.

    python -m florence_convert.build.plan_builder JOB.json

writes the plan and prints a JSON object per line: {"done": 0.25} or {"error": "..."}. A process of its own gives all of
the builder's memory back, and the kernel's out-of-memory killer takes it alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from florence_edge import files
from florence_edge.backends.tensorrt.libraries import tensorrt as find_tensorrt
from florence_edge.backends.tensorrt.plugins import probe, register
from florence_edge.errors import BuildError, FlorenceError

from .phases import Phases
from .settings import MEBIBYTE, Job


def build_plan(job: Job, on_progress: Callable[[float], None]) -> bytes:
    """Parses and builds; `on_progress` is called with the share that is done.

    Networks are strongly typed: precision is in the graph, and no builder flag may change it. TF32 is off.
    """
    from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork, NetworkFromOnnxPath, Profile

    tensorrt: Any = find_tensorrt()
    if job.plugin_library is not None:
        register(tensorrt, probe(Path(job.plugin_library)), job.plugin_names)
    builder, network, parser = NetworkFromOnnxPath(job.graph, strongly_typed=True)()
    check_plugin_layers(tensorrt, network, job)
    profiles = [_profile(Profile(), shapes) for shapes in job.profiles]
    pools = {
        tensorrt.MemoryPoolType.WORKSPACE: job.settings.workspace * MEBIBYTE,
        tensorrt.MemoryPoolType.TACTIC_DRAM: job.settings.tactics * MEBIBYTE,
    }
    config = CreateConfig(
        profiles=profiles,
        load_timing_cache=job.timing_cache if Path(job.timing_cache).is_file() else None,
        memory_pool_limits={pool: limit for pool, limit in pools.items() if limit} or None,
        builder_optimization_level=job.settings.level,
        progress_monitor=_monitor(tensorrt, on_progress),
    )
    plan = EngineBytesFromNetwork((builder, network, parser), config=config, save_timing_cache=job.timing_cache)()
    return bytes(plan)


def check_plugin_layers(tensorrt: Any, network: Any, job: Job) -> None:
    """Raises `BuildError` unless the parser made a plugin layer of every plugin node.

    Some versions prefer other readings of such a node and say nothing; the engine would be right, and slow.
    """
    layers = (network.get_layer(index) for index in range(network.num_layers))
    found = sum(layer.type == tensorrt.LayerType.PLUGIN_V3 for layer in layers)
    if found != job.plugin_layers:
        raise BuildError(
            f"TensorRT {tensorrt.__version__} made {found} plugin layers of {job.graph}, which has {job.plugin_layers} "
            f"plugin nodes ({', '.join(job.plugin_names)}); the plugin library was {job.plugin_library}"
        )


def _profile(profile: Any, shapes: Any) -> Any:
    """A Polygraphy profile of our shapes."""
    for name, (least, usual, most) in shapes.items():
        profile.add(name, min=tuple(least), opt=tuple(usual), max=tuple(most))
    return profile


def _monitor(tensorrt: Any, on_progress: Callable[[float], None]) -> Any:
    """A `tensorrt.IProgressMonitor` that reports the share that is done."""
    phases = Phases()

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]  # the module ships no types
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            on_progress(phases.fraction())
            return True

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def main(arguments: list[str]) -> int:
    """Builds the engine of a job file."""
    job, told = Job.load(Path(arguments[0])), sys.stdout

    def say(**message: object) -> None:
        print(json.dumps(message), file=told, flush=True)

    with redirect_stdout(sys.stderr):  # where Polygraphy's log belongs
        try:
            plan = build_plan(job, lambda share: say(done=round(share, 4)))
        except FlorenceError as error:
            say(error=str(error))
            return 1
        except Exception as error:  # Polygraphy's and TensorRT's own, which have no common base
            say(error=f"{type(error).__name__}: {error}")
            return 1
    files.write(Path(job.out), plan)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
