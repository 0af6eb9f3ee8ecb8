"""Options that several commands have, each declared once, so that one thing has one name everywhere."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Container = argparse.ArgumentParser | argparse._ArgumentGroup

MODEL = "tabletop"
"""The model that is meant where none is named."""
A_BUNDLE = "a bundle folder or the name of a bundled model"


def also(container: Container, action: argparse.Action, *former: str) -> None:
    """Lets an option keep the names it had before; help does not show them."""
    container._option_string_actions.update(dict.fromkeys(former, action))


def add_json(container: Container) -> None:
    """Adds `--json`."""
    container.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_model(container: Container, *, what: str = f"{A_BUNDLE} [{MODEL}]", default: str | None = MODEL) -> None:
    """Adds `--model`; a command that is about a bundle, and not about images or data, takes it as an argument."""
    also(container, container.add_argument("--model", default=default, help=what), "--bundle")


def add_engine(
    parser: argparse.ArgumentParser, *, model: str = f"{A_BUNDLE} [{MODEL}]", beams: bool = True
) -> argparse._ArgumentGroup:
    """Adds the group of options that say what answers, and how; returns it for what a command has beside them.

    `model` says what `--model` takes; empty leaves it out.
    """
    group = parser.add_argument_group("model and engine")
    if model:
        add_model(group, what=model)
    group.add_argument(
        "--backend", default="onnx", metavar="NAME", help="the engine [onnx]; florence-edge doctor lists them"
    )
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the engine [its own choice]")
    if beams:
        group.add_argument(
            "--beams", type=positive, metavar="N", help="beams of the search, 1 for greedy [the bundle's]"
        )
    return group


def add_out(container: Container, *former: str, what: str, required: bool = False) -> None:
    """Adds `--out`, the folder that results go to; `former` are the names that a command had for it before."""
    also(container, container.add_argument("--out", type=Path, metavar="DIR", required=required, help=what), *former)


def positive(text: str) -> int:
    """An option's value that is 1 or more."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def above_zero(text: str) -> float:
    """An option's value that is above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
