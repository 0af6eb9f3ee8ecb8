"""Pictures moved and recoloured, with everything annotated moved along; kornia does the moving and the recolouring.

Nothing is mirrored, since captions say "left" and labels are read, and nothing annotated may leave the picture, since
captions and phrases would then name what is not there: a draw that would is drawn again, and after `_TRIES` draws the
picture is only recoloured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from florence_edge.errors import InputError, listing, missing
from florence_edge.geometry import Float32Array
from florence_train.examples import Example

from .moves import moved

_TRIES = 4


@dataclass(frozen=True)
class AugmentRecipe:
    """How much pictures change.

    `degrees`: largest turn either way; a turned box becomes the box around its corners, so small turns serve boxes
    best. `shift`: largest move as a share of the picture's sides. `scale`: smallest and largest factor. `light`:
    largest relative change of brightness, contrast and saturation; `hue`: of the hue circle, 0 to 0.5 (leave it at 0
    where colours are named).
    """

    degrees: float = 3.0
    shift: float = 0.1
    scale: tuple[float, float] = (0.75, 1.1)
    light: float = 0.25
    hue: float = 0.0

    def __post_init__(self) -> None:
        checks = {
            f"degrees must be 0 to 180, got {self.degrees}": 0 <= self.degrees <= 180,
            f"shift must be 0 to 1, got {self.shift}": 0 <= self.shift <= 1,
            f"scale must be two rising factors above 0, got {self.scale}": 0 < self.scale[0] <= self.scale[1],
            f"light must be 0 to 1, got {self.light}": 0 <= self.light <= 1,
            f"hue must be 0 to 0.5, got {self.hue}": 0 <= self.hue <= 0.5,
        }
        faults = [message for message, passed in checks.items() if not passed]
        if faults:
            raise InputError(listing("these augmentations cannot be used:", faults))


class Augmentation:
    """Draws of an `AugmentRecipe`; the same seed gives the same draw."""

    def __init__(self, recipe: AugmentRecipe = AugmentRecipe()) -> None:
        try:
            from kornia import augmentation
        except ImportError as error:
            raise missing("kornia", extra="augment", needed_for="augmentation") from error
        colour: Any = augmentation.ColorJiggle(recipe.light, recipe.light, recipe.light, recipe.hue, p=1.0)
        move: Any = augmentation.RandomAffine(
            recipe.degrees, (recipe.shift, recipe.shift), recipe.scale, padding_mode="border", p=1.0
        )
        self._colour = augmentation.AugmentationSequential(colour, data_keys=["input"])
        self._move = augmentation.AugmentationSequential(move, data_keys=["input", "keypoints"])

    def __call__(
        self, picture: Image.Image, examples: Sequence[Example], seed: int
    ) -> tuple[Image.Image, tuple[Example, ...]]:
        """The picture changed, of the same size, and the examples that fit it."""
        import torch

        pixels = torch.from_numpy(np.array(picture, np.float32).transpose(2, 0, 1)[None] / 255)
        points = torch.from_numpy(np.concatenate([np.zeros((0, 2), np.float32), *_points(examples)]))[None]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            pixels = self._colour(pixels)
            for _ in range(_TRIES):
                # kornia counts from the centre of the first pixel, we from its corner.
                turned, places = self._move(pixels, points - 0.5)
                ends: Float32Array = (places[0] + 0.5).numpy().astype(np.float32)
                if _inside(ends, picture.size):
                    return _image(turned), tuple(_replaced(examples, ends))
        return _image(pixels), tuple(examples)


def _points(examples: Sequence[Example]) -> list[Float32Array]:
    """All points of all examples [P, 2], in the order in which `_replaced` takes them back."""
    found: list[Float32Array] = []

    def note(points: Float32Array) -> Float32Array:
        found.append(points)
        return points

    for example in examples:
        moved(example, note)
    return found


def _replaced(examples: Sequence[Example], points: Float32Array) -> list[Example]:
    """The examples with their points in the places given."""
    start = 0

    def take(old: Float32Array) -> Float32Array:
        nonlocal start
        start += len(old)
        return points[start - len(old) : start]

    return [moved(example, take) for example in examples]


def _inside(points: Float32Array, size: tuple[int, int]) -> bool:
    return bool((points >= 0).all() and (points <= np.array(size, np.float32)).all())


def _image(pixels: Any) -> Image.Image:
    array = (pixels[0].clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(array))
