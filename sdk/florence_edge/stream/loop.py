"""The loop itself: frames in, one image encoding per frame, the answers of all tasks due on it out."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import GEN_RUNNING, getgeneratorstate
from types import TracebackType
from typing import TYPE_CHECKING, Any

from florence_edge.card import identity
from florence_edge.errors import BackendError, FlorenceError, InputError, listing
from florence_edge.preprocess import ImageSpec
from florence_edge.results import Result
from florence_edge.view import View

from .asks import Ask, Schedule, as_asks, check_rate
from .budget import Budget
from .events import Counts, Cut, Event, Spending
from .feeds import Feed, Ready, Recorded
from .live import Live
from .mailbox import Ledger
from .protocols import Run, Sink, Source, SourceError
from .pump import Reconnect
from .uris import open_sink, open_source
from .writer import Writer

if TYPE_CHECKING:
    from florence_edge.model import Florence

POLL_S = 0.2
"""How often a wait for a frame looks at the clock; Ctrl-C is answered as soon."""

FAILURES_IN_A_ROW = 10
"""So many frames on which the engine failed, one after the other, mean that it will not recover."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is run.

    `fps` thins every source to that many frames per second of capture time. `duration_s` ends the run after so many
    seconds on the clock. `budget_ms` is the engine's time for one frame, all its tasks together. `resume` goes on where
    the sinks end. `reconnect` says how lost cameras are opened anew; `note` gets a line whenever one is lost or back.
    """

    fps: float | None = None
    duration_s: float | None = None
    budget_ms: float | None = None
    resume: bool = False
    reconnect: Reconnect = field(default_factory=Reconnect)
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        for name in ("fps", "duration_s", "budget_ms"):
            if getattr(self, name) is not None:
                check_rate(name, getattr(self, name))


def watch(
    model: Florence,
    source: str | Source | Sequence[str | Source],
    tasks: Iterable[Ask | str | Sequence[Any]],
    *,
    sinks: Sequence[str | Sink] = (),
    options: StreamOptions = StreamOptions(),
) -> Watch:
    """Asks tasks about the frames of cameras or recordings: iterate over the events.

    `source` is one URI or source, or several: all live or all recorded. `tasks` are names, `(name, input)` or `Ask`s;
    all that are due on a frame share one encoding of it. Every event was handed to the `sinks` (URIs or sinks) before
    you get it; they write in a thread of their own.

    Of live sources the newest frame is taken, in turn; what is overtaken meanwhile is dropped and counted. Of recorded
    sources every frame comes, in order, one source after the other.

    Raises `InputError` for arguments that do not fit, all faults at once; the iteration raises `SourceError` when
    sources were lost (after everything else was done), `SinkError` when an answer cannot be kept. Leave the loop early
    with `break` inside `with watch(...) as events:`, or call `close`, so that the output is completed.
    """
    asks = as_asks(tasks)
    sources = _sources(source)
    outs = [open_sink(sink) if isinstance(sink, str) else sink for sink in sinks]
    if options.resume and not outs:
        raise InputError("resume is set, but there is no sink: where to go on is known from what a sink holds")
    return Watch(model, sources, asks, outs, options)


class Watch(Iterator[Event]):
    """A running stream, as `watch` makes it; nothing is opened before the first event is asked for."""

    def __init__(
        self,
        model: Florence,
        sources: Sequence[Source],
        asks: Sequence[Ask],
        sinks: Sequence[Sink],
        options: StreamOptions,
    ) -> None:
        self._model, self._options = model, options
        self._budget = Budget(options.budget_ms, model.bundle.manifest)
        self._ledger = Ledger(source.tag for source in sources)
        self._run = Run(
            key=_key(model, sources, asks, options),
            sources={source.tag: source.rate_hz for source in sources},
            live=sources[0].live,
            resume=options.resume,
            labels=tuple(dict.fromkeys(label for ask in asks for label in ask.labels())),
        )
        self._writer = Writer(sinks, self._run)
        self._feed = self._make_feed(sources, Schedule(asks, fps=options.fps))
        self._failures, self._answered = 0, False
        self._events, self._turn = self._loop(), threading.RLock()

    def __next__(self) -> Event:
        with self._turn:
            return next(self._events)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream and completes the output. May be called twice, and by any thread but those of a sink.

        A wait for the next event in another thread ends, after the frame at hand. Sinks that wait for somebody else do
        so no longer; `SinkError` says what they could not deliver.
        """
        self._run.ending.set()
        with self._turn:
            if getgeneratorstate(self._events) != GEN_RUNNING:  # else called from within; the loop sees it
                self._events.close()

    @property
    def run(self) -> Run:
        """What the sinks know of this run."""
        return self._run

    @property
    def counts(self) -> Mapping[str, Counts]:
        """What became of the frames so far, per source."""
        return self._ledger.all()

    def _make_feed(self, sources: Sequence[Source], schedule: Schedule) -> Feed:
        def spec() -> ImageSpec:
            return self._budget.spec

        if not self._run.live:
            return Recorded(sources, schedule, spec, self._ledger)
        chosen = self._options
        return Live(sources, schedule, spec, self._ledger, reconnect=chosen.reconnect, note=chosen.note)

    def _loop(self) -> Generator[Event, None, None]:
        """The events, in a generator so that leaving it in any way closes the feed and then the sinks.

        The sinks are opened with the first answer, so that a source that cannot be opened leaves no empty output, but
        before the sources where they have to say where to go on.
        """
        try:
            self._feed.start(self._writer.open() if self._run.resume else {})
            try:
                for ready in self._frames():
                    yield self._event(ready)
            finally:
                self._feed.close()
            if not (self._feed.faults or self._run.ending.is_set()):
                self._writer.open()
        except BaseException:
            self._run.ending.set()
            raise
        finally:
            self._writer.close()
        if self._feed.faults:
            raise SourceError(listing("these sources were lost:", self._feed.faults))

    def _frames(self) -> Iterator[Ready]:
        """Frames that are ready, until there are no more or the time is up."""
        limit = self._options.duration_s
        end = None if limit is None else time.monotonic() + limit
        while not (self._feed.finished or self._run.ending.is_set()):
            left = POLL_S if end is None else min(POLL_S, end - time.monotonic())
            if left <= 0:
                return
            ready = self._feed.next(left)
            if ready is not None:
                yield ready

    def _event(self, ready: Ready) -> Event:
        """Answers about one frame and hands the event to the sinks; a frame that is given up meanwhile was dropped."""
        tag = ready.frame.tag
        try:
            event = self._answer(ready)
            self._writer.put(event)
        except BaseException:
            self._ledger.add(tag, dropped=1)
            raise
        self._ledger.add(tag, done=1, failed=int(bool(event.errors) or event.frame.error is not None))
        return event

    def _answer(self, ready: Ready) -> Event:
        """One encoding, then every task that is due; the engine's failures are part of the event."""
        begun = time.perf_counter()
        work = _Work()
        if ready.prepared is not None:
            try:
                view = self._model.encode(ready.prepared)
            except BackendError as error:
                work.errors.update(dict.fromkeys((ask.name for ask in ready.asks), error))
            else:
                work.timings_ms = view.timings_ms
                work.cuts += self._budget.encoded(ready.prepared.pixels.shape[-2], view.timings_ms["vision"])
                self._ask(view, ready.asks, begun, work)
        self._budget.settle(ready.asks)
        self._count_failures(work.errors)
        limit, took = self._options.budget_ms, (time.perf_counter() - begun) * 1e3
        return Event(
            ready.frame,
            work.results,
            work.errors,
            age_ms=(time.monotonic_ns() - ready.frame.arrival_ns) / 1e6,
            dropped=self._ledger[ready.frame.tag].dropped,
            spending=None if limit is None else Spending(limit, took, tuple(work.cuts)),
            timings_ms=work.timings_ms,
        )

    def _ask(self, view: View, asks: Sequence[Ask], begun: float, work: _Work) -> None:
        """Asks the tasks one after the other; each may take an equal share of the time that is left then.

        A question that fits no picture is an error of the caller at the first one, later an error of that frame.
        """
        for number, ask in enumerate(asks):
            left = _left_ms(self._options.budget_ms, begun) / (len(asks) - number)
            options, cuts = self._budget.plan(ask, left)
            try:
                result = self._model.run(ask.task, view, ask.input, search=options)
            except (BackendError, InputError) as error:
                if isinstance(error, InputError) and not self._answered:
                    raise
                work.errors[ask.name] = error
            else:
                self._answered = True
                self._budget.searched(options, result.tokens, result.timings_ms["search"])
                work.results[ask.name] = result
                work.cuts += cuts

    def _count_failures(self, errors: Mapping[str, FlorenceError]) -> None:
        """Ends the run with the engine's error when it fails again and again."""
        failed = [error for error in errors.values() if isinstance(error, BackendError)]
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= FAILURES_IN_A_ROW:
            error = failed[0]
            raise BackendError(f"the engine failed on {self._failures} frames in a row: {error}") from error


