"""The truth of a rendered scene, read from who owns which sample of the picture."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from . import imaging, lettering
from .camera import Camera
from .items import Item
from .layout import text_quad
from .outline import extent, polygons
from .raster import Fragments
from .scene import PrintedLabel, SceneObject, TabletopConfig

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
OwnerArray = npt.NDArray[np.int16]

LEAST_VISIBLE = 0.25
"""Objects less visible than this are left out of the truth."""

LEAST_TEXT_VISIBLE = 0.97
"""Labels with less of their area visible are left out of the truth."""


def silhouettes(fragments: Fragments, owner: IntArray, count: int, size: tuple[int, int]) -> IntArray:
    """Samples [count] that each item would cover if nothing stood before it."""
    covered = np.zeros((count, size[0] * size[1]), np.bool_)
    covered[owner[fragments.triangle], fragments.pixel] = True
    return np.array([np.count_nonzero(mine) for mine in covered], np.int64)


def objects(
    items: list[Item], camera: Camera, owners: OwnerArray, whole: IntArray, config: TabletopConfig
) -> tuple[tuple[SceneObject, ...], dict[int, int]]:
    """The visible objects from left to right, and where each item went in that order.

    `owners` [rows, columns] names the item of each sample, -1 for none; `whole` are the `silhouettes`.
    """
    seen = [int(np.count_nonzero(owners == number)) for number in range(len(items))]
    shown = [n for n, count in enumerate(seen) if count > 0 and count >= LEAST_VISIBLE * whole[n]]
    away = camera.project(np.array([[items[n].ground[0], 0.0, items[n].ground[1]] for n in shown]).reshape(-1, 3))[1]
    ranks = np.argsort(np.argsort(away))
    found = [
        (n, _object(items[n], owners == n, seen[n] / int(whole[n]), int(rank), config))
        for n, rank in zip(shown, ranks, strict=True)
    ]
    found.sort(key=lambda entry: entry[1].centre[0])
    return tuple(thing for _, thing in found), {number: place for place, (number, _) in enumerate(found)}


def _object(item: Item, mine: BoolArray, visible: float, depth: int, config: TabletopConfig) -> SceneObject:
    samples = config.supersample
    left, top, right, bottom = extent(mine)
    share = imaging.shrink(mine.astype(np.uint8) * np.uint8(255), config.width, config.height)
    return SceneObject(
        kind=item.kind,
        colour=item.colour,
        size=item.size,
        texture=item.texture,
        box=np.array([left, top, right, bottom], np.float32) / np.float32(samples),
        mask=np.asarray(share >= 128),
        polygons=polygons(mine[top:bottom, left:right], samples, offset=(left, top)),
        visible=visible,
        depth=depth,
        row=item.row,
        ground=item.ground,
    )


def labels(
    items: list[Item], camera: Camera, owners: OwnerArray, places: dict[int, int], config: TabletopConfig
) -> tuple[PrintedLabel, ...]:
    """The readable labels from left to right."""
    found = []
    for number, item in enumerate(items):
        if item.text is None:
            continue
        quad = text_quad(item, camera)
        spot = np.zeros(owners.shape, np.uint8)
        imaging.fill(spot, quad * config.supersample - 0.5)
        if (owners[spot > 127] == number).mean() >= LEAST_TEXT_VISIBLE:
            along = np.array(lettering.places(item.text.text, item.text.font))[:, None]
            left, right = (quad[0] + quad[3]) / 2, (quad[1] + quad[2]) / 2
            centres = left + along * (right - left)
            printed = item.text.text, quad.astype(np.float32), centres.astype(np.float32)
            found.append(PrintedLabel(*printed, places.get(number)))
    return ordered(found)


def ordered(labels: Iterable[PrintedLabel]) -> tuple[PrintedLabel, ...]:
    """Labels from left to right, by the centres of their quads."""
    return tuple(sorted(labels, key=lambda label: float(label.quad[:, 0].mean())))
