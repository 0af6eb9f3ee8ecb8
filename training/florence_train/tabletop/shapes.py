"""Triangle meshes of the things on the table, in their own frames, built once and cached.

Frame: y up, base at y = 0 unless the object is turned, front towards -z. Surfaces of revolution come from profile
tables (radius, height); boxes have rounded edges. Triangles wind so that their normals point outwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Profile = Sequence[Sequence[tuple[float, float]]]

PATTERN_PERIOD = 0.25
"""Length of one repeat of an object's pattern in table units; texture coordinates count these."""

BODY, SECOND, FRONT = 0, 1, 2
"""Parts of a mesh: its coloured body, parts in the kind's second material (pages, bottle cap), the face for text."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices `points`, `normals` [V, 3], `uv` [V, 2] in pattern repeats, `triangles` [T, 3], `parts` [T]."""

    points: Array
    normals: Array
    uv: Array
    triangles: npt.NDArray[np.int32]
    parts: npt.NDArray[np.int8]


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh out of several."""
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([mesh.triangles + np.int32(start) for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.parts for mesh in meshes]),
    )


def _grid(points: Float64Array, normals: Float64Array, uv: Float64Array, part: int = BODY) -> Mesh:
    """A mesh from a grid of points [A, B, 3]; triangles without area (at poles) are dropped."""
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    flat, normal = points.reshape(-1, 3), normals.reshape(-1, 3)
    corners = flat[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = (cross**2).sum(1) > 1e-14
    inwards = (cross * normal[triangles].sum(1)).sum(1) < 0
    triangles[inwards] = triangles[inwards][:, ::-1]
    kept = triangles[solid]
    return Mesh(
        flat.astype(np.float32),
        normal.astype(np.float32),
        uv.reshape(-1, 2).astype(np.float32),
        kept,
        np.full(len(kept), part, np.int8),
    )


def _revolve(profile: Profile, segments: int, part: int = BODY) -> Mesh:
    """Turns polylines of (radius, height) about the y axis; each polyline is smooth, edges between them are sharp.

    Running along a polyline, the outside is on the right: up the outer wall, down the inner one.
    """
    angles = np.linspace(0, 2 * np.pi, segments + 1)
    radius = max(r for line in profile for r, _ in line)
    around = max(4, round(2 * np.pi * radius / PATTERN_PERIOD / 2) * 2)
    pieces = []
    travelled = 0.0
    for line in profile:
        r, y = np.array(line, np.float64).T
        dr, dy = np.gradient(r), np.gradient(y)
        length = np.hypot(dr, dy) + 1e-12
        steps = np.hypot(np.diff(r), np.diff(y))
        along = travelled + np.concatenate([[0.0], np.cumsum(steps)])
        travelled = float(along[-1])
        cos, sin = np.cos(angles)[None], np.sin(angles)[None]
        points = np.stack([r[:, None] * cos, np.broadcast_to(y[:, None], (len(r), segments + 1)), r[:, None] * sin], -1)
        nr, ny = (dy / length)[:, None], (-dr / length)[:, None]
        normals = np.stack([nr * cos, np.broadcast_to(ny, (len(r), segments + 1)), nr * sin], -1)
        u = np.broadcast_to(angles[None] / (2 * np.pi) * around, (len(r), segments + 1))
        v = np.broadcast_to(along[:, None] / PATTERN_PERIOD, (len(r), segments + 1))
        pieces.append(_grid(points, normals, np.stack([u, v], -1), part))
    return join(pieces)


def _arc(
    centre: tuple[float, float], radius: tuple[float, float], degrees: tuple[float, float], steps: int
) -> list[tuple[float, float]]:
    """Points of an ellipse arc in the (radius, height) plane; 0 degrees points outwards, 90 up."""
    angles = np.radians(np.linspace(*degrees, steps))
    return [
        (max(0.0, centre[0] + radius[0] * float(np.cos(a))), centre[1] + radius[1] * float(np.sin(a))) for a in angles
    ]


def _tube(path: Float64Array, radius: float, sides: int, closed: bool) -> Mesh:
    """A round tube along a path [P, 3] that lies in a plane through the y axis direction or in the ground plane."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    plane = np.cross(ahead[0], ahead[len(ahead) // 4])
    first = np.broadcast_to(plane / np.linalg.norm(plane), ahead.shape)
    second = np.cross(ahead, first)
    if closed:
        path, first, second = (np.concatenate([a, a[:1]]) for a in (path, first, second))
    angles = np.linspace(0, 2 * np.pi, sides + 1)[None, :, None]
    normals = np.cos(angles) * first[:, None] + np.sin(angles) * second[:, None]
    points = path[:, None] + radius * normals
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    repeats = max(4, round(length[-1] / PATTERN_PERIOD / 2) * 2)
    u = np.broadcast_to((length / length[-1] * repeats)[:, None], points.shape[:2])
    v = np.broadcast_to(np.linspace(0, 4, sides + 1)[None], points.shape[:2])
    return _grid(points, normals, np.stack([u, v], -1))


