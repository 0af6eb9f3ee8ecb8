"""What a race found: how every contender did, and every florence-edge against everything of as many beams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from florence_edge.options import SearchConfig

from .contenders import OURS, Job, Question, find_kind
from .machine import installed
from .series import Series
from .stages import decoder_steps
from .stats import Estimate, ratio_of_medians

ANSWER, FIRST, TASKS = "answer", "first", "tasks"


@dataclass(frozen=True)
class Entry:
    """A contender in a race: `name` is unique, `beams` what it searches with."""

    name: str
    job: Job
    beams: int


@dataclass(frozen=True)
class Workload:
    """Questions about one image file, to be answered with a complete search setting save for the beams."""

    name: str
    image: Path
    questions: tuple[Question, ...]
    search: SearchConfig


@dataclass
class Record:
    """What is written down about a contender while the race runs."""

    entry: Entry
    cold_ms: list[float] = field(default_factory=list)
    ids: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int = 0
    device_bytes: int | None = None


@dataclass(frozen=True)
class Finish:
    """How one contender did.

    `times_ms` maps a workload to its times; `per_step_ms` is the price of one decoder step of all beams, (answer -
    first) over the steps in between, round by round, or None where that drowned in noise. `cold_start_ms` are times
    from the start of a process to its first answer, files being in the page cache. `folder` is the last part of its
    weights' path.
    """

    name: str
    kind: str
    title: str
    folder: str
    beams: int
    libraries: Mapping[str, str]
    times_ms: Mapping[str, Series]
    per_step_ms: Series | None
    cold_start_ms: Series
    peak_resident_bytes: int
    device_bytes: int | None


@dataclass(frozen=True)
class Duel:
    """`ours` against `other` with the same number of beams.

    `ratios` maps a workload, `step` or `cold start` to the other's median over ours: above 1, ours is faster. `memory`
    is the other's peak over ours. `identical` says for each workload whether all token ids are equal.
    """

    ours: str
    other: str
    ratios: Mapping[str, Estimate]
    memory: float
    identical: Mapping[str, bool]


@dataclass(frozen=True)
class Failure:
    """A contender that did not reach the end, and why; nothing of it counts, all others went on."""

    name: str
    reason: str


@dataclass(frozen=True)
class Race:
    """All contenders that reached the end, in the order they were given, their duels, and those that did not."""

    rounds: int
    workloads: Mapping[str, str]
    finishes: tuple[Finish, ...]
    duels: tuple[Duel, ...]
    failures: tuple[Failure, ...]


def standings(
    records: Sequence[Record], failures: Sequence[Failure], workloads: Sequence[Workload], *, rounds: int, seed: int
) -> Race:
    """Puts the records of a race of so many `rounds` together."""
    return Race(
        rounds=rounds,
        workloads={workload.name: _describe(workload) for workload in workloads},
        finishes=tuple(_finish(record, workloads) for record in records),
        duels=tuple(
            _duel(one, other, workloads, seed)
            for one in records
            if one.entry.job.kind == OURS
            for other in records
            if other is not one and other.entry.beams == one.entry.beams
        ),
        failures=tuple(failures),
    )


def _finish(record: Record, workloads: Sequence[Workload]) -> Finish:
    entry, kind = record.entry, find_kind(record.entry.job.kind)
    return Finish(
        name=entry.name,
        kind=entry.job.kind,
        title=kind.title,
        folder=Path(entry.job.folder).name,
        beams=entry.beams,
        libraries=installed(kind.libraries),
        times_ms={name: Series.of(times) for name, times in record.times_ms.items()},
        per_step_ms=Series.of(steps) if (steps := _per_step(record, workloads)) else None,
        cold_start_ms=Series.of(record.cold_ms),
        peak_resident_bytes=record.peak_bytes,
        device_bytes=record.device_bytes,
    )


def _duel(ours: Record, other: Record, workloads: Sequence[Workload], seed: int) -> Duel:
    sides = [
        {**side.times_ms, "step": _per_step(side, workloads), "cold start": side.cold_ms} for side in (other, ours)
    ]
    return Duel(
        ours=ours.entry.name,
        other=other.entry.name,
        ratios={
            name: ratio_of_medians(sides[0][name], times, seed=seed)
            for name, times in sides[1].items()
            if times and sides[0][name]
        },
        memory=other.peak_bytes / ours.peak_bytes,
        identical={name: ids == other.ids[name] for name, ids in ours.ids.items()},
    )


def _per_step(record: Record, workloads: Sequence[Workload]) -> list[float]:
    """Milliseconds of a decoder step, round by round; none where any round shows none: the noise is larger then."""
    limits = {workload.name: workload.search.max_new_tokens for workload in workloads}
    config = workloads[0].search
    steps = decoder_steps(config, limits[ANSWER]) - decoder_steps(config, limits[FIRST])
    pairs = zip(record.times_ms[ANSWER], record.times_ms[FIRST], strict=True)
    found = [(answer - first) / steps for answer, first in pairs]
    return found if min(found) > 0 else []


def _describe(workload: Workload) -> str:
    tasks = ", ".join(question.task for question in workload.questions)
    return f"{tasks}: {workload.search.max_new_tokens} tokens each"
