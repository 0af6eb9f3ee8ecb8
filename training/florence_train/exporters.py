"""The way from a checkpoint to a bundle, for whoever trains.

Converting belongs to a package that needs this one, so it cannot be imported here: it registers its function
`(checkpoint, out, *, overwrite, on_step) -> Bundle` under an entry-point group.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from florence_edge.bundle import Bundle
from florence_edge.errors import missing

GROUP = "florence_edge.exporters"


class Exporter(Protocol):
    """Converts a checkpoint folder into a bundle and refuses one whose answers differ from the checkpoint's."""

    def __call__(self, checkpoint: Path, out: Path, *, overwrite: bool) -> Bundle:
        """Writes the bundle; an older one at `out` may be replaced."""
        ...


def exporter(name: str = "onnx") -> Exporter:
    """The exporter of that name; `DependencyError` where it or what it needs is not installed."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    try:
        load: Exporter = found[0].load()
    except (IndexError, ImportError) as error:
        raise missing(f"an exporter to {name}", extra="convert", needed_for="training that ends in a bundle") from error
    return load
