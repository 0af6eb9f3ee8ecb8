"""Table and wall materials: tiling grey patterns, drawn once per process, and the two colours each is painted with.

A pattern is a [N, N] uint8 picture that repeats in both directions; a scene warps a part of it onto a plane and maps
grey to a colour between `low` and `high`. Patterns come from fixed seeds: they are part of the renderer, not of a
scene.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from . import imaging

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

VARIANTS = 3
"""Different patterns of each material."""

PERIOD = 4.0
"""Table units that one repeat of a pattern covers."""

_PALETTES: dict[str, list[tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "wood": [
        ((0.36, 0.22, 0.12), (0.66, 0.46, 0.28)),
        ((0.55, 0.40, 0.26), (0.82, 0.68, 0.48)),
        ((0.22, 0.14, 0.09), (0.42, 0.28, 0.18)),
        ((0.62, 0.52, 0.40), (0.86, 0.78, 0.64)),
    ],
    "cloth": [
        ((0.62, 0.64, 0.66), (0.86, 0.87, 0.88)),
        ((0.22, 0.27, 0.36), (0.45, 0.52, 0.62)),
        ((0.55, 0.42, 0.40), (0.80, 0.70, 0.66)),
        ((0.40, 0.44, 0.36), (0.64, 0.68, 0.58)),
    ],
    "tile": [
        ((0.50, 0.50, 0.50), (0.84, 0.84, 0.82)),
        ((0.36, 0.42, 0.46), (0.62, 0.70, 0.74)),
        ((0.50, 0.42, 0.34), (0.78, 0.70, 0.60)),
    ],
    "stone": [
        ((0.30, 0.31, 0.33), (0.60, 0.61, 0.62)),
        ((0.60, 0.58, 0.54), (0.86, 0.84, 0.80)),
        ((0.18, 0.19, 0.21), (0.40, 0.41, 0.43)),
    ],
    "plain": [
        ((0.66, 0.66, 0.66), (0.74, 0.74, 0.74)),
        ((0.40, 0.42, 0.45), (0.48, 0.50, 0.53)),
        ((0.70, 0.64, 0.55), (0.78, 0.72, 0.62)),
        ((0.30, 0.38, 0.40), (0.37, 0.45, 0.47)),
    ],
    "brick": [
        ((0.66, 0.62, 0.56), (0.58, 0.38, 0.30)),
        ((0.58, 0.58, 0.58), (0.78, 0.76, 0.74)),
    ],
    "panel": [
        ((0.36, 0.28, 0.20), (0.60, 0.48, 0.36)),
        ((0.58, 0.60, 0.60), (0.80, 0.82, 0.82)),
    ],
}


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Float32Array:
    """Smooth tiling noise in 0..1 with so many cells down and across."""
    values = rng.random(cells, dtype=np.float32)
    reach = 2
    padded = np.pad(values, reach, mode="wrap")
    step = (size / cells[0], size / cells[1])
    large = imaging.enlarge(padded, round(padded.shape[1] * step[1]), round(padded.shape[0] * step[0]))
    top, left = round(reach * step[0]), round(reach * step[1])
    return np.asarray(large[top : top + size, left : left + size], np.float32)


def _cloud(rng: np.random.Generator, size: int, cells: tuple[int, int], octaves: int) -> Float32Array:
    """Octaves of `_noise`, each half as strong and twice as fine."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        total += 0.5**octave * _noise(rng, size, (cells[0] << octave, cells[1] << octave))
    return total / (2 - 0.5 ** (octaves - 1))


def _axes(size: int) -> tuple[Float32Array, Float32Array]:
    line = np.asarray(np.arange(size, dtype=np.float32) / size, np.float32)
    return line[:, None], line[None]


def _wood(rng: np.random.Generator, size: int) -> Float32Array:
    y, x = _axes(size)
    planks = 8
    plank = (y * planks).astype(np.int64)
    shift, tone = rng.random(planks, dtype=np.float32), rng.random(planks, dtype=np.float32)
    bend = 0.9 * _cloud(rng, size, (8, 2), 2)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (planks * 3 * y + bend * 3 + shift[plank]))
    fibre = _noise(rng, size, (128, 8))
    seam = np.abs((y * planks) % 1 - 0.5) > 0.485
    joint = np.abs((x + shift[plank]) % 1 - 0.5) > 0.4985
    value = 0.35 * grain + 0.35 * fibre + 0.45 * tone[plank] - 0.05
    return np.asarray(np.where(seam | joint, 0.0, value), np.float32)


