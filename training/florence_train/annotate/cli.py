"""The subcommands of `florence-edge` that label images, go round the data engine, and calibrate scores."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence_edge.cli import ENDINGS, UsageError
from florence_edge.cli.options import A_BUNDLE, MODEL, add_engine, add_json, add_out, positive
from florence_edge.cli.output import print_json, progress, table
from florence_edge.errors import InputError, listing
from florence_edge.tasks import TASKS, find
from florence_train.data_options import add_data, add_limit

if TYPE_CHECKING:
    from .filters import Filter
    from .plan import Plan

_FILTERS = """filters, taken in the order given; NAME=VALUE@TASK,TASK is for some tasks alone:
  finished         answers that the model ended itself, well formed
  confidence=0.5   scores of at least so much; calibrate first, or see report.md
  nms=0.7          of boxes of one label that overlap more (IoU), the best
  agreement=0.5    regions that another task confirms: IoU of at least so much
  area=0.001..0.9  boxes by their share of the image
  blacklist        drops what names nothing; blacklist=it|thing, blacklist=FILE
  words=3..60      captions by their length
  objects=1..12    captions by the number of things they name

Tasks that take an input get it from another task's answers (regions from detect, captions for ground), or from --input.
A command that was stopped goes on where it was; other filters over the same answers need no model."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands."""
    _register_annotate(subparsers)
    _register_iterate(subparsers)
    _register_calibrate(subparsers)


def _register_annotate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "annotate",
        help="label images with a model, as training data",
        description="Asks a model about every image, filters the answers and writes them as training data.",
        epilog=_FILTERS,
    )
    _add_labelling(parser)
    parser.add_argument("--clean", type=Path, metavar="JSONL", help="labels of people; writes DIR/merged.jsonl too")
    parser.add_argument("--ray", type=positive, metavar="N", help="label with N workers of a Ray cluster (extra ray)")
    add_json(parser)
    parser.set_defaults(run=run_annotate)


def _register_iterate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "iterate",
        help="label, filter, merge with clean labels, train anew, measure; again and again",
        description="Rounds of the data engine; DIR/round-N has all that round N did, its model in run/checkpoint.",
        epilog=_FILTERS,
    )
    parser.add_argument(
        "recipe", metavar="RECIPE", type=Path, help="as for florence-edge train; its source is replaced"
    )
    _add_labelling(parser)
    parser.add_argument("--clean", type=Path, metavar="JSONL", required=True, help="labels of people, which always win")
    parser.add_argument("--test", metavar="DATA", help="what each round's model is measured on")
    parser.add_argument("--rounds", type=positive, default=1, metavar="N", help="how often [%(default)s]")
    add_json(parser)
    parser.set_defaults(run=run_iterate)


def _register_calibrate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="make a bundle's scores chances of being right",
        description="Fits a rising curve per task on data that the model was not trained on, and writes it into the "
        "bundle's manifest. Rankings, and so average precision, stay as they are.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle folder, which is written to")
    add_data(parser, what="as for florence-edge eval")
    add_limit(parser)
    parser.add_argument("--dry-run", action="store_true", help="measure, but leave the bundle as it is")
    add_json(parser)
    add_engine(parser, model="")
    parser.set_defaults(run=run_calibrate)


def _add_labelling(parser: argparse.ArgumentParser) -> None:
    """What `annotate` and `iterate` share: what is labelled, with what, how."""
    parser.add_argument("source", metavar="SOURCE", help="a folder, pattern, list, video, bag, or shards ('*.tar')")
    add_out(parser, "--output", what="where everything is written", required=True)
    parser.add_argument(
        "--task", action="append", dest="tasks", metavar="TASK", help="as in florence-edge run, or all; repeat"
    )
    parser.add_argument("--tasks", action="extend", nargs="+", help=argparse.SUPPRESS)  # the name it had before
    parser.add_argument(
        "--input", action="append", default=[], metavar="TASK=TEXT", help="the input of a task, as in detect=cup,bowl"
    )
    parser.add_argument("--filter", action="append", default=[], metavar="FILTER", help="see below; repeat")
    parser.add_argument(
        "--most",
        type=positive,
        default=32,
        metavar="N",
        help="inputs taken from one image's answers per task [%(default)s]",
    )
    add_engine(parser, model=f"{A_BUNDLE}, or a checkpoint [{MODEL}]")


def run_annotate(arguments: argparse.Namespace) -> int:
    """`florence-edge annotate`; 1 when an image or a question failed."""
    from .merge import merge
    from .model import open_model
    from .run import LABELS, annotate

    plan, filters = _labelling(arguments)
    if arguments.ray is not None:
        from .cluster import Opening, annotate_on_ray

        opening = Opening(arguments.model, arguments.backend, arguments.threads)
        report = annotate_on_ray(
            opening, arguments.source, out=arguments.out, plan=plan, filters=filters, workers=arguments.ray
        )
    else:
        with (
            open_model(arguments.model, backend=arguments.backend, threads=arguments.threads) as model,
            progress(_count(arguments.source), "annotate") as bar,
        ):
            report = annotate(
                model, arguments.source, out=arguments.out, plan=plan, filters=filters, on_image=bar.advance
            )
    values: dict[str, Any] = report.to_dict()
    if arguments.clean is not None:
        merged = merge(arguments.clean, arguments.out / LABELS, out=arguments.out / "merged.jsonl")
        values["merged"] = vars(merged)
    if arguments.json:
        print_json(values)
    else:
        print(_told(values, arguments.out))
    return 1 if report.faults else 0


