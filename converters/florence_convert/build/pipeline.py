"""From an ONNX bundle to a bundle of engines: lower, build, measure, fall back where needed, compare answers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from florence_convert.comparison import SEARCHES, CaseOptions, Cases, count_identical, draw_cases, search_answers
from florence_convert.lowering import PARTS, Buckets, Lowered, PartName, Precision, lower
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.tensorrt.backend import TensorRTBackend
from florence_edge.backends.tensorrt.device import Device
from florence_edge.backends.tensorrt.plugins import PluginLibrary, find_plugins
from florence_edge.backends.tensorrt.sidecar import Gate, Sidecar, machine
from florence_edge.backends.tensorrt.surface import Platform
from florence_edge.bundle import Bundle, check_target
from florence_edge.errors import InputError, ParityError, listing
from florence_edge.loss import Loss
from florence_edge.manifest import Parity
from florence_edge.model import Florence
from florence_edge.stream.pictures import expand
from florence_edge.tokens import Tokens

from .assemble import record, write_bundle
from .engines import Bench, gate_engine, make_engine, passes
from .gate import Sample, draw_samples
from .memory import Available, check_memory
from .settings import BuildOptions, Settings
from .worker import PlanBuilder, WorkerBuilder, remove

EXACT: Precision = "fp32"
QUANTISED: Precision = "int8"
"""For vision and encoder; the decoder is fp16 then."""
WORK_SUFFIX = ".build"
"""Where a build keeps its graphs and engines until all of them are good: `OUT.build`, beside `OUT`."""

Engines = dict[PartName, tuple[Path, Sidecar]]
OnProgress = Callable[[float, str], None]


@dataclass(frozen=True)
class Tools:
    """What a build needs of the machine; tests give doubles."""

    platform: Platform
    builder: PlanBuilder
    plugins: Callable[[str], PluginLibrary]

    @classmethod
    def here(cls) -> Tools:
        """This machine's; `DependencyError` names what is missing."""
        from florence_edge.backends.tensorrt.libraries import platform

        return cls(platform(), WorkerBuilder(), find_plugins)


def build_bundle(
    source: str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    tools: Tools | None = None,
    on_progress: OnProgress | None = None,
) -> Bundle:
    """Builds the engines of an ONNX bundle (a folder or a bundled name) for this machine and writes their bundle.

    `on_progress` is called with the share that is done, 0 to 1, and what is being done. What was built is kept beside
    `out` until all is good, so the same command goes on after an interruption. A part that is not exact enough is built
    in fp32 instead. Raises `BuildError` where TensorRT or the memory does not suffice and `ParityError` where even fp32
    is not exact.
    """
    chosen, tell = options or BuildOptions(), on_progress or (lambda share, note: None)
    bundle, target = Bundle.open(source), Path(out).expanduser().absolute()
    if bundle.manifest.target is not None:
        raise InputError(f"{bundle.folder} holds engines; build from the ONNX bundle that they were made of")
    check_target(target, overwrite=chosen.overwrite)
    buckets = Buckets.of(bundle.manifest, batches=chosen.batches, beams=chosen.beams)
    work = target.with_name(f"{target.name}{WORK_SUFFIX}")
    if chosen.fresh:
        remove(work)
    bench = _bench(tools or Tools.here(), chosen, work, command_line(_named(source, bundle), target, chosen))
    _check_memory(bench, bundle)
    tell(0.0, "lowering the graphs")
    exact = lower(bundle, work / EXACT, precision=EXACT)
    cases = draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, CaseOptions())
    lowered, engines = _good_engines(bench, bundle, chosen, buckets, lambda: draw_samples(exact, buckets, cases), tell)
    tell(0.95, "comparing answers")
    result = write_bundle(bundle, lowered, engines, target, precision=chosen.precision, overwrite=chosen.overwrite)
    sidecars = {name: sidecar for name, (_, sidecar) in engines.items()}
    result = record(result, parity=_parity(bundle, result, bench, cases, sidecars))
    if chosen.data:
        tell(0.97, "measuring the tasks")
        result = record(result, loss=_loss(bundle, result, bench, chosen))
    remove(work)
    tell(1.0, "done")
    return result


def command_line(source: str | Path, out: Path, options: BuildOptions) -> str:
    """The command that builds the same again, whatever is at `out`."""
    words = ["florence-edge", "build", str(source), "--precision", options.precision]
    words += ["--batch", ",".join(map(str, options.batches))]
    if options.beams:
        words += ["--beams", ",".join(map(str, options.beams))]
    pictures = [str(Path(picture).expanduser().absolute()) for picture in options.calibration]
    words += [word for picture in pictures for word in ("--calibration", picture)]
    words += ["--low-memory"] * options.low_memory
    return shlex.join([*words, "--out", str(out), "--overwrite"])


def _named(source: str | Path, bundle: Bundle) -> str | Path:
    """A bundle's place as it holds in every folder: a bundled model's name, or where the bundle lies."""
    return bundle.folder if Path(source).expanduser().is_dir() else source


def _bench(tools: Tools, options: BuildOptions, work: Path, command: str) -> Bench:
    """The machine, opened."""
    device = Device(tools.platform.driver)
    here = machine(device, tools.platform.tensorrt.__version__)
    found: list[PluginLibrary] = []

    def plugins() -> PluginLibrary:
        if not found:
            found.append(tools.plugins(here.tensorrt))
        return found[0]

    work.mkdir(parents=True, exist_ok=True)
    return Bench(tools.platform, device, here, plugins, tools.builder, Settings.of(options), work, command)