def _cloth(rng: np.random.Generator, size: int) -> Float32Array:
    y, x = _axes(size)
    threads = 96
    weave = 0.5 + 0.25 * (np.sin(2 * np.pi * threads * x) + np.sin(2 * np.pi * threads * y))
    bands = int(rng.integers(0, 3))
    stripe = sum(((8 * axis) % 1 < 0.25).astype(np.float32) for axis in (x, y)[:bands]) if bands else np.float32(0)
    folds = _cloud(rng, size, (3, 3), 2)
    return np.asarray(0.35 * weave + 0.55 * folds + 0.25 - 0.3 * stripe, np.float32)


def _tile(rng: np.random.Generator, size: int) -> Float32Array:
    y, x = _axes(size)
    count = int(rng.choice([4, 6, 8]))
    tones = rng.random((count, count), dtype=np.float32)
    tone = tones[(y * count).astype(np.int64), (x * count).astype(np.int64)]
    edge = np.maximum(np.abs((y * count) % 1 - 0.5), np.abs((x * count) % 1 - 0.5))
    value = 0.6 + 0.25 * tone + 0.2 * _cloud(rng, size, (6, 6), 3)
    return np.asarray(np.where(edge > 0.475, 0.05, value), np.float32)


def _stone(rng: np.random.Generator, size: int) -> Float32Array:
    speckle = _noise(rng, size, (160, 160))
    veins = np.abs(_cloud(rng, size, (4, 4), 4) - 0.5)
    return np.asarray(0.25 + 0.5 * speckle * _noise(rng, size, (40, 40)) + 1.6 * veins, np.float32)


def _plain(rng: np.random.Generator, size: int) -> Float32Array:
    return np.asarray(0.7 * _cloud(rng, size, (3, 3), 2) + 0.3 * _noise(rng, size, (96, 96)), np.float32)


def _brick(rng: np.random.Generator, size: int) -> Float32Array:
    y, x = _axes(size)
    rows, columns = 12, 5
    row = (y * rows).astype(np.int64)
    along = x * columns + 0.5 * (row % 2)
    tones = rng.random((rows, columns), dtype=np.float32)
    mortar = (np.abs((y * rows) % 1 - 0.5) > 0.44) | (np.abs(along % 1 - 0.5) > 0.47)
    value = 0.6 + 0.4 * tones[row, along.astype(np.int64) % columns] - 0.3 * _noise(rng, size, (90, 90))
    return np.asarray(np.where(mortar, 0.05, value), np.float32)


def _panel(rng: np.random.Generator, size: int) -> Float32Array:
    y, x = _axes(size)
    boards = 8
    tones = rng.random(boards, dtype=np.float32)
    groove = np.abs((x * boards) % 1 - 0.5) > 0.47
    value = 0.5 + 0.25 * tones[(x * boards).astype(np.int64)] + 0.25 * _noise(rng, size, (6, 128)) + 0 * y
    return np.asarray(np.where(groove, 0.0, value), np.float32)


_PAINTERS = {
    "wood": _wood,
    "cloth": _cloth,
    "tile": _tile,
    "stone": _stone,
    "plain": _plain,
    "brick": _brick,
    "panel": _panel,
}


@lru_cache(maxsize=64)
def pattern(material: str, variant: int, size: int) -> UInt8Array:
    """The grey pattern [size, size] of a material, variant 0 to `VARIANTS` - 1."""
    rng = np.random.default_rng([list(_PAINTERS).index(material), variant])
    return np.asarray(np.clip(_PAINTERS[material](rng, size) * 255, 0, 255), np.uint8)


def palette(rng: np.random.Generator, material: str) -> Float32Array:
    """A colour table [256, 3] in linear light for the grey values of a material's pattern, varied a little."""
    choices = _PALETTES[material]
    low, high = (np.array(c, np.float32) for c in choices[int(rng.integers(len(choices)))])
    tint = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.88, 1.08)
    steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    return np.asarray(np.clip((low + (high - low) * steps) * tint, 0, 1) ** 2, np.float32)
