"""The small random model that `florence-edge demo` shows where the bundled one is not installed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from florence_edge.cli.output import progress


def make(folder: str | Path) -> Path:
    """Makes a random checkpoint, converts it to a bundle at `folder` and returns that; its answers mean nothing."""
    from florence_train.tiny import write_tiny_checkpoint

    from .export import STEPS, export_bundle

    with tempfile.TemporaryDirectory() as scratch, progress(len(STEPS), "random model") as bar:
        checkpoint = write_tiny_checkpoint(Path(scratch) / "random")
        return export_bundle(checkpoint, folder, on_step=lambda step: bar.advance(note=step)).folder