def _check_memory(bench: Bench, bundle: Bundle) -> None:
    with bench.device.active():
        free, _ = bench.platform.driver.mem_get_info()
    weights = sum(record.bytes for record in bundle.manifest.files.values())
    check_memory(weights, bench.settings, Available.now(free))


def _good_engines(
    bench: Bench,
    bundle: Bundle,
    options: BuildOptions,
    buckets: Buckets,
    draw: Callable[[], Mapping[str, list[Sample]]],
    tell: OnProgress,
) -> tuple[Lowered, Engines]:
    """Engines that all pass; every round builds in fp32 what did not pass in the one before.

    Samples are drawn after each round's building and do not outlive it: at base size they make this process 1.4 GB
    larger, which a board with 8 GB needs for the builder.
    """
    precision: dict[PartName, Precision] = dict.fromkeys(PARTS, options.precision)
    if options.precision == QUANTISED:
        precision["decoder"] = "fp16"
    while True:
        pictures = expand(options.calibration) if QUANTISED in precision.values() else None
        lowered = lower(bundle, bench.folder / "graphs", precision=precision, calibration=pictures)
        engines = _build_all(bench, lowered, buckets, tell)
        tell(0.9, "measuring")
        engines = _measure_all(bench, lowered, engines, draw())
        gates = {name: sidecar.gate for name, (_, sidecar) in engines.items() if sidecar.gate is not None}
        failed = {name: gate for name, gate in gates.items() if not passes(gate)}
        if not failed:
            return lowered, engines
        hopeless = {name: gate for name, gate in failed.items() if precision[name] == EXACT}
        if hopeless:
            title = "engines in fp32 differ from the fp32 graphs, so no bundle was written:"
            raise ParityError(listing(title, _faults(hopeless)))
        precision.update(dict.fromkeys(failed, EXACT))


def _build_all(bench: Bench, lowered: Lowered, buckets: Buckets, tell: OnProgress) -> Engines:
    """All engines; each counts for as much of the time as it has profiles."""
    weights = [len(part.profiles(buckets)) for part in lowered.parts]
    engines: Engines = {}
    for index, part in enumerate(lowered.parts):
        before, own = sum(weights[:index]), weights[index]

        def on_progress(share: float, before: int = before, own: int = own, name: str = part.name) -> None:
            tell(0.05 + 0.85 * (before + own * share) / sum(weights), f"building {name}")

        on_progress(0.0)
        engines[part.name] = make_engine(bench, part, buckets, on_progress)
    return engines


def _measure_all(bench: Bench, lowered: Lowered, engines: Engines, samples: Mapping[str, list[Sample]]) -> Engines:
    """The same engines, their sidecars with what was measured."""
    return {
        part.name: (engines[part.name][0], gate_engine(bench, part, *engines[part.name], samples[part.name]))
        for part in lowered.parts
    }


def _faults(gates: Mapping[PartName, Gate]) -> list[str]:
    return [f"{name}: the error is {gate.error:.3g}, allowed is {gate.tolerance:.3g}" for name, gate in gates.items()]


def _parity(source: Bundle, built: Bundle, bench: Bench, cases: Cases, sidecars: Mapping[PartName, Sidecar]) -> Parity:
    """The numbers of the gate, and how many answers have the same token ids as ONNX Runtime's.

    In fp32 all must; below, a near tie between two tokens may fall the other way, which is reported and not refused.
    """
    beams = {size["K"][1] for size in sidecars["decoder"].buckets}
    searches = {name: options for name, options in SEARCHES.items() if options.beams in beams}
    wanted = search_answers(OnnxBackend(source), cases, searches)
    with closing(TensorRTBackend(built, bench.platform, plugins=lambda _: bench.plugins())) as engines:
        found = search_answers(engines, cases, searches)
    measured = {name: sidecar.gate for name, sidecar in sidecars.items() if sidecar.gate is not None}
    return Parity(
        reference=f"{source.folder.name}, ONNX in fp32",
        seed=cases.seed,
        pairs=len(cases.prompts),
        new_tokens=cases.new_tokens,
        max_abs_error={name: gate.error for name, gate in measured.items()},
        tolerance={name: gate.tolerance for name, gate in measured.items()},
        identical=count_identical(wanted, found),
    )


def _loss(source: Bundle, built: Bundle, bench: Bench, options: BuildOptions) -> Loss:
    """What every task loses. Engines that lose too much stay beside the bundle's place, but do not become one."""
    from florence_convert.quantise.loss import measure_tasks  # evaluators are no part of a build

    assert options.data is not None
    engines = TensorRTBackend(built, bench.platform, plugins=lambda _: bench.plugins())
    with Florence.load(source) as before, Florence(built, engines) as after:
        loss = measure_tasks(before, after, options.data, limit=options.limit, allowed=options.max_loss)
    if loss.lost > loss.allowed:
        remove(built.folder)
        title = f"{options.precision} loses more than {100 * loss.allowed:.1f} of 100, so no bundle was written:"
        rows = [
            f"{name}: {before} in ONNX, {after} in the engines, {lost} lost"
            for name, before, after, lost in loss.rows()
        ]
        raise ParityError(listing(title, rows))
    return loss
