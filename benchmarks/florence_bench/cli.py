"""The subcommand `bench` of `florence-edge`; only the command line lives here."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence_edge.cli import SLOWER, UsageError
from florence_edge.cli.options import A_BUNDLE, above_zero, add_engine, add_json, add_out, positive
from florence_edge.cli.output import print_json, progress, table

if TYPE_CHECKING:
    from .report import Report
    from .settings import RaceSettings, Rival, Settings
    from .tables import Table

QUICK: dict[str, Any] = {"tokens": 8, "seconds": 0.2, "warmup_seconds": 0.05, "runs": 3, "cold_starts": 1}
"""What `--quick` measures with: enough to see that everything works, not enough to believe a number."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command; this is the entry point."""
    parser = subparsers.add_parser(
        "bench",
        help="measure latency, memory, energy and throughput; race rivals; compare results",
        description="Measures a bundle on this machine and writes JSON, Markdown and HTML.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help=A_BUNDLE)
    parser.add_argument("images", metavar="IMAGE", nargs="*", type=Path, help="images to ask about [a drawn scene]")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="compare two result files")
    parser.add_argument(
        "--force", action="store_true", help="with --compare: also results of different machines or settings"
    )
    parser.add_argument(
        "--threshold",
        type=above_zero,
        default=0.02,
        metavar="X",
        help="with --compare: the smallest share that counts as a change [%(default)s]",
    )
    add_out(parser, what="folder for results [benchmarks/results]")
    parser.add_argument("--label", metavar="WORD", help="part of the files' names, to keep several runs of one bundle")
    add_json(parser)
    _add_measuring(parser.add_argument_group("what is measured"))
    add_engine(parser, model="").add_argument(
        "--providers", nargs="+", metavar="NAME", help="ONNX Runtime execution providers, the preferred first"
    )
    _add_racing(parser.add_argument_group("rivals"))
    parser.set_defaults(run=run)


def _add_measuring(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--task", metavar="TASK", help="as in florence-edge run [caption]")
    group.add_argument(
        "--input", action="extend", nargs="+", metavar="TEXT", help="what the task takes: a phrase, or class names"
    )
    group.add_argument("--tokens", type=positive, metavar="N", help="tokens of every answer [32]")
    group.add_argument("--warmup", dest="warmup_seconds", type=float, metavar="S", help="seconds before measuring [1]")
    group.add_argument("--seconds", type=above_zero, metavar="S", help="seconds of every measurement [10]")
    group.add_argument("--runs", type=positive, metavar="N", help="least runs of every measurement [10]")
    group.add_argument("--cold-starts", type=int, metavar="N", help="fresh processes [3]")
    group.add_argument(
        "--scenarios", type=_words, metavar="NAME,NAME", help="of single,multi,offline,server, or none [all]"
    )
    group.add_argument(
        "--rates", dest="camera_rates", type=_rates, metavar="HZ,HZ", help="camera rates, or none [10,30]"
    )
    group.add_argument(
        "--server-bound-ms", type=above_zero, metavar="MS", help="latency bound of the server [twice the median]"
    )
    group.add_argument("--growth", type=_words, metavar="NAME,NAME", help="of tokens,beams,batch,pixels [none]")
    group.add_argument("--seed", type=int, metavar="N", help="seed of arrivals and resampling [0]")
    group.add_argument("--quick", action="store_true", help="a few short runs of everything, to see that it works")


def _add_racing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--rival",
        action="append",
        default=[],
        metavar="KIND=FOLDER",
        help="florence-edge=BUNDLE, or transformers, transformers-compile, onnx-community, openvino with a checkpoint",
    )
    group.add_argument("--rounds", type=positive, metavar="N", help="most rounds of the race, 2 or more [5]")
    group.add_argument(
        "--race-seconds",
        type=above_zero,
        metavar="S",
        help="seconds of the race after which no third or further round is begun [480]",
    )
    group.add_argument(
        "--patience",
        type=above_zero,
        metavar="S",
        help="seconds after which a contender that does not open or answer is left out [300]",
    )


