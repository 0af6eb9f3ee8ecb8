"""What commands print: tables, JSON and progress, the same way everywhere."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Prints strict JSON; non-ASCII characters are kept where the output is UTF-8."""
    unicode = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    print(json.dumps(value, indent=indent, ensure_ascii=not unicode, allow_nan=False), flush=indent is None)


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = (), right: Iterable[int] = ()) -> str:
    """Rows as aligned columns, those in `right` on the right; wide characters count double."""
    from rich.cells import cell_len

    cells = [[str(value) for value in row] for row in ([header, *rows] if header else rows)]
    if not cells:
        return ""
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))]
    on_right = set(right)

    def line(row: Sequence[str]) -> str:
        padded = []
        for column, text in enumerate(row):
            space = " " * (widths[column] - cell_len(text))
            padded.append(space + text if column in on_right else text + space)
        return "  ".join(padded).rstrip()

    lines = [line(row) for row in cells]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


class Progress(Protocol):
    """How far long work has come."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds finished steps; `note` is shown beside the bar."""
        ...


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


@contextmanager
def progress(total: int, label: str) -> Iterator[Progress]:
    """A bar with the remaining time on stderr; nothing at all when stderr is not a terminal."""
    if not sys.stderr.isatty() or total < 2:
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    # Redirection sends what is printed above the bar, but to the bar's own stream: a piped stdout must be left alone.
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bars:
        task = bars.add_task(label, total=total, note="")

        class _Bar:
            def advance(self, count: int = 1, note: str = "") -> None:
                bars.update(task, advance=count, note=note)

        yield _Bar()
