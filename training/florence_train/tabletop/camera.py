"""A pinhole camera above the table: world points to pixels and planes to homographies.

World: x right, y up, z away from the camera, the table at y = 0. Pixels: x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Camera:
    """`position` [3]; `axes` [3, 3] rows right, up, forward; `focal` and `centre` in pixels."""

    position: Float64Array
    axes: Float64Array
    focal: float
    centre: tuple[float, float]

    @staticmethod
    def random(rng: np.random.Generator, width: int, height: int) -> Camera:
        """A camera that sees all rows of the table, from a height of 22 to 48 degrees, held almost level."""
        pitch, roll = np.radians(rng.uniform(22, 48)), np.radians(rng.normal(0, 1.2))
        field = rng.uniform(1.25, 1.75)
        distance = field * rng.uniform(4.0, 4.6)
        forward = np.array([0, -np.sin(pitch), np.cos(pitch)])
        right, up = np.array([1.0, 0, 0]), np.array([0, np.cos(pitch), np.sin(pitch)])
        turned = np.stack([np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right, forward])
        target = np.array([rng.uniform(-0.1, 0.1), 0.25, rng.uniform(-0.1, 0.2)])
        focal = field * (width + height) / 2
        return Camera(target - distance * forward, turned, focal, (width / 2, height / 2))

    def project(self, points: npt.ArrayLike) -> tuple[Float64Array, Float64Array]:
        """World points [..., 3] to pixels [..., 2] and depths along the view axis [...]."""
        local = (np.asarray(points, np.float64) - self.position) @ self.axes.T
        depth = np.maximum(local[..., 2], 1e-3)
        x = self.centre[0] + self.focal * local[..., 0] / depth
        y = self.centre[1] - self.focal * local[..., 1] / depth
        return np.stack([x, y], -1), local[..., 2]

    def scaled(self, factor: float) -> Camera:
        """The same view on a picture `factor` times as large."""
        return Camera(self.position, self.axes, self.focal * factor, (self.centre[0] * factor, self.centre[1] * factor))

    def homography(self, origin: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike) -> Float64Array:
        """The matrix [3, 3] that takes plane coordinates (a, b, 1) of `origin + a u + b v` to homogeneous pixels."""
        intrinsics = np.array([[self.focal, 0, self.centre[0]], [0, -self.focal, self.centre[1]], [0, 0, 1]])
        plane = np.stack([np.asarray(u, float), np.asarray(v, float), np.asarray(origin, float) - self.position], 1)
        return np.asarray(intrinsics @ self.axes @ plane, np.float64)
