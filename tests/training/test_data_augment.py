"""Augmentations move what is annotated with the picture, checked on pictures whose truth can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from florence_edge.errors import InputError
from florence_edge.geometry import BoolArray, ImageSize
from florence_edge.results import Detections, Polygons, Quads
from florence_train.data.augment import Augmentation, AugmentRecipe
from florence_train.data.truths import Region, detections, mask, text, unknown
from florence_train.evaluate.overlap import mask_iou, mask_of
from florence_train.examples import Example

SIZE = ImageSize(160, 120)
RING = np.array([[60, 40], [110, 40], [110, 90], [60, 90]], np.float32)
REGION = Region("", "cup", np.array([60, 40, 110, 90], np.float32), (RING,))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def scene() -> tuple[Image.Image, tuple[Example, ...]]:
    """A white square on black, and everything that can be said of where it is."""
    picture = Image.new("RGB", SIZE)
    ImageDraw.Draw(picture).rectangle([60, 40, 109, 89], fill="white")
    quads = Quads("<OCR_WITH_REGION>", SIZE, unknown(1), quads=RING[None], texts=("K7",))
    return picture, (
        Example("<OD>", None, detections("<OD>", [REGION], SIZE)),
        Example("<REGION_TO_SEGMENTATION>", (60, 40, 110, 90), mask("<REGION_TO_SEGMENTATION>", REGION, SIZE)),
        Example("<OCR_WITH_REGION>", None, quads),
        Example("<CAPTION>", None, text("<CAPTION>", "a cup", SIZE)),
    )


def bright(picture: Image.Image) -> BoolArray:
    return np.asarray(picture.convert("L")) > 100


def test_boxes_polygons_and_quads_follow_the_picture() -> None:
    augment = Augmentation(AugmentRecipe(degrees=20, light=0.1))
    for seed in range(12):
        picture, (boxes, segment, quads, caption) = augment(*scene(), seed)
        seen = bright(picture)
        assert picture.size == SIZE
        assert isinstance(segment.target, Polygons)
        assert mask_iou(mask_of(segment.target), seen) > 0.96
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert isinstance(boxes.target, Detections)
        np.testing.assert_allclose(boxes.target.boxes[0], extent, atol=1.5)
        np.testing.assert_allclose(segment.input, boxes.target.boxes[0])  # type: ignore[arg-type]  # it is a box
        assert isinstance(quads.target, Quads)
        np.testing.assert_allclose(quads.target.quads[0], segment.target.polygons[0][0])
        assert caption.target is not None


def test_a_seed_is_a_draw() -> None:
    augment = Augmentation()
    first, again, other = (augment(*scene(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(np.asarray(first[0]), np.asarray(again[0]))
    assert (np.asarray(first[0]) != np.asarray(other[0])).any()
    boxes = [result[1][0].target.boxes for result in (first, again, other)]  # type: ignore[attr-defined]  # detections
    np.testing.assert_array_equal(boxes[0], boxes[1])
    assert np.abs(boxes[0] - boxes[2]).max() > 0.5


def test_nothing_annotated_leaves_the_picture() -> None:
    far = Augmentation(AugmentRecipe(degrees=0, shift=0.9, scale=(1.0, 1.0)))
    for seed in range(20):
        picture, examples = far(*scene(), seed)
        box = examples[0].target.boxes[0]  # type: ignore[attr-defined]  # these are detections
        assert (box >= 0).all()
        assert (box <= [160, 120, 160, 120]).all()
        assert bright(picture).any()


def test_options_that_cannot_be_are_all_listed() -> None:
    with pytest.raises(InputError, match=r"scale(.|\n)*hue"):
        AugmentRecipe(scale=(0.0, 1.0), hue=2.0)