def run_iterate(arguments: argparse.Namespace) -> int:
    """`florence-edge iterate`; the code of `ENDINGS` when a signal cut it short, and the same command goes on."""
    from florence_train.data import load
    from florence_train.evaluate import evaluate
    from florence_train.evaluate.run import WITHOUT_INTERVALS
    from florence_train.loop.interrupt import stopped_by
    from florence_train.recipe import load_recipe

    from .iterate import Labelling, iterate

    plan, filters = _labelling(arguments)
    labelling = Labelling(
        arguments.source, plan, arguments.clean, filters, backend=arguments.backend, threads=arguments.threads
    )
    test = load(arguments.test, check="header") if arguments.test else None
    rounds = []
    for done in iterate(
        load_recipe(arguments.recipe),
        labelling,
        out=arguments.out,
        model=arguments.model,
        rounds=arguments.rounds,
        measure=None if test is None else partial(evaluate, data=test, options=WITHOUT_INTERVALS),
    ):
        rounds.append(done)
        labels = done.labels
        _say(f"round {done.number}: {labels.clean} clean turns, {labels.machine} of the model: {done.checkpoint}")
    if arguments.json:
        print_json([asdict(done) for done in rounds])
    else:
        names = list(dict.fromkeys(name for done in rounds for name in done.metrics))
        rows = [(name, *(done.metrics.get(name) for done in rounds)) for name in names]
        print(table(rows, header=("metric", *(f"round {done.number}" for done in rounds))))
    if len(rounds) < arguments.rounds:
        _say("stopped; the same command goes on")
        return ENDINGS[stopped_by()][0]
    return 0


def run_calibrate(arguments: argparse.Namespace) -> int:
    """`florence-edge calibrate`."""
    from florence_edge.bundle import Bundle
    from florence_edge.model import Florence
    from florence_edge.options import SearchOptions
    from florence_train.evaluate import EvalOptions
    from florence_train.evaluate.asked import Asked
    from florence_train.evaluate.calibrate import calibrate, keep, uncalibrated

    bundle = Bundle.open(arguments.bundle)
    asked = Asked(arguments.data, arguments.images, arguments.task, arguments.limit)
    data, count = asked.records(bundle.manifest.image)
    options = EvalOptions(
        tasks=tuple(arguments.task), limit=arguments.limit, search=SearchOptions(beams=arguments.beams), resamples=0
    )
    with (
        Florence.load(uncalibrated(bundle), backend=arguments.backend, threads=arguments.threads) as model,
        progress(count, "calibrate") as bar,
    ):
        outcomes = calibrate(model, data, options=options, on_image=bar.advance)
    if not arguments.dry_run:
        keep(bundle, outcomes)
    if arguments.json:
        print_json([{**vars(outcome), "curve": outcome.curve and vars(outcome.curve)} for outcome in outcomes])
        return 0
    rows = []
    for outcome in outcomes:
        curve = outcome.curve
        errors = ("", "") if curve is None else (f"{curve.error_before:.3f}", f"{curve.error_after:.3f}")
        rows.append((outcome.task, outcome.items, *errors, outcome.reason))
    print(table(rows, header=("task", "scores", "error before", "after, held out", ""), right=[1, 2, 3]))
    return 0


def _labelling(arguments: argparse.Namespace) -> tuple[Plan, tuple[Filter, ...]]:
    """Questions and filters of a command line."""
    from florence_edge.options import SearchOptions
    from florence_edge.prompts import read_input

    from .filters import read_filters
    from .plan import Plan

    if not arguments.tasks:
        raise UsageError("no --task is given; for example: --task detect --task caption, or --task all")
    inputs: dict[str, list[str]] = {}
    faults = []
    for text in arguments.input:
        task, separator, value = text.partition("=")
        if separator:
            inputs.setdefault(find(task, with_input=True).token, []).append(value)
        else:
            faults.append(f"--input {text!r} is not TASK=TEXT, as in detect=cup,bowl")
    names = [task.token for task in TASKS] if arguments.tasks == ["all"] else arguments.tasks
    rows = [find(name, with_input=find(name, with_input=True).token in inputs) for name in names]
    asked = {row.token for row in rows}
    faults += [f"--input is given for {token}, which is not asked" for token in inputs if token not in asked]
    if faults:
        raise UsageError(listing("these inputs cannot be used:", faults))
    tasks = [(row.token, read_input(row, inputs[row.token])) if row.token in inputs else row.token for row in rows]
    search = None if arguments.beams is None else SearchOptions(beams=arguments.beams)
    return Plan.of(tasks, most=arguments.most, search=search), read_filters(arguments.filter)


def _count(source: str) -> int:
    """Number of images, 0 where only reading them would tell."""
    from .sources import by_number

    try:
        return len(by_number(source))
    except InputError:
        return 0


def _told(values: dict[str, Any], out: Path) -> str:
    """The report in a few lines."""
    rows = [
        (token, task["items"]["asked"], sum(task["removed"].values()), task["items"]["kept"])
        for token, task in values["tasks"].items()
    ]
    lines = [
        f"{values['images']} images, {values['labelled']} with a label, {values['turns']} turns: {out / 'report.md'}",
        table(rows, header=("task", "items", "removed", "kept"), right=[1, 2, 3]),
    ]
    if "merged" in values:
        merged = values["merged"]
        lines.append(
            f"{out / 'merged.jsonl'}: {merged['clean']} clean turns, {merged['machine']} of the model, "
            f"{merged['superseded']} left out for clean ones"
        )
    return "\n".join([*lines, *values["faults"][:20]])


def _say(text: str) -> None:
    print(f"florence-edge: {text}", file=sys.stderr, flush=True)
