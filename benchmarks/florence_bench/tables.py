"""The tables of a report: header and rows of text, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from florence_edge.units import size

from .camera import Camera
from .compare import Comparison
from .growth import LINEAR
from .numerals import number, short
from .power.meter import Energy
from .report import Footprint, Report
from .roofline import Roofline
from .series import Series
from .standings import ANSWER, FIRST, TASKS, Race
from .stats import Estimate, resolves

_COLUMNS = ("min", "median", "mean", "p90", "p95", "p99", "max")
_SHARES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}
GROWTH = {"yes": "linear or better", "no": "worse than linear", "open": "linear or worse, not certain"}
_WORKLOADS = {ANSWER: "answer", FIRST: "first token", TASKS: "all tasks"}


@dataclass(frozen=True)
class Table:
    """A titled table; `text` stands under the title, the first column is on the left, all others on the right."""

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(report: Report) -> Iterator[Table]:
    """All tables of a report, in the order they are shown."""
    yield _stages(report)
    yield _generation(report)
    if report.footprint:
        yield _footprint(report, report.footprint)
    if report.race:
        yield _finishes(report.race)
        yield _duels(report.race)
    if report.scenarios:
        yield _scenarios(report)
    if report.camera:
        yield _camera(report.camera)
    if report.energy:
        yield _energy(report.energy)
    if report.roofline:
        yield _roofline(report.roofline)
    if report.growth:
        yield _growth(report)
    yield _machine(report)


def _stages(report: Report) -> Table:
    stages = report.stages
    named = [*stages.stages.items(), ("total", stages.total_ms)]
    text = (
        f"Milliseconds of one answer of exactly {stages.tokens} tokens with {stages.beams} beams. `encoder` holds "
        "setting up the search; `decode` all decoder steps and the choice of tokens. With *, there are too few "
        "samples for that percentile: it lies between the two largest."
    )
    return Table("Stages", text, ("stage", *_COLUMNS, "runs"), [_series(name, series) for name, series in named])


def _generation(report: Report) -> Table:
    stages = report.stages
    rows = [
        _series("features to first token", stages.first_token_ms),
        _series("image to first token", stages.time_to_first_token_ms),
        _series("per decoder step", stages.per_token_ms),
    ]
    if stages.streaming:
        rows.append(_series("streamed, one beam: image to first token", stages.streaming.time_to_first_token_ms))
        rows.append(_series("streamed, one beam: between tokens", stages.streaming.inter_token_ms))
    rows.append(_series("answers of free length", stages.observed.total_ms))
    tokens = stages.observed.tokens.summary
    text = (
        f"Milliseconds. Throughput at {stages.tokens} tokens: {number(stages.answers_per_second)} answers/s, "
        f"{number(stages.tokens_per_second)} tokens/s. Answers of free length had {tokens.min:.0f} to "
        f"{tokens.max:.0f} tokens (median {tokens.median:.0f}); {stages.observed.cut_short} of {tokens.count} were "
        "cut short by the task's limit. The first token is the first that the model is free to choose."
    )
    return Table("Tokens", text, ("", *_COLUMNS, "runs"), rows)


def _footprint(report: Report, found: Footprint) -> Table:
    device = size(found.device_bytes) if found.device_bytes else "not told"
    text = (
        "Fresh processes, from their start to the first answer, files in the page cache. Peak resident memory "
        f"{size(found.peak_resident_bytes)}, device memory {device}; the bundle has {size(report.model.bytes)}."
    )
    return Table("Cold start and memory", text, ("", *_COLUMNS, "runs"), [_series("cold start", found.cold_start_ms)])


def _finishes(race: Race) -> Table:
    shown = [name for name in _WORKLOADS if name in race.workloads]
    rows = [
        (
            finish.name,
            str(finish.beams),
            *(_spread(finish.times_ms[name]) for name in shown),
            _spread(finish.per_step_ms) if finish.per_step_ms else "in the noise",
            _spread(finish.cold_start_ms),
            size(finish.peak_resident_bytes),
        )
        for finish in race.finishes
    ]
    described = "; ".join(f"{_WORKLOADS[name]}: {race.workloads[name]}" for name in shown)
    text = (
        f"Milliseconds, median (minimum to maximum) of {race.rounds} interleaved rounds, every contender in its own "
        f"process: image bytes in, token ids out. {described}. A decoder step is (answer - first token) over the "
        "steps in between. Ids that belong to no token are barred for all of them."
    )
    columns = (*(_WORKLOADS[name] for name in shown), "decoder step", "cold start", "peak memory")
    return Table("Race", text, ("contender", "beams", *columns), rows)


def _duels(race: Race) -> Table:
    names = [*(name for name in _WORKLOADS if name in race.workloads), "step", "cold start"]
    rows = [
        (
            f"{duel.other} / {duel.ours}",
            *(estimate(duel.ratios.get(name)) for name in names),
            f"{duel.memory:.2f}",
            "yes"
            if all(duel.identical.values())
            else "no: " + ", ".join(k for k, v in duel.identical.items() if not v),
        )
        for duel in race.duels
    ]
    text = (
        "The other's median over florence-edge's, with the 95 % interval of a bootstrap: above 1, florence-edge is "
        "faster (or, for memory, smaller). Contenders with different numbers of beams do different work and are not "
        "compared. `same ids` says whether all token ids of all workloads are equal; without that, speed is not the "
        "same product."
    )
    columns = (*(_WORKLOADS.get(name, name) for name in names), "memory", "same ids")
    return Table("Ratios", text, ("", *columns), rows)


def _scenarios(report: Report) -> Table:
    rows = []
    for found in report.scenarios:
        share = f"p{found.percentile * 100:.0f}" if found.percentile else ""
        estimate = f"{share} {number(found.early_stopping_ms)}" if found.early_stopping_ms else ""
        rate = f"{number(found.rate)}/s" if found.rate else ""
        latency = number(found.latency_ms.summary.median) if found.latency_ms else ""
        verdict = "valid" if found.valid else "not valid"
        rows.append(
            (
                found.name,
                str(found.queries),
                number(found.samples_per_second),
                latency,
                estimate,
                rate,
                verdict,
                found.note,
            )
        )
    header = ("scenario", "queries", "samples/s", "median ms", "early stopping ms", "arrivals", "verdict", "note")
    text = (
        "After MLPerf inference, with early-stopping percentiles (an upper bound of the percentile with 99 % "
        f"confidence). {report.settings.seconds:g} s each, where MLPerf asks for 600."
    )
    return Table("MLPerf scenarios", text, header, rows)


def _camera(camera: Camera) -> Table:
    rows = [
        (
            f"{number(run.rate)} Hz{' (peak)' if run is camera.peak else ''}",
            number(run.frames_per_second),
            f"{run.answered} of {run.sent}",
            f"{run.drop_share:.1%}",
            number(run.latency_ms.summary.median),
            number(run.latency_ms.summary.p99),
            number(run.jitter_ms.summary.mean) if run.jitter_ms else "",
            number(run.jitter_ms.summary.max) if run.jitter_ms else "",
        )
        for run in (*camera.runs, camera.peak)
    ]
    text = (
        "A source that does not wait, a queue of one: the newest frame is answered, older ones are dropped. The peak "
        f"is the highest rate with under 5 % drops, {number(camera.peak_rate)} Hz by replaying recorded latencies; "
        "its row is a live run. Jitter is how far the interval between two answers is from its mean."
    )
    header = ("source", "answers/s", "answered", "dropped", "median ms", "p99 ms", "jitter mean ms", "jitter max ms")
    return Table("Camera", text, header, rows)


def _energy(energy: Energy) -> Table:
    rows = [(name, number(joules), number(joules / energy.seconds)) for name, joules in energy.joules.items()]
    each = (
        f"{number(energy.joules_per_answer)} J per answer"
        if energy.joules_per_answer
        else "no single source for a total"
    )
    sampled = f", {energy.samples} power readings" if energy.samples else ""
    text = (
        f"{energy.answers} answers in {number(energy.seconds)} s{sampled}: {each}, idle power included. Sources may "
        "overlap."
    )
    return Table("Energy", text, ("source", "joules", "mean watts"), rows)


def _roofline(roof: Roofline) -> Table:
    rows = [
        (
            point.stage,
            number(point.flops / 1e9),
            number(point.bytes / 1e6),
            number(point.intensity),
            number(point.rate / 1e9),
            number(point.rate / point.intensity / 1e9),
            _of(point.rate, roof.peak_flops),
            _of(point.rate / point.intensity, roof.bandwidth),
        )
        for point in roof.points
    ]
    header = ("stage", "GFLOP", "least MB", "FLOP/B", "GFLOP/s", "GB/s", "of peak FLOP/s", "of bandwidth")
    ceilings = (
        f"Ceilings measured in this run: {number(roof.peak_flops / 1e9)} GFLOP/s (fp32 matrix product), "
        f"{number(roof.bandwidth / 1e9)} GB/s (copy, all cores)."
        if roof.peak_flops and roof.bandwidth
        else "No ceilings were measured: the engine does not run on this processor."
    )
    return Table("Roofline", f"`step` is one decoder step of all beams. {ceilings}", header, rows)


def _growth(report: Report) -> Table:
    rows = [
        (
            growth.varied,
            growth.measured,
            ", ".join(map(short, growth.sizes)),
            ", ".join(number(cost.summary.median) for cost in growth.costs_ms),
            estimate(growth.exponent),
            estimate(growth.per_unit),
            GROWTH[growth.linear_or_better],
        )
        for growth in report.growth
    ]
    text = (
        "The exponent is the slope of log(cost) over log(size), 1 being linear, with the 95 % interval of a bootstrap. "
        f"Linear or better is one whose whole interval lies below {LINEAR}, as medians scatter by a few percent. `per "
        "unit` is the cost per unit at the largest size over that at the smallest: below 1, more at once is cheaper. "
        "`pixels` are those of the picture handed in; the model's own input has a fixed size."
    )
    header = ("varied", "measured", "sizes", "median ms", "exponent", "per unit", "verdict")
    return Table("Growth", text, header, rows)


def _machine(report: Report) -> Table:
    machine, before, after = report.machine, report.before, report.after
    rows = [
        ("processor", f"{machine.processor}, {machine.cores} cores{', virtual' if machine.virtual else ''}"),
        ("instructions", ", ".join(machine.instructions)),
        ("memory", size(machine.memory_bytes)),
        *(("GPU", gpu) for gpu in machine.gpus),
        *([("board", machine.board)] if machine.board else []),
        ("system", machine.system),
        ("Python", machine.python),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("power mode", before.power_mode or "not told"),
        ("governor", before.governor or "not told"),
        *_then_and_now("clock", "MHz", before.clocks_mhz, after.clocks_mhz),
        *_then_and_now("temperature", "C", before.temperatures, after.temperatures),
        ("load average", f"{before.load}, later {after.load}"),
    ]
    return Table("Machine", "", ("", ""), [row for row in rows if row[1]])


def _then_and_now(what: str, unit: str, then: Mapping[str, float], now: Mapping[str, float]) -> list[tuple[str, str]]:
    """Readings before and after the run."""
    return [
        (f"{what}, {name}", f"{value:.0f} {unit}" + (f", later {now[name]:.0f}" if name in now else ""))
        for name, value in then.items()
    ]


def comparison_table(found: Comparison) -> Table:
    """Every figure of a comparison."""
    rows = [
        (
            change.figure,
            number(change.before_ms),
            number(change.after_ms),
            estimate(change.ratio),
            change.verdict,
        )
        for change in found.changes
    ]
    return Table("Comparison", "", ("figure", "before ms", "after ms", "after / before", "verdict"), rows)


def _series(name: str, series: Series) -> tuple[str, ...]:
    summary = series.summary
    cells = []
    for column in _COLUMNS:
        few = column in _SHARES and not resolves(summary.count, _SHARES[column])
        cells.append(f"{number(getattr(summary, column))}{'*' if few else ''}")
    return (name, *cells, str(summary.count))


def _spread(series: Series) -> str:
    summary = series.summary
    return f"{number(summary.median)} ({number(summary.min)} to {number(summary.max)})"


def estimate(found: Estimate | None) -> str:
    """A figure with its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})" if found else ""


def _of(value: float, ceiling: float | None) -> str:
    return f"{value / ceiling:.0%}" if ceiling else ""
