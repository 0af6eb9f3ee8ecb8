"""A rendered tabletop scene and the options it is rendered with; data only.

Frames: the picture has x right, y down, in pixels, pixel (0, 0) covering [0, 1] x [0, 1]. The table has x right, z away
from the camera, y up; one unit is about the width of a large cube.
"""

from __future__ import annotations

from dataclasses import dataclass

from florence_edge.errors import InputError, listing
from florence_edge.geometry import BoolArray, Float32Array, ImageSize, UInt8Array

SPLITS: dict[str, range] = {
    "train": range(900_000),
    "val": range(900_000, 950_000),
    "test": range(950_000, 1_000_000),
}
"""Seeds of each split. They are disjoint, so no index of one split repeats a scene of another."""


def split_seed(split: str, number: int = 0) -> int:
    """Seed `number` of a split, as in `split_seed("val")`. Raises `InputError` outside the range."""
    seeds = SPLITS.get(split)
    if seeds is None:
        raise InputError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
    if not 0 <= number < len(seeds):
        raise InputError(f"seed number {number} of split {split!r} does not exist; give 0 to {len(seeds) - 1}")
    return seeds[number]


@dataclass(frozen=True)
class TabletopConfig:
    """How scenes are made.

    `height`, `width`: pixels of the picture. `supersample`: samples per pixel and axis. `objects`: fewest and most
    objects wanted; those that find no room are left out, one always stays. `scale`: factor on all object sizes;
    larger objects make an easier world. `labels`: chance that a scene gets printed text, where there is room for it
    to be legible. `patterns`: chance that an object is not plain. `occlusion`: largest part of a box another may
    cover when objects are placed, 0 for none. `clutter`: chance of flat things on the table and pictures on the wall.
    `degrade`: strength of blur, noise, JPEG artefacts and exposure errors, 0 for a clean picture, 1 for a cheap
    camera. `slips`: most slips of paper with printed text laid over free parts of the picture, to learn reading from.
    """

    height: int = 192
    width: int = 192
    supersample: int = 2
    objects: tuple[int, int] = (1, 6)
    scale: float = 1.0
    labels: float = 0.5
    patterns: float = 0.5
    occlusion: float = 0.5
    clutter: float = 0.5
    degrade: float = 1.0
    slips: int = 0

    def __post_init__(self) -> None:
        checks = {
            f"height and width must be 64 to 4096, got {self.height} x {self.width}": all(
                64 <= side <= 4096 for side in (self.height, self.width)
            ),
            f"supersample must be 1 to 4, got {self.supersample}": 1 <= self.supersample <= 4,
            f"objects must be a range within 1 to 8, got {self.objects}": 1 <= self.objects[0] <= self.objects[1] <= 8,
            f"slips must be 0 to 24, got {self.slips}": 0 <= self.slips <= 24,
            f"scale must be 0.5 to 2, got {self.scale}": 0.5 <= self.scale <= 2,
            **{
                f"{name} must be 0 to 1, got {value}": 0 <= value <= 1
                for name, value in {
                    "labels": self.labels,
                    "patterns": self.patterns,
                    "occlusion": self.occlusion,
                    "clutter": self.clutter,
                    "degrade": self.degrade,
                }.items()
            },
        }
        faults = [message for message, passed in checks.items() if not passed]
        if faults:
            raise InputError(listing("these tabletop options cannot be used:", faults))


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object that is visible enough to be asked for.

    `box` [4] float32 holds the visible part (x1, y1, x2, y2); `mask` [H, W] marks its pixels; `polygons` outline the
    mask (see `outline.py`). `visible` is the share of its silhouette that nothing covers. `depth` ranks the objects
    by distance from the camera, 0 nearest. `row` indexes `vocabulary.ROWS`; `ground` is its place (x, z) on the
    table.
    """

    kind: str
    colour: str
    size: str
    texture: str
    box: Float32Array
    mask: BoolArray
    polygons: tuple[Float32Array, ...]
    visible: float
    depth: int
    row: int
    ground: tuple[float, float]

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the visible box in pixels."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, eq=False)
class PrintedLabel:
    """Text on an object: `quad` [4, 2] float32 runs clockwise from the top left of the text as it is read.

    `centres` [n, 2] float32 are the centres of its characters in pixels.
    `carrier` indexes `Scene.objects`, or is None when the carrier itself is too hidden to be listed.
    """

    text: str
    quad: Float32Array
    centres: Float32Array
    carrier: int | None


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with its exact truth.

    `image` [H, W, 3] uint8 RGB. `objects` run left to right by the centre of their visible boxes, `labels` left to
    right by the centre of their quads. `table` and `wall` are keys of `vocabulary.TABLES` and `WALLS`; `wall` is None
    where the picture shows none. `wall_mask` [H, W] marks the pixels of the wall, objects before it included.
    """

    image: UInt8Array
    objects: tuple[SceneObject, ...]
    labels: tuple[PrintedLabel, ...]
    table: str
    wall: str | None
    wall_mask: BoolArray
    seed: int
    index: int

    @property
    def size(self) -> ImageSize:
        """Width and height of the picture."""
        return ImageSize(self.image.shape[1], self.image.shape[0])
