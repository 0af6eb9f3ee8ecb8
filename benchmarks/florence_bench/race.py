"""Contenders against each other: the same questions, taking turns, each in its own process.

First all ids are compared, then rounds are timed: one answer of every contender to every workload per round, the
order turning by one each time, so that a machine that slows down slows all of them. `answer` is one question, `first`
the same cut off at the first free token (so that the difference is the price of the other tokens), `tasks` several
questions about one image. A contender that fails, or takes longer than the settings' `patience`, is left out; the
others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.options import SearchConfig

from .contenders import OURS, Job, Question, find_kind
from .errors import BenchmarkError
from .remote import Worker
from .settings import RaceSettings, Rival
from .stages import first_free
from .standings import ANSWER, FIRST, TASKS, Entry, Failure, Race, Record, Workload, standings
from .worker import Reply

LEAST_ROUNDS = 2


def line_up(rivals: Sequence[Rival], beams: int, job: Callable[[Rival], Job]) -> list[Entry]:
    """Everyone who races; the first one is the bundle in question.

    Where there are rivals that know no beams, every florence-edge also races them greedily.
    """
    greedy = any(find_kind(rival.kind).split for rival in rivals)
    entries = []
    for number, rival in enumerate(rivals):
        kind, ours = find_kind(rival.kind), rival.kind == OURS
        counts = {1} if kind.split else {beams, 1} if ours and greedy else {beams}
        name = f"{kind.title} ({Path(rival.folder).name})" if ours and number else kind.title
        for count in sorted(counts, reverse=True):
            shown = name if len(counts) == 1 or count > 1 else f"{name}, greedy"
            entries.append(Entry(shown, job(rival), count))
    return entries


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
        running = _Running(settings, note, stack)
        for entry in entries:
            running.start(entry, workloads[0], max(1, cold_starts))
        for workload in workloads:
            running.turn(workload, 0, keep=False)
        rounds = running.rounds(workloads)
    return standings(
        [runner.record for runner in running.runners], running.failures, workloads, rounds=rounds, seed=seed
    )


def cold_start(entry: Entry, workload: Workload, patience: float) -> tuple[float, Reply, Worker]:
    """Milliseconds from starting a process to its first answer, that answer, and the process, which goes on."""
    worker = Worker(entry.job, patience)
    try:
        worker.opened()
        reply = worker.ask(workload.image, workload.questions, replace(workload.search, beams=entry.beams))
    except BaseException:
        worker.close()
        raise
    return (time.perf_counter_ns() - worker.started_ns) / 1e6, reply, worker


@dataclass(frozen=True)
class _Runner:
    """A contender with its process."""

    record: Record
    worker: Worker

    def run(self, workload: Workload, *, keep: bool) -> None:
        record = self.record
        reply = self.worker.ask(workload.image, workload.questions, replace(workload.search, beams=record.entry.beams))
        record.ids.setdefault(workload.name, reply.ids)
        record.peak_bytes, record.device_bytes = reply.peak_resident_bytes, reply.device_bytes
        if keep:
            record.times_ms.setdefault(workload.name, []).append(reply.milliseconds)


class _Running:
    """A race under way: who still runs, and who failed."""

    def __init__(self, settings: RaceSettings, note: Callable[[str], None], stack: ExitStack) -> None:
        self.runners: list[_Runner] = []
        self.failures: list[Failure] = []
        self._settings, self._note, self._stack = settings, note, stack
        self._exported: set[str] = set()
        self._begun = time.perf_counter()

    def start(self, entry: Entry, workload: Workload, cold_starts: int) -> None:
        """Cold starts, the last of which stays to race; one before them where graphs may have to be exported."""
        self._note(f"starting {entry.name}")
        cold: list[float] = []
        exports = find_kind(entry.job.kind).split and entry.job.folder not in self._exported
        try:
            for number in range(-exports, cold_starts):
                spent, _, worker = cold_start(entry, workload, self._settings.patience)
                if number >= 0:
                    cold.append(spent)
                if number + 1 < cold_starts:
                    worker.close()
        except BenchmarkError as error:
            self._fail(entry, error)
            return
        if exports:
            self._exported.add(entry.job.folder)
        self.runners.append(_Runner(Record(entry, cold), self._stack.enter_context(worker)))

    def turn(self, workload: Workload, first: int, *, keep: bool) -> None:
        """One answer of every contender, that of number `first` first."""
        order = [*self.runners[first:], *self.runners[:first]]
        for runner in order:
            try:
                runner.run(workload, keep=keep)
            except BenchmarkError as error:
                self.runners.remove(runner)
                runner.worker.close()
                self._fail(runner.record.entry, error)

    def rounds(self, workloads: Sequence[Workload]) -> int:
        """Rounds until the next would not end in time; how many were run."""
        begun, number = time.perf_counter(), 0
        while number < self._settings.rounds and self.runners:
            now = time.perf_counter()
            next_ends = now + (now - begun) / max(number, 1)
            if number >= LEAST_ROUNDS and next_ends - self._begun > self._settings.seconds:
                break
            self._note(f"round {number + 1} of at most {self._settings.rounds}")
            for workload in workloads:
                self.turn(workload, number % max(len(self.runners), 1), keep=True)
            number += 1
        return number

    def _fail(self, entry: Entry, error: BenchmarkError) -> None:
        self.failures.append(Failure(entry.name, _reason(entry, error)))


def _reason(entry: Entry, error: BenchmarkError) -> str:
    """A message without the paths of this machine, and of a long one its ends: a traceback's last line tells most."""
    text = str(error)
    for folder in (entry.job.folder, entry.job.scratch):
        text = text.replace(folder, Path(folder).name)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def make_workloads(
    image: Path, question: Question, together: Sequence[Question], tokens: int, config: SearchConfig
) -> list[Workload]:
    """The workloads: `question` alone, its first token, and the questions of `together` about the one image."""
    exact = replace(config, max_new_tokens=tokens, min_new_tokens=tokens)
    brief = replace(config, max_new_tokens=first_free(config), min_new_tokens=0)
    made = [Workload(ANSWER, image, (question,), exact), Workload(FIRST, image, (question,), brief)]
    return [*made, Workload(TASKS, image, tuple(together), exact)] if together else made