@lru_cache(maxsize=512)
def box(width: float, height: float, depth: float, *, bevel: float, pages: bool = False) -> Mesh:
    """A box standing on y = 0 with edges rounded by `bevel`; its front face (-z) is the part `FRONT`.

    With `pages`, the top, bottom and right faces are the part `SECOND`, as on a book whose spine is on the left.
    """
    half = np.array([width, height, depth]) / 2
    bevel = min(bevel, float(half.min()) * 0.9)
    faces = []
    for axis, sign in ((0, -1), (0, 1), (1, -1), (1, 1), (2, -1), (2, 1)):
        side, up = [a for a in range(3) if a != axis]
        lines = [
            np.array([-h, -h + bevel * 0.4, -h + bevel, h - bevel, h - bevel * 0.4, h]) for h in (half[side], half[up])
        ]
        grid = np.zeros((6, 6, 3))
        grid[..., side], grid[..., up] = np.meshgrid(*lines, indexing="ij")
        grid[..., axis] = sign * half[axis]
        core = np.clip(grid, -(half - bevel), half - bevel)
        normals = grid - core
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        points = core + bevel * normals
        uv = np.stack([grid[..., side], grid[..., up]], -1) / PATTERN_PERIOD
        part = (
            FRONT
            if (axis, sign) == (2, -1)
            else SECOND
            if pages and (axis, sign) in ((0, 1), (1, 1), (1, -1))
            else BODY
        )
        faces.append(_grid(points + np.array([0, half[1], 0]), normals, uv, part))
    return join(faces)


def _pyramid(base: float, height: float) -> Mesh:
    half = base / 2
    apex = np.array([0, height, 0])
    corners = np.array([[-half, 0, -half], [half, 0, -half], [half, 0, half], [-half, 0, half]])
    faces = []
    for first, second in zip(corners, np.roll(corners, -1, 0), strict=True):
        normal = np.cross(apex - first, second - first)
        normal *= np.sign(normal @ (first + second)) / np.linalg.norm(normal)
        points = np.stack([np.stack([first, second]), np.stack([apex, apex])])
        middle = np.linalg.norm(apex - (first + second) / 2)
        uv = np.array([[[-half, 0], [half, 0]], [[0, middle], [0, middle]]]) / PATTERN_PERIOD
        faces.append(_grid(points, np.broadcast_to(normal, points.shape), uv))
    return join(faces)


def _cup(segments: int) -> Mesh:
    wall = [(0.27, 0.0), (0.29, 0.02), (0.33, 0.3), (0.35, 0.68)]
    rim = _arc((0.335, 0.68), (0.015, 0.015), (0, 180), 4)
    inside = [(0.32, 0.68), (0.3, 0.3), (0.27, 0.05)]
    body = _revolve([wall, rim, inside, [(0.27, 0.05), (0.0, 0.05)]], segments)
    turn = np.radians(np.linspace(-84, 84, max(8, segments // 2)))
    handle = np.stack([0.32 + 0.2 * np.cos(turn), 0.37 + 0.19 * np.sin(turn), np.zeros_like(turn)], 1)
    return join([body, _tube(handle, 0.045, max(6, segments // 4), closed=False)])


def _bottle(segments: int) -> Mesh:
    body = [[(0.0, 0.0), (0.24, 0.0)], [(0.24, 0.0), (0.27, 0.04), (0.27, 0.4), (0.27, 0.72)]]
    shoulder = [(0.27, 0.72), (0.26, 0.8), (0.2, 0.92), (0.12, 1.0), (0.1, 1.08), (0.1, 1.2)]
    cap = [[(0.12, 1.18), (0.125, 1.2), (0.125, 1.34)], [(0.125, 1.34), (0.0, 1.35)]]
    return join([_revolve([*body, shoulder], segments), _revolve(cap, segments, SECOND)])


def _ring(segments: int) -> Mesh:
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    path = np.stack([0.4 * np.cos(turn), np.full_like(turn, 0.14), 0.4 * np.sin(turn)], 1)
    return _tube(path, 0.14, max(8, segments // 2), closed=True)


@lru_cache(maxsize=64)
def mesh(kind: str, segments: int) -> Mesh:
    """The mesh of a kind at size 1, with `segments` sides around; books and cards have their own builder, `box`."""
    if kind == "cube":
        return box(0.76, 0.76, 0.76, bevel=0.035)
    if kind == "pyramid":
        return _pyramid(0.88, 0.82)
    if kind == "ring":
        return _ring(segments)
    if kind == "cup":
        return _cup(segments)
    if kind == "bottle":
        return _bottle(segments)
    return _revolve(_profiles(segments)[kind], segments)


def _profiles(segments: int) -> dict[str, Profile]:
    steps = max(5, segments // 4)
    return {
        "ball": [_arc((0, 0.45), (0.45, 0.45), (-90, 90), max(8, segments // 2))],
        "cylinder": [
            [(0, 0), (0.36, 0)],
            [(0.36, 0.0), (0.36, 0.45), (0.36, 0.84)],
            _arc((0.34, 0.84), (0.02, 0.02), (0, 90), 3),
            [(0.34, 0.86), (0, 0.86)],
        ],
        "cone": [[(0, 0), (0.46, 0)], [(0.46 * (1 - t), 0.98 * t) for t in np.linspace(0, 0.995, 6)]],
        "bowl": [
            [(0.22, 0.0), (0.24, 0.03)],
            _arc((0.0, 0.42), (0.62, 0.4), (-66, 0), steps),
            _arc((0.6, 0.42), (0.02, 0.02), (0, 180), 4),
            _arc((0.0, 0.42), (0.58, 0.36), (0, -90), steps),
        ],
    }