@dataclass
class _Work:
    """What is found out about one frame, while it is."""

    results: dict[str, Result] = field(default_factory=dict)
    errors: dict[str, FlorenceError] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def _left_ms(limit_ms: float | None, begun: float) -> float:
    return float("inf") if limit_ms is None else limit_ms - (time.perf_counter() - begun) * 1e3


def _sources(given: str | Source | Sequence[str | Source]) -> list[Source]:
    """The sources, once they go together; lists all faults at once."""
    several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    faults: list[str] = []
    sources: list[Source] = []
    for one in several:
        try:
            sources.append(open_source(one) if isinstance(one, str) else one)
        except InputError as error:
            faults.append(str(error))
    tags = [source.tag for source in sources]
    faults += [
        f"two sources have the tag {tag!r}; name them, as in v4l2://0#left"
        for tag in sorted({*tags})
        if tags.count(tag) > 1
    ]
    if len({source.live for source in sources}) > 1:
        faults.append("cameras and recordings do not go together: one waits for nobody, the other for every frame")
    if not several:
        faults.append("none was given")
    if faults:
        raise InputError(listing("these sources cannot be used:", faults))
    return sources


def _key(model: Florence, sources: Sequence[Source], asks: Sequence[Ask], options: StreamOptions) -> str:
    """A digest of everything that decides the answers."""
    decided = {
        "bundle": identity(model.bundle),
        "tasks": [ask.to_dict() for ask in asks],
        "sources": [[source.tag, source.identity] for source in sources],
        "fps": options.fps,
        "budget_ms": options.budget_ms,
    }
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode("utf-8")).hexdigest()[:16]
