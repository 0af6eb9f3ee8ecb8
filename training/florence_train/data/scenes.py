"""Rendered tabletop scenes as records: rendered when they are looked at, never kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .record import Record

if TYPE_CHECKING:
    from florence_train.tabletop import Scene, TabletopConfig


TABLETOP = "tabletop"


def split_named(data: str) -> str:
    """The split that "tabletop" (its "val") or "tabletop:SPLIT" names; empty for annotated data."""
    name, _, split = data.partition(":")
    return (split or "val") if name == TABLETOP else ""


@dataclass(frozen=True)
class ScenePicture:
    """The picture of a scene, rendered anew."""

    seed: int
    index: int
    config: TabletopConfig

    def load(self) -> Image.Image:
        """The picture; see `Picture`."""
        return Image.fromarray(_scene(self.seed, self.index, self.config).image)


def tabletop(
    split: str = "val", count: int = 200, *, config: TabletopConfig | None = None, per_task: int = 1
) -> Iterator[Record]:
    """The first scenes of a split with up to `per_task` questions for each task that takes an input.

    Raises `InputError` for an unknown split; needs OpenCV.
    """
    from florence_train.tabletop import TabletopConfig, split_seed

    return _records(split, split_seed(split), count, config or TabletopConfig(), per_task)


def _records(split: str, seed: int, count: int, config: TabletopConfig, per_task: int) -> Iterator[Record]:
    from florence_train.tabletop import examples

    for index in range(count):
        scene = _scene(seed, index, config)
        asked = tuple(examples(scene, np.random.default_rng([seed, index, 1]), per_task=per_task))
        yield Record(f"{split}-{index}", ScenePicture(seed, index, config), scene.size, asked)


@lru_cache(maxsize=32)
def _scene(seed: int, index: int, config: TabletopConfig) -> Scene:
    """Kept for a moment, since a record is drawn from a scene just before its picture is wanted."""
    from florence_train.tabletop import render

    return render(seed, index, config)
