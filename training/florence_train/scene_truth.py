"""What the dense loss asks of a tabletop scene: what lies under each image token, and what is printed there.

Text is asked for in two ways. Which character is *under* the centre of a cell is learnt first, but says nothing of how
often: neighbouring cells show the same character, and "66" looks like one wide "6". So cells and tokens also spell the
characters whose *centres* they hold, and end that spelling wherever print is near: a cell without a mark of its end
would cost nothing where it repeats its neighbour's character. With the place of the first of them in its label, each
character of a label is held by one token that knows its number, which is what a decoder has to find.
"""

from __future__ import annotations

import numpy as np

from florence_edge.geometry import Int64Array
from florence_edge.locations import quantise

from .auxiliary import DenseClasses
from .tabletop import Scene
from .tabletop.vocabulary import COLOURS, KINDS, LABEL_ALPHABET, LABEL_LENGTHS, SIZES, TABLES, TEXTURES, WALLS

ATTRIBUTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kind", tuple(KINDS)),
    ("colour", tuple(COLOURS)),
    ("size", tuple(SIZES)),
    ("texture", tuple(TEXTURES)),
)
"""Attributes of an object that the dense loss asks for, with their values; class 0 is "no object"."""

SURFACES: tuple[str, ...] = (*TABLES, *(f"{name} wall" for name in WALLS))
"""What is seen where no object is; class 0 is "an object", or a wall too small to be spoken of."""

COUNTS = 9
"""Numbers of objects that the dense loss tells apart, from none on."""

HELD = (2, 3)
"""Most characters that a cell of the finer map and a token are asked to spell."""

END = 1 + len(LABEL_ALPHABET)
"""The class that ends what a cell spells where print is near; class 0 is "no print"."""

NO_PLACE = 1 + LABEL_LENGTHS[1]
"""The class of the place in its label where print is near but no character is held."""

CLASSES = DenseClasses(
    attributes=(*(len(values) for _, values in ATTRIBUTES), len(SURFACES), *[END] * HELD[1], NO_PLACE),
    characters=(len(LABEL_ALPHABET), *[END] * HELD[0]),
    whole=(COUNTS,),
)
"""What there is to tell apart."""

_MARGIN = 0.15
"""Cells whose centre lies this far above or below a label still show it, as a share of its height."""


def dense_truth(
    scene: Scene, finer: tuple[int, int], grid: tuple[int, int]
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """What `DenseTargets` wants of one scene, for feature grids (rows, columns) before and after the last stage.

    Returns the classes [N, A] of `ATTRIBUTES`, `SURFACES`, the characters held and the place of the first; location
    bins [N, 4]; characters [M, 1 + HELD[0]] of the finer grid, the one under the centre first; and the number of
    objects [1]. N and M = rows * columns in row-major order.
    """
    height, width = scene.image.shape[:2]
    rows = ((np.arange(grid[0]) + 0.5) * height / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * width / grid[1]).astype(int)
    objects = np.zeros((grid[0] * grid[1], len(ATTRIBUTES)), dtype=np.int64)
    bins = np.full((grid[0] * grid[1], 4), -1, dtype=np.int64)
    wall = scene.wall_mask[np.ix_(rows, columns)].ravel()
    behind = 0 if scene.wall is None else 1 + SURFACES.index(f"{scene.wall} wall")
    surfaces = np.where(wall, behind, 1 + SURFACES.index(scene.table))
    for item in scene.objects:
        covered = item.mask[np.ix_(rows, columns)].ravel()
        surfaces[covered] = 0
        objects[covered] = [1 + values.index(getattr(item, name)) for name, values in ATTRIBUTES]
        bins[covered] = quantise(item.box.reshape(2, 2), scene.size).reshape(4)
    classes = np.concatenate([objects, surfaces[:, None], characters_held(scene, grid, HELD[1])], axis=1)
    spelt = characters_held(scene, finer, HELD[0])[:, :-1]
    characters = np.concatenate([characters_under(scene, finer)[:, None], spelt], axis=1)
    return classes, bins, characters, np.array([len(scene.objects)], dtype=np.int64)


def characters_held(scene: Scene, grid: tuple[int, int], most: int) -> Int64Array:
    """The characters whose centres lie in each cell of a grid, in reading order, and where in its label the first is.

    [N, most + 1] int64: 1 + the place in `LABEL_ALPHABET`, then `END`; last the number of the first character in its
    label, from 1 on, or `NO_PLACE`. All are 0 in cells that hold no character and have no print under a quarter of
    them.
    """
    quarters = characters_under(scene, (2 * grid[0], 2 * grid[1])).reshape(grid[0], 2, grid[1], 2)
    near = (quarters > 0).any(axis=(1, 3)).ravel()
    held: dict[int, list[tuple[int, int]]] = {}
    for label in scene.labels:
        for place, (character, (x, y)) in enumerate(zip(label.text, label.centres, strict=True), start=1):
            cell = int(y * grid[0] / scene.size.height) * grid[1] + int(x * grid[1] / scene.size.width)
            held.setdefault(cell, []).append((1 + LABEL_ALPHABET.index(character), place))
    found = np.where(near[:, None], np.array([END] * most + [NO_PLACE]), 0)
    for cell, inside in held.items():
        spelt = [character for character, _ in inside[:most]]
        found[cell] = [*spelt, *[END] * (most - len(spelt)), inside[0][1]]
    return found.astype(np.int64)


def characters_under(scene: Scene, grid: tuple[int, int]) -> Int64Array:
    """The character printed under the centre of each cell of a grid [N] int64: 1 + its place in `LABEL_ALPHABET`."""
    height, width = scene.image.shape[:2]
    rows, columns = np.indices(grid).reshape(2, -1) + 0.5
    places = np.stack([columns * width / grid[1], rows * height / grid[0]], axis=1)
    found = np.zeros(len(places), dtype=np.int64)
    for label in scene.labels:
        right = (label.quad[1] - label.quad[0] + label.quad[2] - label.quad[3]) / 2
        down = (label.quad[3] - label.quad[0] + label.quad[2] - label.quad[1]) / 2
        across = np.stack([right, down], axis=1)
        along, below = np.linalg.solve(across, (places - label.quad.mean(axis=0)).T)
        inside = (abs(along) < 0.5) & (abs(below) < 0.5 + _MARGIN)
        centres = np.linalg.solve(across, (label.centres - label.quad.mean(axis=0)).T)[0]
        nearest = abs(along[inside, None] - centres).argmin(axis=1)
        found[inside] = [1 + LABEL_ALPHABET.index(label.text[index]) for index in nearest]
    return found
