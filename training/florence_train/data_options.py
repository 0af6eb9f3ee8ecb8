"""The options of the commands that ask a model about annotated data, or only read it."""

from __future__ import annotations

import argparse

from florence_edge.cli.options import positive

ANNOTATED = "a .jsonl, COCO or RefCOCO-style file, an ICDAR folder, or .tar shards"
_SCENES = 200  # as in evaluate.asked, whose import loads torch


def add_data(parser: argparse.ArgumentParser, *, what: str = ANNOTATED) -> None:
    """Adds DATA, which of its tasks are meant, and where its images lie."""
    parser.add_argument("data", metavar="DATA", help=what)
    parser.add_argument(
        "--task", action="append", default=[], metavar="TASK", help="ask this task only; repeat [all tasks of DATA]"
    )
    parser.add_argument("--images", metavar="DIR", help="where image names lead [the folder of DATA]")


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Adds `--limit`."""
    parser.add_argument(
        "--limit", type=positive, metavar="N", help=f"the first images only [all; {_SCENES} of tabletop]"
    )
