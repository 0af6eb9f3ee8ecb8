"""Contenders against each other: the same questions, taking turns, each in its own process.

First all ids are compared, then rounds are timed: one answer of every contender to every workload per round, the
order turning by one each time, so that a machine that slows down slows all of them. `answer` is one question, `first`
the same cut off at the first free token (so that the difference is the price of the other tokens), `tasks` several
questions about one image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.options import SearchConfig

from .contenders import OURS, Job, Question, find_kind
from .machine import installed
from .remote import Worker
from .series import Series
from .settings import RaceSettings
from .stages import decoder_steps, first_free
from .stats import Ratio, ratio_of_medians
from .worker import Reply

ANSWER, FIRST, TASKS = "answer", "first", "tasks"
LEAST_ROUNDS = 2


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
    ratios: Mapping[str, Ratio]
    memory: float
    identical: Mapping[str, bool]


@dataclass(frozen=True)
class Race:
    """All contenders in the order they were given, and every florence-edge against everything of as many beams."""

    rounds: int
    workloads: Mapping[str, str]
    finishes: tuple[Finish, ...]
    duels: tuple[Duel, ...]


@dataclass
class _Runner:
    """A contender while the race runs."""

    entry: Entry
    worker: Worker
    cold_ms: list[float]
    ids: dict[str, tuple[tuple[int, ...], ...]]
    times_ms: dict[str, list[float]]
    peak_bytes: int = 0
    device_bytes: int | None = None

    def run(self, workload: Workload, *, keep: bool) -> None:
        search = replace(workload.search, beams=self.entry.beams)
        reply = self.worker.ask(workload.image, workload.questions, search)
        self.ids.setdefault(workload.name, reply.ids)
        self.peak_bytes, self.device_bytes = reply.peak_resident_bytes, reply.device_bytes
        if keep:
            self.times_ms.setdefault(workload.name, []).append(reply.milliseconds)


def race(
    entries: Sequence[Entry],
    workloads: Sequence[Workload],
    settings: RaceSettings,
    *,
    cold_starts: int = 1,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Race:
    """Runs it; `cold_starts` is the number of fresh processes per contender, the last of which stays to race."""
    with ExitStack() as stack:
        runners = []
        for entry in entries:
            note(f"starting {entry.name}")
            runners.append(_start(entry, workloads[0], cold_starts, stack))
        for runner in runners:
            note(f"checking {runner.entry.name}")
            for workload in workloads:
                runner.run(workload, keep=False)
        rounds = _rounds(runners, workloads, settings, note)
    finishes = [_finish(runner, workloads) for runner in runners]
    ours = [runner for runner in runners if runner.entry.job.kind == OURS]
    return Race(
        rounds=rounds,
        workloads={workload.name: _describe(workload) for workload in workloads},
        finishes=tuple(finishes),
        duels=tuple(
            _duel(one, other, workloads, seed)
            for one in ours
            for other in runners
            if other is not one and other.entry.beams == one.entry.beams
        ),
    )


def cold_start(entry: Entry, workload: Workload) -> tuple[float, Reply, Worker]:
    """Milliseconds from starting a process to its first answer, that answer, and the process, which goes on."""
    worker = Worker(entry.job)
    try:
        worker.opened()
        reply = worker.ask(workload.image, workload.questions, replace(workload.search, beams=entry.beams))
    except BaseException:
        worker.close()
        raise
    return (time.perf_counter_ns() - worker.started_ns) / 1e6, reply, worker


def _start(entry: Entry, workload: Workload, cold_starts: int, stack: ExitStack) -> _Runner:
    """Cold starts, the last of which stays to race; one before them where graphs must be exported first."""
    cold: list[float] = []
    for number in range(-find_kind(entry.job.kind).split, max(1, cold_starts)):
        spent, _, worker = cold_start(entry, workload)
        if number >= 0:
            cold.append(spent)
        if number + 1 < max(1, cold_starts):
            worker.close()
    stack.enter_context(worker)
    return _Runner(entry, worker, cold, {}, {})


def _rounds(
    runners: Sequence[_Runner], workloads: Sequence[Workload], settings: RaceSettings, note: Callable[[str], None]
) -> int:
    """Rounds until the next would not end in time; how many were run."""
    begun, number = time.perf_counter(), 0
    while number < settings.rounds:
        spent = time.perf_counter() - begun
        if number >= LEAST_ROUNDS and spent * (number + 1) / number > settings.seconds:
            break
        note(f"round {number + 1} of at most {settings.rounds}")
        turn = number % len(runners)
        for workload in workloads:
            for runner in (*runners[turn:], *runners[:turn]):
                runner.run(workload, keep=True)
        number += 1
    return number


def _finish(runner: _Runner, workloads: Sequence[Workload]) -> Finish:
    entry, kind = runner.entry, find_kind(runner.entry.job.kind)
    return Finish(
        name=entry.name,
        kind=entry.job.kind,
        title=kind.title,
        folder=Path(entry.job.folder).name,
        beams=entry.beams,
        libraries=installed(kind.libraries),
        times_ms={name: Series.of(times) for name, times in runner.times_ms.items()},
        per_step_ms=Series.of(steps) if (steps := _per_step(runner, workloads)) else None,
        cold_start_ms=Series.of(runner.cold_ms),
        peak_resident_bytes=runner.peak_bytes,
        device_bytes=runner.device_bytes,
    )


def _duel(ours: _Runner, other: _Runner, workloads: Sequence[Workload], seed: int) -> Duel:
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


def _per_step(runner: _Runner, workloads: Sequence[Workload]) -> list[float]:
    """Milliseconds of a decoder step, round by round; none where any round shows none: the noise is larger then."""
    limits = {workload.name: workload.search.max_new_tokens for workload in workloads}
    config = workloads[0].search
    steps = decoder_steps(config, limits[ANSWER]) - decoder_steps(config, limits[FIRST])
    pairs = zip(runner.times_ms[ANSWER], runner.times_ms[FIRST], strict=True)
    found = [(answer - first) / steps for answer, first in pairs]
    return found if min(found) > 0 else []


def _describe(workload: Workload) -> str:
    tasks = ", ".join(question.task for question in workload.questions)
    return f"{tasks}: {workload.search.max_new_tokens} tokens each"


def make_workloads(
    image: Path, question: Question, together: Sequence[Question], tokens: int, config: SearchConfig
) -> list[Workload]:
    """The workloads: `question` alone, its first token, and the questions of `together` about the one image."""
    exact = replace(config, max_new_tokens=tokens, min_new_tokens=tokens)
    brief = replace(config, max_new_tokens=first_free(config), min_new_tokens=0)
    made = [Workload(ANSWER, image, (question,), exact), Workload(FIRST, image, (question,), brief)]
    return [*made, Workload(TASKS, image, tuple(together), exact)] if together else made
