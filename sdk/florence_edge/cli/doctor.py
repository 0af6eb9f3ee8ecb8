"""`florence-edge doctor`: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from florence_edge.backends.registry import Availability, available, open_backend
from florence_edge.bundle import Bundle, bundled_names
from florence_edge.errors import FlorenceError
from florence_edge.health.checks import EXTRAS, PACKAGE, Check, State, interpreter, libraries, machine
from florence_edge.health.nvidia import engines, jetson

from . import FAILED
from .options import add_json, add_model
from .output import print_json, table

if TYPE_CHECKING:
    from .main import Subparsers

_MARKS: dict[State, str] = {"ok": "ok", "absent": "-", "wrong": "WRONG", "fact": ""}


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine: libraries, devices, backends",
        description="Checks Python, libraries, devices and backends; exit code 1 when something is wrong.",
    )
    add_model(parser, default=None, what="open the backends with this bundle [a bundled one]")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the report; wrong is what is broken or outside its supported range, not what is merely not installed."""
    report = [*interpreter(), *libraries(), *machine(), *jetson(), *engines(), *backends(arguments.model)]
    wrong = [check for check in report if check.state == "wrong"]
    if arguments.json:
        print_json({"healthy": not wrong, "checks": [asdict(check) for check in report]})
    else:
        listed = [check for check in report if not check.extra]
        for topic in dict.fromkeys(check.topic for check in listed):
            print(topic)
            rows = [(f"  {_MARKS[check.state]}", check.name, check.found) for check in listed if check.topic == topic]
            print(table(rows), end="\n\n")
        lacking = [(f"  {extra}", purpose, names) for extra, purpose, names in _lacking(report)]
        if lacking:
            print(f"not installed; pip install '{PACKAGE}[NAME]' brings it\n{table(lacking)}", end="\n\n")
        fixes = [(f"  {check.name}", check.fix) for check in listed if check.fix]
        if fixes:
            print("what to do\n" + table(fixes), end="\n\n")
        print(f"{len(wrong)} thing{'s' * (len(wrong) != 1)} wrong" if wrong else "all is well")
    return FAILED if wrong else 0


def _lacking(report: Sequence[Check]) -> Iterator[tuple[str, str, str]]:
    """Optional parts of the package that lack something: name, purpose, libraries."""
    for extra, purpose in EXTRAS.items():
        names = [check.name for check in report if check.extra == extra]
        if names:
            more = f" and {len(names) - 2} more" if len(names) > 3 else ""
            yield extra, purpose, ", ".join(names[:2] if more else names) + more


def backends(source: str | None) -> Iterator[Check]:
    """Opens every backend with the bundle given or a bundled one; without any, asks each whether it could."""
    source = source or next(iter(bundled_names()), None)
    try:
        bundle = Bundle.open(source) if source else None
    except FlorenceError as error:
        yield Check("backends", "bundle", "wrong", str(error))
        return
    checks = [_backend(known, bundle) for known in available()]
    yield from checks
    if not any(check.state == "ok" for check in checks):
        fix = "pip install 'florence-edge[onnx]'"
        yield Check("backends", "any", "wrong", "no backend opens, so no model can run", fix)


def _backend(known: Availability, bundle: Bundle | None) -> Check:
    """One backend; one that cannot open this bundle may still be fit for another."""
    if not known.opens:
        return Check("backends", known.name, "absent", known.detail)
    if bundle is None:
        return Check("backends", known.name, "ok", known.detail)
    try:
        open_backend(known.name, bundle).close()
    except FlorenceError as error:
        return Check("backends", known.name, "absent", f"does not open {bundle.folder.name}: {error}")
    except Exception as error:  # a broken native library can raise anything, and that is what the doctor is asked about
        return Check("backends", known.name, "wrong", f"{type(error).__name__}: {error}")
    return Check("backends", known.name, "ok", f"{known.detail}; opens {bundle.folder.name}")
