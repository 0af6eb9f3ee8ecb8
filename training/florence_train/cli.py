"""The subcommands of `florence-edge` that this package adds; `eval` and `validate` are here.

Only the command line lives here: each command is one call of the function that does the work, which is imported when
the command runs, so that `--help` loads no framework.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from florence_edge.cli import FAILED
from florence_edge.cli.options import add_engine, add_json, add_out, positive
from florence_edge.cli.output import print_json, progress, table
from florence_edge.errors import InputError
from florence_edge.files import write

from . import train_command
from .annotate import cli as annotate_command
from .data_options import ANNOTATED, add_data, add_limit

if TYPE_CHECKING:
    from florence_edge.model import Florence
    from florence_train.data.load import OnFault
    from florence_train.evaluate import EvalOptions, Report


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands; this is the entry point."""
    train_command.register(subparsers)
    _register_eval(subparsers)
    _register_validate(subparsers)
    annotate_command.register(subparsers)


def _register_eval(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "eval",
        help="measure a model on annotated data",
        description="Asks a model everything that annotated data asks and measures the answers.",
    )
    add_data(parser, what=f"{ANNOTATED}; or rendered scenes: tabletop, tabletop:val, tabletop:test")
    add_limit(parser)
    parser.add_argument("--skip-faults", action="store_true", help="leave out data with faults instead of refusing")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="bootstrap draws for intervals [%(default)s]"
    )
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="worst answers shown per task [%(default)s]")
    add_out(parser, what="write report.json, report.md and pictures there")
    add_json(parser)
    engine = add_engine(parser)
    engine.add_argument("--batch", type=positive, default=8, metavar="N", help="images answered together [%(default)s]")
    parser.set_defaults(run=run_eval)


def _register_validate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "validate",
        help="list what is wrong with annotated data",
        description="Reads annotated data as training would, counts its examples and lists every fault with its place.",
    )
    add_data(parser)
    parser.add_argument("--headers", action="store_true", help="do not decode images: faster, misses damaged ones")
    add_json(parser)
    parser.set_defaults(run=run_validate)


def run_validate(arguments: argparse.Namespace) -> int:
    """`florence-edge validate`; 1 when there is any fault."""
    from florence_train.data import load
    from florence_train.data.record import tasks_of

    data = load(
        arguments.data,
        images=arguments.images,
        tasks=arguments.task,
        check="header" if arguments.headers else "decode",
        faults="skip",
    )
    counts = tasks_of(data.records)
    faults = [str(fault) for fault in data.faults]
    if arguments.json:
        print_json({"data": arguments.data, "images": len(data), "examples": counts, "faults": faults})
    else:
        rows = [*counts.items(), ("images", len(data)), ("faults", len(faults))]
        print("\n".join([table(rows, right=[1]), *faults]))
    return FAILED if faults else 0


def run_eval(arguments: argparse.Namespace) -> int:
    """`florence-edge eval`."""
    from florence_edge.model import Florence
    from florence_edge.options import SearchOptions
    from florence_train.evaluate import EvalOptions

    options = EvalOptions(
        tasks=tuple(arguments.task),
        limit=arguments.limit,
        search=SearchOptions(beams=arguments.beams),
        batch_size=arguments.batch,
        resamples=arguments.resamples,
        worst=arguments.worst,
    )
    with Florence.load(arguments.model, backend=arguments.backend, threads=arguments.threads) as model:
        report = _evaluated(arguments, model, options)
    if arguments.out is not None:
        write(arguments.out / "report.json", report.to_json().encode("utf-8"))
        write(arguments.out / "report.md", report.to_markdown().encode("utf-8"))
    if arguments.json:
        print_json(report.to_dict())
    else:
        print(_text(report))
    return 0


def _evaluated(arguments: argparse.Namespace, model: Florence, options: EvalOptions) -> Report:
    from florence_train.evaluate import evaluate
    from florence_train.evaluate.asked import Asked

    faults: OnFault = "skip" if arguments.skip_faults else "raise"
    asked = Asked(arguments.data, arguments.images, arguments.task, arguments.limit, faults)
    data, count = asked.records(model.bundle.manifest.image)
    gallery = None
    if arguments.out is not None:
        gallery = arguments.out / "worst"
        if gallery.exists():
            raise InputError(f"{gallery} exists; give another folder, or move the old one away")
        arguments.out.mkdir(parents=True, exist_ok=True)
    with progress(count, "eval") as bar:
        return evaluate(model, data, options=options, name=arguments.data, gallery=gallery, on_image=bar.advance)


def _text(report: Report) -> str:
    """The metrics as a table, and what went wrong."""
    from florence_train.evaluate.report import percent

    rows = [
        (
            metric.task,
            metric.name,
            percent(metric.value),
            "" if metric.low is None else f"{percent(metric.low)} to {percent(metric.high)}",
            metric.count,
            metric.paper,
        )
        for metric in report.metrics
    ]
    header = ("task", "metric", "x 100", "interval", "n", "row of the paper")
    parts = [
        f"{report.data}: {report.images} images, {report.questions} questions, {report.seconds:.1f} s",
        table(rows, header=header, right=[2, 3, 4]),
    ]
    for title, entries in (("questions without an answer", report.failures), ("data left out", report.faults)):
        if entries:
            parts.append("\n".join([f"{title}: {len(entries)}", *(f"  {entry}" for entry in entries[:20])]))
    return "\n\n".join(parts)
