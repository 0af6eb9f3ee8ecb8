"""Annotated pictures for the trainer's tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_captions(folder: Path, count: int = 3) -> Path:
    """JSONL of grey pictures with a caption each; returns its path."""
    lines = []
    for index in range(count):
        Image.fromarray(np.full((64, 64, 3), 60 * index, np.uint8)).save(folder / f"{index}.png")
        lines.append({"image": f"{index}.png", "prefix": "<CAPTION>", "suffix": f"a picture of grey {index}"})
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path
