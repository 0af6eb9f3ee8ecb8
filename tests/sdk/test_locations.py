"""The quantiser: round trips, bounds and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.locations import as_size, dequantise, quantise, spell
from florence_edge.vocabulary import LOCATION_BINS

BINS = np.stack([np.arange(LOCATION_BINS)] * 2, axis=1)
SIDES = st.integers(1, 1 << 20)


@given(SIDES, SIDES)
@settings(deadline=None)
def test_the_centre_of_a_bin_lies_in_it(width: int, height: int) -> None:
    centres = dequantise(BINS, (width, height))
    assert (quantise(centres, (width, height)) == BINS).all()
    assert (centres >= 0).all()
    assert (centres <= (width, height)).all()


@given(SIDES, st.floats(0, 1))
@settings(deadline=None)
def test_a_point_moves_by_half_a_bin_at_most(width: int, share: float) -> None:
    point = np.float32(share * width)
    moved = dequantise(quantise([point, 0], (width, 1)), (width, 1))[0]
    assert abs(moved - point) <= 0.5 * width / LOCATION_BINS * (1 + 1e-3)


def test_points_are_rounded_to_float32_first() -> None:
    """The published processor gets float32, where the edge of a bin belongs to it; in float64 some fall short."""
    edges = np.arange(1, LOCATION_BINS).repeat(2).reshape(-1, 2) * 0.768
    np.testing.assert_array_equal(quantise(edges, (768, 768)), quantise(edges.astype(np.float32), (768, 768)))


def test_shapes_and_types() -> None:
    bins = quantise(np.zeros((5, 3, 4)), (10, 10))
    assert bins.shape == (5, 3, 4)
    assert bins.dtype == np.int64
    assert dequantise(bins, (10, 10)).dtype == np.float32
    assert quantise(np.zeros((0, 4)), (10, 10)).shape == (0, 4)


def test_coordinates_outside_fall_into_the_outermost_bins() -> None:
    assert quantise([-5, 1e9, 640, 480], (640, 480)).tolist() == [0, 999, 999, 999]


def test_bins_past_the_last_are_clipped_to_the_edge() -> None:
    assert dequantise([1000, 5_000_000], (640, 480)).tolist() == [640, 480]


@pytest.mark.parametrize("points", [[np.nan, 0], [0, np.inf], [1], [1, 2, 3], 5.0])
def test_unusable_points(points: object) -> None:
    with pytest.raises(InputError):
        quantise(points, (640, 480))  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize("size", [(640, 480), [640, 480], np.array([640, 480]), ImageSize(640, 480)])
def test_any_pair_is_a_size(size: object) -> None:
    assert as_size(size) == ImageSize(640, 480)  # type: ignore[arg-type] # arrays too, though not in the signature


@pytest.mark.parametrize("size", [(0, 480), (640, -1), (640,), (640, 480, 3), (640.5, 480), "ab", None, 640, (None, 3)])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(InputError, match=r"\(width, height\)"):
        as_size(size)  # type: ignore[arg-type] # wrong on purpose


def test_the_message_names_the_side_that_is_not_positive() -> None:
    with pytest.raises(InputError, match="width 640 and height 0"):
        as_size((640, 0))


def test_spelling() -> None:
    assert spell([0, 42, 999]) == "<loc_0><loc_42><loc_999>"
