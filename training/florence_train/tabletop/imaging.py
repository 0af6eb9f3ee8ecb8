"""The image operations of the renderer; the one module that knows OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import missing

try:
    import cv2
except ImportError as error:
    raise missing("opencv-python-headless", extra="train", needed_for="rendering tabletop scenes") from error

Array = npt.NDArray[Any]


def use_one_thread() -> None:
    """Keeps OpenCV to the calling thread, so that loader processes do not fight for cores."""
    cv2.setNumThreads(1)


def warp(image: Array, matrix: Array, width: int, height: int) -> Array:
    """`image` seen through the homography `matrix` (image to picture), interpolated; 0 outside it."""
    return np.asarray(cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR))


def homography(here: Array, there: Array) -> Array:
    """The matrix [3, 3] float64 that takes four points [4, 2] to four others."""
    return np.asarray(cv2.getPerspectiveTransform(here.astype(np.float32), there.astype(np.float32)))


def project(matrix: Array, points: Array) -> Array:
    """Points [K, 2] through the homography `matrix`."""
    seen = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return np.asarray(seen[:, :2] / seen[:, 2:])


def warp_tiles(image: Array, matrix: Array, width: int, height: int) -> Array:
    """`image` repeated without end, seen through the homography `matrix`; the picture is sampled 2 x 2 per pixel."""
    double = np.diag([2.0, 2.0, 1.0]) @ matrix
    size = (2 * width, 2 * height)
    fine = cv2.warpPerspective(image, double, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_WRAP)
    return shrink(np.asarray(fine), width, height)


def shrink(image: Array, width: int, height: int) -> Array:
    """`image` brought to a smaller size by averaging areas."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def enlarge(image: Array, width: int, height: int) -> Array:
    """`image` brought to a larger size by cubic interpolation."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC))


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur; `sigma` in pixels, nothing happens below 0.1."""
    return image if sigma < 0.1 else np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def smear(image: Array, length: float, angle: float) -> Array:
    """Motion blur of `length` pixels along `angle` radians."""
    reach = max(1, int(np.ceil(length / 2)))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step in np.linspace(-length / 2, length / 2, 4 * reach + 1):
        kernel[round(reach + step * np.sin(angle)), round(reach + step * np.cos(angle))] += 1
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))


def fill(image: Array, polygon: Array) -> None:
    """Sets the pixels of uint8 `image` [H, W] inside `polygon` [K, 2] (any simple shape) to 255, edges smooth."""
    cv2.fillPoly(image, [np.round(polygon * 16).astype(np.int32)], (255.0,), lineType=cv2.LINE_AA, shift=4)


def draw_line(image: Array, points: Array, thickness: int) -> None:
    """Sets the pixels of uint8 `image` [H, W] along the polyline [K, 2] to 255, edges smooth."""
    corners = [np.round(points * 16).astype(np.int32)]
    cv2.polylines(image, corners, False, (255.0,), thickness, lineType=cv2.LINE_AA, shift=4)


def jpeg(image: Array, quality: int) -> Array:
    """`image` [H, W, 3] uint8 RGB after being saved as JPEG and read again."""
    packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))


def contours(mask: Array) -> list[tuple[Array, int]]:
    """Borders of a mask in its own pixel grid: (points [K, 2], index of the outer border, or -1 for an outer one)."""
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not found:
        return []
    return [(np.asarray(points)[:, 0], int(parent)) for points, parent in zip(found, tree[0, :, 3], strict=True)]


def simplify(points: Array, tolerance: float) -> Array:
    """The polygon [K, 2] with fewer points, nowhere farther than `tolerance` from the original (Douglas-Peucker)."""
    return np.asarray(cv2.approxPolyDP(points.astype(np.float32).reshape(-1, 1, 2), tolerance, True))[:, 0]
