"""`florence-edge watch`: tasks over cameras, videos, images and bags."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from florence_edge.bundle import Bundle
from florence_edge.errors import RunError
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.prompts import read_question
from florence_edge.results import Result
from florence_edge.stream import Ask, Counts, Event, Reconnect, StreamOptions, Watch, watch
from florence_edge.stream.asks import as_asks
from florence_edge.stream.uris import examples

from . import ENDINGS, UsageError
from .options import above_zero, add_engine, add_json, positive
from .output import print_json
from .show import content

if TYPE_CHECKING:
    from .main import Subparsers

_BREAK = "\n  "
_EPILOG = f"""sources:
  {_BREAK.join(examples("source"))}

sinks:
  {_BREAK.join(examples("sink"))}

A name behind # tags a source. Of cameras the newest frame is taken; what is overtaken is dropped and counted. Of
recordings every frame is taken, in order; --resume goes on where the sinks end.

  florence-edge watch v4l2://0 --task detect --input "red cube" --hz 5 \\
      --task caption --every 60
  florence-edge watch drive.mp4 --task segment --input "the road" \\
      --sink road.jsonl --sink road.mkv"""


class _Task(argparse.Action):
    """Collects `--task` and what belongs to it: options apply to the task before them."""

    def __call__(
        self, parser: argparse.ArgumentParser, space: argparse.Namespace, value: Any, option: str | None = None
    ) -> None:
        tasks: list[dict[str, Any]] = list(space.tasks or [])
        name = self.dest.removeprefix("task_")
        if name == "task":
            tasks.append({"task": value, "input": []})
        elif not tasks:
            parser.error(f"{option} belongs to the --task before it, but there is none")
        else:
            last = dict(tasks[-1])
            if name != "input" and name in last:
                parser.error(f"{option} is given twice for the task {last['task']}")
            last[name] = [*last["input"], value] if name == "input" else value
            tasks[-1] = last
        space.tasks = tasks


class _Stop:
    """Ends the loop on SIGINT and SIGTERM, at once where it waits.

    Python swallows an exception that is raised while it finalises an object, so the signal is also remembered, for
    `check` between two events.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises `KeyboardInterrupt` when a signal has come."""
        if self.number is not None:
            raise KeyboardInterrupt

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Takes both signals while the block runs."""
        before = {number: signal.signal(number, self) for number in ENDINGS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "watch",
        help="ask tasks about cameras, videos, images and bags as they come",
        description="Asks tasks about every frame of a stream and prints or keeps the answers.",
        epilog=_EPILOG,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a URI or a path, see below")
    parser.add_argument(
        "--task", dest="task_task", action=_Task, metavar="TASK", help="as in florence-edge run; repeat"
    )
    parser.add_argument("--input", dest="task_input", action=_Task, metavar="TEXT", help="of the task before it")
    parser.add_argument(
        "--every",
        dest="task_every",
        action=_Task,
        type=positive,
        metavar="N",
        help="every Nth frame [1], of the task before it",
    )
    parser.add_argument(
        "--hz",
        dest="task_hz",
        action=_Task,
        type=above_zero,
        metavar="HZ",
        help="so many times a second, of the task before it",
    )
    parser.add_argument(
        "--sink", action="append", default=[], metavar="SINK", help="where answers go, see below; repeat"
    )
    parser.add_argument(
        "--fps", type=above_zero, metavar="HZ", help="look at so many frames per second of capture time [all]"
    )
    parser.add_argument(
        "--duration", type=above_zero, metavar="S", help="stop after so many seconds [the source's end]"
    )
    parser.add_argument(
        "--budget-ms", type=above_zero, metavar="MS", help="time of the engine per frame; says what it cut"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the sinks end")
    parser.add_argument(
        "--patience", type=above_zero, metavar="S", help="give a lost camera up after so many seconds [300]"
    )
    parser.add_argument(
        "--silence", type=above_zero, metavar="S", help="a camera silent for so long counts as lost [20]"
    )
    add_json(parser)
    add_engine(parser)
    parser.set_defaults(run=run, tasks=None)


def run(arguments: argparse.Namespace) -> int:
    """Watches until the sources end, the time is up or somebody stops it; the output is complete in every case."""
    if arguments.resume and not arguments.sink:
        raise UsageError("--resume needs --sink: where to go on is known from what a sink holds")
    asks = _asks(arguments)
    waits = {"patience_s": arguments.patience, "silence_s": arguments.silence}
    options = StreamOptions(
        fps=arguments.fps,
        duration_s=arguments.duration,
        budget_ms=arguments.budget_ms,
        resume=arguments.resume,
        reconnect=Reconnect(**{name: value for name, value in waits.items() if value is not None}),
        note=_say,
    )
    bundle = Bundle.open(arguments.model)
    stop = _Stop()
    with stop.installed(), Florence.load(bundle, backend=arguments.backend, threads=arguments.threads) as model:
        events = watch(model, arguments.sources, asks, sinks=arguments.sink, options=options)
        try:
            with events:
                ended = _follow(events, stop, as_json=arguments.json)
            if ended is not None:
                code, word = ended
                _say(f"{word}; what was answered is complete{', --resume goes on from here' * bool(arguments.sink)}")
                return code
            _check(events.counts)
            return 0
        finally:
            for line in _account(events.counts):
                _say(line)


def _follow(events: Watch, stop: _Stop, *, as_json: bool) -> tuple[int, str] | None:
    """Prints events until there are no more; the exit code and a word for it when somebody stops it before."""
    try:
        for event in events:
            _tell(event, as_json=as_json)
            stop.check()
    except KeyboardInterrupt:
        return ENDINGS[stop.number or signal.SIGINT]
    return None


def _check(counts: Mapping[str, Counts]) -> None:
    """Says that nothing was new; raises `RunError` when there was something and nothing of it could be answered."""
    done, failed = (sum(getattr(count, name) for count in counts.values()) for name in ("done", "failed"))
    if not any(count.captured for count in counts.values()):
        _say("no new frames")
    if 0 < done == failed:
        raise RunError(f"none of {done} frame{'s' * (done > 1)} could be answered; each said why")


def _asks(arguments: argparse.Namespace) -> Sequence[Ask]:
    """The tasks of the command line."""
    if not arguments.tasks:
        raise UsageError("no --task is given; for example: --task detect --input 'red cube'")
    search = None if arguments.beams is None else SearchOptions(beams=arguments.beams)
    return as_asks(
        Ask(
            given["task"],
            read_question(given["task"], given["input"])[1],
            every=given.get("every", 1),
            hz=given.get("hz"),
            search=search,
        )
        for given in arguments.tasks
    )


def _tell(event: Event, *, as_json: bool) -> None:
    """Prints one event: a line of JSON, or a line for people."""
    if as_json:
        print_json(event.to_dict(), indent=None)
        return
    frame = event.frame
    found = [f"{name}: {_answer(result)}" for name, result in event.results.items()]
    found += [f"{name}: failed: {error}" for name, error in event.errors.items()]
    found += [] if frame.error is None else [f"not read: {frame.error}"]
    cut = [] if event.spending is None else [f"cut {cut}" for cut in event.spending.cuts]
    print(f"{frame.tag} {frame.index}  age {event.age_ms:.0f} ms  " + "  ".join([*found, *cut]), flush=True)


def _answer(result: Result) -> str:
    """What was found, and the engine's time for it."""
    cut = ", cut short" if result.finish == "length" else ""
    return f"{content(result)} ({sum(result.timings_ms.values()):.0f} ms{cut})"


def _account(counts: Mapping[str, Counts]) -> Iterator[str]:
    """One line per source that gave frames: what became of them."""
    for tag, count in counts.items():
        if not count.captured:
            continue
        parts = [f"{count.captured} frame{'s' * (count.captured != 1)}", f"{count.done} done"]
        parts += [
            f"{amount} {word}"
            for amount, word in ((count.dropped, "dropped"), (count.skipped, "not due"), (count.failed, "failed"))
            if amount
        ]
        yield f"{tag}: {', '.join(parts)}"


def _say(text: str) -> None:
    print(f"florence-edge: {text}", file=sys.stderr, flush=True)
