"""Slips of paper with printed text, strewn over the free parts of a picture: many characters at once to learn to read.

A rendered scene shows five or so characters; a model that starts from nothing needs some hundred thousand. Slips lie in
the plane of the picture, shaded but without shadows: they are for training, not for measuring.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from . import imaging, lettering, vocabulary
from .layout import LEAST_TEXT
from .scene import PrintedLabel, SceneObject, TabletopConfig

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Boxes = list[Float64Array]

_TRIES = 12
"""Places tried for each slip wanted."""

_TALLEST = 0.09
"""Greatest height of a slip's text, as a share of the mean side."""

_LEAN = 0.25
"""Standard deviation of a slip's rotation in radians."""

_PAPERS = ((0.93, 0.92, 0.88), (0.95, 0.85, 0.55), (0.6, 0.78, 0.85), (0.85, 0.62, 0.62), (0.3, 0.34, 0.42))
_INKS = ((0.05, 0.05, 0.06), (0.08, 0.1, 0.35), (0.4, 0.05, 0.05), (0.95, 0.95, 0.93))


@dataclass(frozen=True, eq=False)
class Slip:
    """One slip: its `text` on a face of `size` (width, height) in pixels, whose corners lie at `corners` [4, 2]."""

    text: lettering.Print
    size: tuple[float, float]
    corners: Float64Array
    shade: float

    @property
    def box(self) -> Float64Array:
        """What it covers at most: x1, y1, x2, y2."""
        return np.concatenate([self.corners.min(0), self.corners.max(0)])

    def label(self) -> PrintedLabel:
        """The truth about its text."""
        quad = imaging.project(self._seen(1.0), lettering.ink_quad(self.text, *self.size))
        along = np.array(lettering.places(self.text.text, self.text.font))[:, None]
        left, right = (quad[0] + quad[3]) / 2, (quad[1] + quad[2]) / 2
        centres = left + along * (right - left)
        return PrintedLabel(self.text.text, quad.astype(np.float32), centres.astype(np.float32), None)

    def lay(self, frame: Float32Array) -> None:
        """Draws the slip on `frame` [H, W, 3] in linear light."""
        face = lettering.paint(self.text, *self.size, 2.0)
        left, top, right, bottom = np.concatenate([np.floor(self.box[:2]), np.ceil(self.box[2:])]).astype(int)
        moved = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ self._seen(face.shape[1] / self.size[0])
        cover = imaging.warp(face, moved, right - left, bottom - top).astype(np.float32) / np.float32(255)
        part = frame[top:bottom, left:right]
        assert self.text.paper is not None
        for colour, where in zip((self.text.paper, self.text.ink), (cover[..., :1], cover[..., 1:]), strict=True):
            part += where * (np.float32(self.shade) * np.square(np.array(colour, np.float32)) - part)

    def _seen(self, scale: float) -> Float64Array:
        """The homography from the face, `scale` samples a pixel, to the picture."""
        width, height = self.size
        return imaging.homography(np.array([[0, 0], [width, 0], [width, height], [0, height]]) * scale, self.corners)


def strew(seed: int, index: int, config: TabletopConfig, objects: tuple[SceneObject, ...]) -> tuple[Slip, ...]:
    """Up to `config.slips` slips that hide nothing and do not touch each other; a function of (`seed`, `index`)."""
    rng = np.random.default_rng([seed, index, 2])
    taken: Boxes = [thing.box.astype(np.float64) for thing in objects]
    found: list[Slip] = []
    for _ in range(config.slips):
        slip = _draw(rng, config)
        for place in rng.uniform(0, 1, (_TRIES, 2)) * (config.width, config.height):
            box = slip.box + np.tile(place, 2)
            if _free(box, taken, config):
                taken.append(box)
                found.append(replace(slip, corners=slip.corners + place))
                break
    return tuple(found)


def _draw(rng: np.random.Generator, config: TabletopConfig) -> Slip:
    """A slip around the origin."""
    side = (config.width + config.height) / 2
    length = int(rng.integers(vocabulary.LABEL_LENGTHS[0], vocabulary.LABEL_LENGTHS[1] + 1))
    text = "".join(rng.choice(list(vocabulary.LABEL_ALPHABET), length))
    font = lettering.FONTS[int(rng.integers(len(lettering.FONTS)))]
    tall = side * float(rng.uniform(LEAST_TEXT[0], _TALLEST))
    wide = max(tall * lettering.aspect(text, font), LEAST_TEXT[1] * side * length)
    paper = _PAPERS[int(rng.integers(len(_PAPERS)))]
    inks = _INKS[3:] if sum(paper) < 1.5 else _INKS[:3]
    face = (wide + tall * float(rng.uniform(0.4, 1.2)), tall * float(rng.uniform(1.4, 2.0)))
    fill = max(wide / face[0], 0.5)
    printed = lettering.Print(text, font, fill, 0.0, inks[int(rng.integers(len(inks)))], paper)
    angle = float(rng.normal(0, _LEAN))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(face) / 2
    corners = corners * (1 + rng.uniform(-0.06, 0.06, (4, 2))) @ turn
    return Slip(printed, face, corners, float(rng.uniform(0.35, 1.0)))


def _free(box: Float64Array, taken: Boxes, config: TabletopConfig) -> bool:
    inside = box.min() >= 1 and box[2] <= config.width - 1 and box[3] <= config.height - 1
    return bool(inside) and all((np.minimum(box[2:], b[2:]) < np.maximum(box[:2], b[:2])).any() for b in taken)
