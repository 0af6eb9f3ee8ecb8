"""What a camera does to a picture: exposure, white balance, vignetting, blur, noise, JPEG."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from . import imaging

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

_GRAIN = 1 << 20


def develop(rng: np.random.Generator, linear: Float32Array, strength: float) -> UInt8Array:
    """[H, W, 3] linear light to sRGB-like uint8 (gamma 2); `strength` 0 gives a clean picture, 1 a cheap camera's.

    Blur and noise grow with the picture, so that a large picture of a scene is as degraded as a small one to the eye.
    """
    height, width = linear.shape[:2]
    scale = max(height, width) / 192
    image = linear * _gain(rng, height, width, strength)
    blurred = rng.random()
    sigma, length, angle = rng.uniform(0, 0.75), rng.uniform(1, 2.6), rng.uniform(0, np.pi)
    if blurred < 0.08 * strength:
        image = imaging.smear(image, float(length * scale), float(angle))
    elif blurred < 0.7 * strength:
        image = imaging.blur(image, float(sigma * scale * strength))
    # A soft shoulder instead of a hard clip, as cameras have.
    image = np.asarray(image * (1 + image * np.float32(0.09)) / (1 + image * np.float32(0.35)), np.float32)
    picture = np.sqrt(np.clip(image, 0, 1)) * np.float32(255)
    noise = float(rng.uniform(0, 6) * strength * (rng.random() < 0.8))
    if noise > 0:
        start = int(rng.integers(_GRAIN // 2))
        grain = _grain()[start : start + picture.size]
        grain = grain if grain.size == picture.size else np.resize(_grain(), picture.size)
        picture += grain.reshape(picture.shape) * np.float32(noise)
    out = np.clip(picture + np.float32(0.5), 0, 255).astype(np.uint8)
    if rng.random() < 0.6 * strength:
        out = np.asarray(imaging.jpeg(out, int(rng.integers(40, 93))), np.uint8)
    return np.asarray(out, np.uint8)


@lru_cache(maxsize=1)
def _grain() -> Float32Array:
    """Normal noise that pictures cut their grain from: drawing it anew would cost more than all else here."""
    return np.random.default_rng(0).standard_normal(_GRAIN, dtype=np.float32)


def _gain(rng: np.random.Generator, height: int, width: int, strength: float) -> Float32Array:
    """Exposure, white balance and vignetting as one factor [H, W, 3]."""
    exposure = 1.25 * 2.0 ** rng.normal(0, 0.22 * strength)
    balance = exposure * (1 + rng.normal(0, 0.035 * strength, 3))
    vignette = rng.uniform(0.0, 0.4) * strength
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    fall = 1 - np.float32(vignette) * (x + y) / 2
    return np.asarray(fall[..., None] * balance.astype(np.float32), np.float32)
