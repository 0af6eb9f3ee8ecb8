"""Where a bundle's weights come from: what the manifest and the bundle folder keep of a checkpoint folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from florence_edge.bundle import PICTURE
from florence_edge.manifest import Source
from florence_train.folder import digest
from florence_train.published_config import read_config

_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")
_CARD = "README.md"
_CARD_LICENCE = re.compile(r"^license:\s*['\"]?([^\s'\"]+)", re.MULTILINE)


def describe(folder: Path, name: str) -> Source:
    """The manifest's record of a checkpoint."""
    return Source(
        name=name,
        layout=read_config(folder).layout.value,
        sha256=digest(folder),
        licence=_licence(folder),
    )


def copy_papers(folder: Path, target: Path) -> None:
    """Copies licence and model card, without which the weights may not be passed on, and a picture for the demo."""
    for name in (*_LICENCES, _CARD, PICTURE):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _licence(folder: Path) -> str | None:
    """The licence that the model card states in its front matter."""
    card = folder / _CARD
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    found = _CARD_LICENCE.search(front)
    return found[1] if found else None
