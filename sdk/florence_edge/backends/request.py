"""What every backend checks and prepares before it runs: pixels, prompts of different lengths, search settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge.errors import InputError
from florence_edge.geometry import BoolArray, Float32Array, Int64Array
from florence_edge.manifest import Dim, Limits, Manifest
from florence_edge.options import FormedConfig, SearchConfig, SearchOptions

from . import ImageFeatures


@dataclass(frozen=True)
class Bounds:
    """What a model can take: the bundle's limits, its search settings, and the number of token ids it knows."""

    limits: Limits
    search: SearchConfig
    vocabulary: int

    @classmethod
    def of(cls, manifest: Manifest) -> Bounds:
        """What the model of a bundle can take."""
        return cls(manifest.limits, manifest.search, manifest.tokenizer.vocabulary.size)


@dataclass(frozen=True, eq=False)
class Request:
    """B prompts side by side: ids int64 and mask bool [B, T], padded at the end; `image_of` int64 [B]; the search."""

    prompt_ids: Int64Array
    prompt_mask: BoolArray
    image_of: Int64Array
    config: SearchConfig


def make_request(
    bounds: Bounds,
    images: int,
    prompt_ids: Sequence[Int64Array],
    options: SearchOptions | None,
    image_of: Sequence[int] | None,
) -> Request:
    """Puts one call of `Backend.generate` over `images` encoded images into arrays, or raises `InputError`."""
    rows = range(len(prompt_ids)) if image_of is None else image_of
    faults = [*_prompt_faults(bounds, prompt_ids), *_row_faults(images, len(prompt_ids), rows)]
    config = bounds.search.over(options)
    if options is not None and options.constrained and not isinstance(config, FormedConfig):
        faults.append("constrained needs the form of the answers: ask through Florence, or give FormedOptions")
    if config.max_new_tokens > bounds.limits.new_tokens:
        faults.append(f"max_new_tokens is {config.max_new_tokens}; the model writes at most {bounds.limits.new_tokens}")
    if faults:
        raise InputError("; ".join(faults))
    return Request(*padded(prompt_ids, config.pad), np.asarray(rows, dtype=np.int64), config)


def padded(rows: Sequence[Int64Array], pad: int) -> tuple[Int64Array, BoolArray]:
    """Token ids of different lengths side by side, int64 [B, T] with `pad` behind them, and where they are, bool."""
    lengths = np.asarray([len(ids) for ids in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask


def check_pixels(pixels: Float32Array, shape: Sequence[Dim]) -> None:
    """Raises `InputError` unless pixels are float32 of this shape, a name meaning any size of at least 1."""
    fits = len(pixels.shape) == len(shape) and all(
        size >= 1 and (not isinstance(wanted, int) or wanted == size)
        for size, wanted in zip(pixels.shape, shape, strict=True)
    )
    if not fits or pixels.dtype != np.float32:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"pixels are {pixels.dtype} {list(pixels.shape)}; this model takes float32 [{wanted}]")


def foreign(features: ImageFeatures) -> InputError:
    """The error for features that another backend made."""
    return InputError(f"features are {type(features).__name__}; encode the image with the backend that is asked")


def _prompt_faults(bounds: Bounds, prompt_ids: Sequence[Int64Array]) -> list[str]:
    longest, size = bounds.limits.prompt_tokens, bounds.vocabulary
    faults = []
    for index, ids in enumerate(prompt_ids):
        if ids.ndim != 1 or not 1 <= len(ids) <= longest:
            faults.append(
                f"prompt {index} has the shape {list(ids.shape)}; it must be one row of 1..{longest} token ids"
            )
        elif not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= size:
            faults.append(f"prompt {index} holds values that are no token ids of this model (integers 0..{size - 1})")
    return faults


def _row_faults(images: int, prompts: int, rows: Sequence[int]) -> list[str]:
    if len(rows) != prompts:
        return [f"image_of has {len(rows)} entries for {prompts} prompts"]
    outside = sorted({row for row in rows if not 0 <= row < images})
    return [f"image_of names the images {outside}; the features hold {images}, counted from 0"] if outside else []
