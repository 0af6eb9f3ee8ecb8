"""The rasteriser against closed forms and against a brute-force one, and outlines of masks with holes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from florence_train.tabletop.camera import Camera
from florence_train.tabletop.outline import polygons
from florence_train.tabletop.raster import interpolate, nearest, rasterise
from florence_train.tabletop.shapes import box, mesh
from florence_train.tabletop.vocabulary import KINDS


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_triangles_cover_the_pixels_whose_centres_they_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-5, 25, (3, 3, 2))
    values = rng.uniform(0.1, 1, (3, 3))
    found = rasterise(corners, values, 20, 16)
    x, y = np.meshgrid(np.arange(20) + 0.5, np.arange(16) + 0.5)
    for number, (triangle, value) in enumerate(zip(corners, values, strict=True)):
        matrix = np.linalg.inv(np.vstack([triangle.T, np.ones(3)]))
        weights = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
        mine = found.triangle == number
        covered = np.zeros(20 * 16, bool)
        covered[found.pixel[mine]] = True
        clear = np.abs(weights).min(0) > 1e-9
        assert (covered.reshape(16, 20) == (weights > 0).all(0))[clear].all()
        expected = np.einsum("i,ihw->hw", value, weights).ravel()[found.pixel[mine]]
        np.testing.assert_allclose(found.value[mine], expected, rtol=1e-3, atol=1e-3)


def test_neighbours_share_no_pixel_and_leave_none() -> None:
    """A fan of triangles around a point covers each pixel of its hull exactly once."""
    angles = np.linspace(0, 2 * np.pi, 14)
    rim = np.stack([30 + 25 * np.cos(angles), 30 + 25 * np.sin(angles)], 1)
    centre = np.broadcast_to([29.7, 30.2], (13, 2))
    fan = np.stack([centre, rim[:-1], rim[1:]], 1)
    found = rasterise(fan, np.ones((13, 3)), 60, 60)
    assert len(np.unique(found.pixel)) == len(found.pixel)
    y, x = np.divmod(np.arange(3600), 60)
    a, b = rim[:-1], rim[1:]
    side = (b[:, 0] - a[:, 0]) * (y[:, None] + 0.5 - a[:, 1]) - (b[:, 1] - a[:, 1]) * (x[:, None] + 0.5 - a[:, 0])
    assert set(found.pixel) == set(np.flatnonzero((side > 0).all(1)))


def test_the_nearer_triangle_wins() -> None:
    square = np.array([[[0.0, 0], [10, 0], [0, 10]], [[0, 0], [10, 0], [0, 10]]])
    found = rasterise(square, np.array([[0.2] * 3, [0.5] * 3]), 10, 10)
    pixel, triangle = nearest(found, 100)
    assert len(pixel) == len(set(pixel)) > 40
    assert (triangle == 1).all()


def test_attributes_are_perspective_correct() -> None:
    """World positions interpolated over the picture project back onto the pixels they were read at."""
    camera = Camera.random(np.random.default_rng(3), 80, 60)
    world = np.array([[[-2.0, 0, -1], [2, 0, -1], [0.5, 0, 3]]])
    corners, depth = camera.project(world)
    found = rasterise(corners, 1 / depth, 80, 60)
    at = nearest(found, 4800)
    points = interpolate(corners, 1 / depth, world.astype(np.float32), at, 80)
    pixels, _ = camera.project(points)
    expected = np.stack([at[0] % 80 + 0.5, at[0] // 80 + 0.5], 1)
    assert len(points) > 200
    np.testing.assert_allclose(pixels, expected, atol=0.01)


def test_homography_agrees_with_projection() -> None:
    camera = Camera.random(np.random.default_rng(5), 100, 100)
    matrix = camera.homography([0.2, 0, 0.1], [1, 0, 0], [0, 0, 1])
    for a, b in ((0.0, 0.0), (1.0, 0.5), (-0.7, 2.0)):
        x, y, w = matrix @ [a, b, 1]
        np.testing.assert_allclose([x / w, y / w], camera.project([0.2 + a, 0, 0.1 + b])[0], atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("book", "card")])
def test_triangles_wind_with_their_normals(kind: str) -> None:
    shape = mesh(kind, 24)
    corners = shape.points[shape.triangles].astype(float)
    edges = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    agreement = (edges * shape.normals[shape.triangles].mean(1)).sum(1)
    assert (agreement > 0).mean() > 0.999
    np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=1), 1, atol=1e-3)
    assert abs(shape.points[:, 1].min()) < 0.02


def test_box_has_the_size_asked_for() -> None:
    shape = box(1.2, 0.5, 0.3, bevel=0.02)
    np.testing.assert_allclose(shape.points.max(0) - shape.points.min(0), [1.2, 0.5, 0.3], atol=1e-6)


def test_a_hole_stays_open() -> None:
    y, x = np.mgrid[:80, :80]
    far = np.hypot(x - 40, y - 40)
    ring = (far < 32) & (far > 14)
    outlines = polygons(ring, 1)
    assert len(outlines) == 1
    canvas = Image.new("1", (80, 80))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in (outlines[0] - 0.5).tolist()], fill=1)
    filled = np.asarray(canvas)
    assert not filled[40, 40]
    assert (filled & ring).sum() / (filled | ring).sum() > 0.9


def test_pieces_come_largest_first_and_specks_are_dropped() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:15, 5:15] = mask[20:50, 20:50] = True
    mask[57, 57] = True
    outlines = polygons(mask, 2)
    assert len(outlines) == 2
    np.testing.assert_allclose(outlines[0].min(0), [10, 10], atol=0.3)
    np.testing.assert_allclose(outlines[0].max(0), [25, 25], atol=0.3)
    assert polygons(np.zeros((4, 4), bool), 1) == ()
