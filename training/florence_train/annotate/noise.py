"""Annotations as a careless annotator gives them: objects dropped, named wrongly, boxed badly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence_edge.errors import InputError, listing
from florence_edge.geometry import ImageSize
from florence_train.data.truths import Region

LEAST_SIDE = 3.0
"""Pixels; a box that would become thinner stays as it is."""


@dataclass(frozen=True)
class Noise:
    """What becomes of each object, each with its own chance.

    `drop`: it is left out. `rename`: it gets another of the names. `shift`: each side of its box moves by up to `reach`
    of the box's width or height.
    """

    drop: float = 0.3
    rename: float = 0.5
    shift: float = 0.4
    reach: float = 0.35

    def __post_init__(self) -> None:
        chances = {"drop": self.drop, "rename": self.rename, "shift": self.shift, "reach": self.reach}
        faults = [f"{name} is {value}; it must lie in 0..1" for name, value in chances.items() if not 0 <= value <= 1]
        if faults:
            raise InputError(listing("this noise cannot be made:", faults))


def corrupt(
    regions: Sequence[Region], noise: Noise, *, names: Sequence[str], size: ImageSize, rng: np.random.Generator
) -> list[Region]:
    """The regions as such an annotator gives them; boxes stay inside the image, three pixels wide and high or more."""
    kept = [region for region in regions if rng.random() >= noise.drop]
    named = [_renamed(region, names, rng) if rng.random() < noise.rename else region for region in kept]
    return [_shifted(region, size, noise.reach, rng) if rng.random() < noise.shift else region for region in named]


def _renamed(region: Region, names: Sequence[str], rng: np.random.Generator) -> Region:
    others = [name for name in names if name != region.label]
    return replace(region, label=others[int(rng.integers(len(others)))]) if others else region


def _shifted(region: Region, size: ImageSize, reach: float, rng: np.random.Generator) -> Region:
    sides = np.tile(region.box[2:] - region.box[:2], 2)
    limit = np.array([*size, *size], np.float32)
    moved = np.clip(region.box + rng.uniform(-reach, reach, 4).astype(np.float32) * sides, 0, limit)
    return replace(region, box=moved) if (moved[2:] - moved[:2] >= LEAST_SIDE).all() else region
