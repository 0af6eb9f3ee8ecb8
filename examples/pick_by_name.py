"""From words to a grasp: finds what a phrase means and says where a parallel gripper should close on it.

python examples/pick_by_name.py "the cyan cube"
python examples/pick_by_name.py "the cyan cube" --camera 600,600,320,320 --height 0.5 --pitch 40
python examples/pick_by_name.py "the mug" scene.png --camera 615,615,320,240 --depth scene-depth.png

In the picture (x right, y down, pixels): the middle of the object, the angle of the closing direction from x towards y,
and the width between the fingers: the narrowest way across the outline. With a camera matrix also in metres, in the
camera's optical frame (x right, y down, z forward, as in ROS): from a depth image (16 bit in millimetres, aligned with
the picture), or from the table, when the camera is `--height` metres above it and looks `--pitch` degrees down.

Something may be found that is not what was meant. What scores less than `--min-score` is refused; still look at the
score, and at grasp.png, before anything moves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from florence_edge import Detections, Florence, View
from florence_edge.errors import FlorenceError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grasp:
    """`centre` [2] and unit `direction` [2] in which the gripper closes, over `width` pixels."""

    centre: Array
    direction: Array
    width: float

    @property
    def fingers(self) -> Array:
        """Where the two fingers touch, [2, 2] pixels."""
        return self.centre + np.outer([-0.5, 0.5], self.direction * self.width)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion: focal lengths and principal point in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    def rays(self, pixels: Array) -> Array:
        """Points [N, 3] at depth z = 1 m that are seen at `pixels` [N, 2]."""
        x, y = pixels.T
        return np.stack([(x - self.cx) / self.fx, (y - self.cy) / self.fy, np.ones(len(pixels))], axis=1)


def camera_of(text: str) -> Camera:
    """The camera of four numbers with commas."""
    try:
        fx, fy, cx, cy = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not four numbers; write FX,FY,CX,CY in pixels") from None
    return Camera(fx, fy, cx, cy)


def grasp_of(outline: Array) -> Grasp:
    """The grasp across the narrowest way through an outline [M, 2], to a degree."""
    angles = np.deg2rad(np.arange(0, 180))
    directions = np.stack([np.cos(angles), np.sin(angles)])
    narrowest = int(np.argmin(np.ptp(outline @ directions, axis=0)))
    along = directions[:, narrowest]
    across = np.array([-along[1], along[0]])
    middle = [(places.min() + places.max()) / 2 for places in (outline @ along, outline @ across)]
    return Grasp(middle[0] * along + middle[1] * across, along, float(np.ptp(outline @ along)))


def on_table(rays: Array, height: float, pitch: float, above: float = 0.0) -> Array:
    """Where rays meet the plane `above` metres over the table; the camera is `height` over it, looking down `pitch`."""
    up = np.array([0.0, -np.cos(np.deg2rad(pitch)), -np.sin(np.deg2rad(pitch))])
    rise: Array = rays @ up
    if (rise >= 0).any():
        raise SystemExit("the grasp lies above the horizon: --height or --pitch cannot be right")
    return rays * ((above - height) / rise)[:, None]


def on_depth(rays: Array, pixels: Array, depth: Array) -> Array:
    """Points at the depth [H, W] metres measured near the middle of the grasp; 0 means not measured."""
    column, row = pixels.mean(axis=0).round().astype(int)
    near = depth[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
    if not (near > 0).any():
        raise SystemExit(f"no depth was measured around pixel {column}, {row}")
    return rays * float(np.median(near[near > 0]))


def outline_of(model: Florence, view: View, box: Array) -> tuple[str, Array]:
    """The outline of what lies in a box, if the model draws one that fills it; else the box."""
    left, top, right, bottom = box
    drawn = model.segment_region(view, box.tolist(), max_regions=1)
    if len(drawn):
        inner = drawn.boxes()[0].astype(np.float64)
        sides = np.minimum(inner[2:], box[2:]) - np.maximum(inner[:2], box[:2])
        if sides.min() > 0 and np.prod(sides) > 0.7 * (right - left) * (bottom - top):
            return "outline", np.concatenate(drawn.polygons[0]).astype(np.float64)
    return "box", np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def best(found: Detections) -> int:
    """The region with the highest score."""
    return int(np.argmax(np.nan_to_num(found.scores)))


def in_metres(grasp: Grasp, given: argparse.Namespace) -> dict[str, Any]:
    """The grasp in the camera's frame, by the depth image or the plane of the table."""
    rays = given.camera.rays(np.concatenate([grasp.fingers, grasp.centre[None]]))
    if given.depth:
        depth = np.asarray(Image.open(given.depth), dtype=np.float64) / 1000
        first, second, centre = on_depth(rays, grasp.fingers, depth)
    else:
        first, second, centre = on_table(rays, given.height, given.pitch, given.above)
    width = float(np.linalg.norm(second - first))
    axis = ((second - first) / width).round(4).tolist()
    return {"centre": centre.round(4).tolist(), "closing_axis": axis, "width": round(width, 4)}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phrase", help="what to pick")
    parser.add_argument("image", nargs="?", help="[the picture that comes with the model]")
    parser.add_argument("--camera", type=camera_of, metavar="FX,FY,CX,CY", help="camera matrix in pixels")
    parser.add_argument("--depth", metavar="PNG", help="depth image, 16 bit, millimetres")
    parser.add_argument("--height", type=float, metavar="M", help="camera above the table")
    parser.add_argument("--pitch", type=float, metavar="DEG", help="how far the camera looks down")
    parser.add_argument("--above", type=float, default=0.02, metavar="M", help="grasp so high above the table [0.02]")
    parser.add_argument("--min-score", type=float, default=0.1, metavar="X", help="least score of what is picked [0.1]")
    parser.add_argument("--out", default="grasp.png", metavar="PNG", help="the picture with the grasp [grasp.png]")
    given = parser.parse_args()
    if given.camera and not given.depth and None in (given.height, given.pitch):
        parser.error("--camera needs --depth, or --height and --pitch")
    return given


def main() -> None:
    """Prints the grasp as JSON and draws it."""
    given = arguments()
    with Florence.load("tabletop") as model:
        image = given.image or model.bundle.folder / "demo.png"
        view = model.encode(image)
        found = model.ground(view, given.phrase)
        if not len(found):
            raise SystemExit(f"there is no {given.phrase!r}; in view: {', '.join(model.detect(view).labels)}")
        chosen = best(found)
        score = float(np.nan_to_num(found.scores[chosen]))
        if score < given.min_score:
            raise SystemExit(
                f"{given.phrase!r} was found with a score of {score:.2f}; --min-score is {given.min_score}"
            )
        shape, outline = outline_of(model, view, found.boxes[chosen].astype(np.float64))

    grasp = grasp_of(outline)
    angle = float(np.rad2deg(np.arctan2(grasp.direction[1], grasp.direction[0])))
    answer: dict[str, Any] = {"phrase": found.labels[chosen], "score": score, "shape": shape}
    answer["image_px"] = {"centre": grasp.centre.round(1).tolist(), "angle_deg": angle, "width": round(grasp.width, 1)}
    if given.camera:
        answer["camera_m"] = in_metres(grasp, given)
    print(json.dumps(answer, indent=1))

    picture = found.draw(image)
    fingers = [(float(x), float(y)) for x, y in grasp.fingers]
    ImageDraw.Draw(picture).line(fingers, fill="red", width=4)
    picture.save(given.out)


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
