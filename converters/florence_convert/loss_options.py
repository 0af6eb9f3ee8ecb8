"""The options of `convert` and `build` that say what a loss of accuracy is measured on, and how large it may be."""

from __future__ import annotations

import argparse

from florence_edge.cli.options import positive


def add_loss(parser: argparse.ArgumentParser, *, title: str, max_loss: str) -> argparse._ArgumentGroup:
    """Adds the group, and returns it for what a command has beside it; `max_loss` says what the limit is of."""
    group = parser.add_argument_group(title, "what the loss is measured on, and how large it may be")
    group.add_argument(
        "--data", metavar="DATA", help="annotated data, as florence-edge eval takes it; needs the extra eval"
    )
    group.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="IMAGE",
        help="for int8: pictures such as the model will see; a file, a folder or a pattern; repeat",
    )
    group.add_argument("--limit", type=positive, default=40, metavar="N", help="the first images only [%(default)s]")
    group.add_argument("--max-loss", type=float, metavar="X", help=max_loss)
    return group