def run(arguments: argparse.Namespace) -> int:
    """`florence-edge bench`."""
    if arguments.compare:
        if arguments.bundle:
            raise UsageError("give either a bundle to measure or --compare BEFORE AFTER, not both")
        return run_compare(arguments)
    if not arguments.bundle:
        raise UsageError("give a bundle to measure, or --compare BEFORE AFTER")
    from .bench import run_benchmark, steps

    settings, race_settings = read_settings(arguments)
    out, label = arguments.out or Path("benchmarks/results"), arguments.label
    with progress(steps(settings, race_settings), "bench") as bar:
        report = run_benchmark(
            arguments.bundle,
            arguments.images,
            settings=settings,
            race_settings=race_settings,
            note=lambda text: bar.advance(1, text),
            keep=lambda report: save(report, out, label),
        )
    written = save(report, out, label)
    if arguments.json:
        print_json(report.to_dict())
        return 0
    from .tables import tables

    print("\n\n".join(map(_text, tables(report))))
    for text in report.warnings:
        print(f"florence-edge: warning: {text}", file=sys.stderr)
    print(f"\nwritten: {', '.join(map(str, written))}")
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """`florence-edge bench --compare`; `SLOWER` when any figure got slower."""
    from .compare import compare
    from .report import Report
    from .tables import comparison_table

    before, after = map(Report.read, arguments.compare)
    found = compare(before, after, force=arguments.force, threshold=arguments.threshold)
    if arguments.json:
        print_json(asdict(found))
    else:
        print("\n".join([*(f"forced in spite of {reason}" for reason in found.forced), _text(comparison_table(found))]))
    return SLOWER if found.slower else 0


def read_settings(arguments: argparse.Namespace) -> tuple[Settings, RaceSettings]:
    """The settings of a command line; what it does not say keeps its default."""
    from .settings import RaceSettings, Settings

    names = {field.name for field in fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    words = given.pop("input", None)
    if words:
        given["input"] = words[0] if len(words) == 1 else tuple(words)
    if "providers" in given:
        given["providers"] = tuple(given["providers"])
    race = {
        name: value
        for name, value in (
            ("rounds", arguments.rounds),
            ("seconds", arguments.race_seconds),
            ("patience", arguments.patience),
        )
        if value is not None
    }
    rivals = tuple(map(_rival, arguments.rival))
    return Settings(**{**(QUICK if arguments.quick else {}), **given}), RaceSettings(rivals=rivals, **race)


def save(report: Report, out: Path, label: str | None = None) -> list[Path]:
    """Writes the three documents to the machine's folder, the JSON last; returns their paths."""
    from florence_edge.files import write

    from .html import to_html
    from .markdown import to_markdown

    folder = out / report.machine.name
    folder.mkdir(parents=True, exist_ok=True)
    words = [report.model.name, report.model.precision, *([label] if label else [])]
    stem = re.sub(r"[^\w.-]+", "-", "-".join(words)).strip("-")
    documents = {".html": to_html(report), ".md": to_markdown(report), ".json": report.to_json()}
    for suffix, text in documents.items():
        write(folder / f"{stem}{suffix}", text.encode("utf-8"))
    return [folder / f"{stem}{suffix}" for suffix in documents]


def _text(found: Table) -> str:
    shown = table(found.rows, header=found.header if any(found.header) else (), right=range(1, len(found.header)))
    return "\n".join(part for part in (found.title.upper(), found.text, "", shown) if part or part == "")


def _rival(text: str) -> Rival:
    from .settings import Rival

    kind, separator, folder = text.partition("=")
    if not separator or not folder:
        raise UsageError(f"--rival {text!r} names no folder; write KIND=FOLDER, as in transformers=checkpoints/base")
    return Rival(kind, folder)


def _words(text: str) -> tuple[str, ...]:
    """Words between commas; `none` is none."""
    return () if text == "none" else tuple(text.split(","))


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of rates; write them as in 10,30") from None
