"""`to_pixels` against the image processor of transformers, over sizes and modes, and its memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import florence_edge
from florence_edge.errors import ImageError, InputError
from florence_edge.images import load_image
from florence_edge.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImageSpec, to_pixels
from florence_edge.schema import decode

MODES = ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"]


def reference_pixels(image: Image.Image, spec: ImageSpec) -> np.ndarray[Any, Any]:
    """What Florence2Processor's image processor makes of the picture (its Pillow version), [1, 3, H, W]."""
    processor = CLIPImageProcessorPil(
        size={"height": spec.height, "width": spec.width},
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )
    return np.asarray(processor(images=image, return_tensors="np")["pixel_values"])


def largest_difference(image: Image.Image, spec: ImageSpec) -> float:
    """In units of the 0..1 scale, before normalisation."""
    pixels = to_pixels(load_image(image), spec)
    assert pixels.dtype == np.float32
    assert pixels.shape == (1, 3, spec.height, spec.width)
    assert pixels.flags.c_contiguous
    difference = np.abs(pixels - reference_pixels(image, spec)) * np.array(spec.std)[:, None, None]
    return float(difference.max())


def noise(width: int, height: int, mode: str, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    target=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 10**6),
)
@example(width=1, height=1, target=(768, 768), mode="RGB", seed=0)
@example(width=640, height=480, target=(768, 768), mode="RGB", seed=1)
@example(width=1, height=700, target=(64, 96), mode="RGBA", seed=2)
def test_equals_the_reference(width: int, height: int, target: tuple[int, int], mode: str, seed: int) -> None:
    # 1e-6 is the rounding of float32; a single step of the 8-bit resize would be 1/255.
    assert largest_difference(noise(width, height, mode, seed), ImageSpec(*target)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height"), [(8000, 6000), (6000, 8000), (1, 8000), (8000, 1), (4000, 3000), (3999, 2777)]
)
def test_large_pictures_equal_the_reference(width: int, height: int) -> None:
    assert largest_difference(noise(width, height, "RGB", 5), ImageSpec()) < 1e-6


def test_defaults_are_the_published_ones() -> None:
    spec = ImageSpec()
    assert (spec.height, spec.width, spec.resample) == (768, 768, "bicubic")
    assert (spec.mean, spec.std) == (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_another_mode_is_refused() -> None:
    with pytest.raises(ImageError, match=r"mode RGBA.*load_image"):
        to_pixels(Image.new("RGBA", (4, 4)), ImageSpec())


def test_spec_survives_json() -> None:
    spec = ImageSpec(480, 640, (0.1, 0.2, 0.3), (1.0, 2.0, 0.5))
    assert decode(ImageSpec, json.loads(json.dumps(asdict(spec))), faults=[]) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "mean is None"),
        ({"mean": [0.1, 0.2]}, "three finite numbers"),
        ({"mean": [0.1, 0.2, math.nan]}, "three finite numbers"),
        ({"std": [0.1, 0.2, math.inf]}, "three finite numbers, each above 0"),
        ({"std": [0.1, 0.2, 0.0]}, "each above 0"),
        ({"height": 0}, "height is 0"),
        ({"width": 7.5}, "width is 7.5"),
        ({"height": True}, "height is True"),
        ({"resample": "nearest"}, "resample is 'nearest'; it must be one of bicubic"),
    ],
)
def test_spec_faults(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSpec(**change)


def test_spec_lists_all_faults() -> None:
    with pytest.raises(InputError, match=r"(?s)height is -1.*width is 0.*std is"):
        ImageSpec(-1, 0, std=(-1.0, 1.0, 1.0))


PEAK = """
import resource, sys
from PIL import Image
from florence_edge.images import load_image
from florence_edge.preprocess import ImageSpec, to_pixels
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
to_pixels(load_image(Image.new("RGB", (64, 64))), ImageSpec())
start = peak()
image = load_image(sys.argv[1])
decoded = peak()
to_pixels(image, ImageSpec())
print(start, decoded, peak())
"""


@pytest.mark.parametrize(("mode", "kind", "pictures"), [("RGB", "jpg", 1), ("RGBA", "tif", 2)])
def test_memory_of_a_large_picture(tmp_path: Path, mode: str, kind: str, pictures: int) -> None:
    """Decoding holds one picture (Pillow keeps RGB at 4 bytes a pixel), one more where it is converted."""
    path = tmp_path / f"large.{kind}"
    Image.new(mode, (8000, 6000), "teal").save(path, compression="packbits")
    sdk = str(Path(florence_edge.__path__[0]).parent)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, env={"PYTHONPATH": sdk}
    )
    start, decoded, end = map(float, run.stdout.split())
    one_picture = 8000 * 6000 * 4 / 2**20
    assert decoded - start < pictures * one_picture + 40
    assert end - decoded < 40
