"""The commands of examples/README.md, run as they stand there, and the geometry of the grasp."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision as sv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rosbags.highlevel import AnyReader

pytest.importorskip("onnxruntime")

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMANDS = re.findall(r"`python examples/(\w+)\.py ?([^`]*)`", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
PICK = runpy.run_path(str(EXAMPLES / "pick_by_name.py"), run_name="pick_by_name")
FRAMES = 16


def run(name: str, *arguments: str) -> None:
    """Runs an example as its command line would, in this process."""
    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the samples, made by the first command."""
    place = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(COMMANDS[0][0], *shlex.split(COMMANDS[0][1]))
        yield place


def _encoded(said: str, folder: Path) -> None:
    rows = [line.split() for line in said.splitlines()]
    assert [row[0] for row in rows[1:7]] == [
        "<CAPTION>",
        "<MORE_DETAILED_CAPTION>",
        "<OD>",
        "<REGION_PROPOSAL>",
        "<DENSE_REGION_CAPTION>",
        "<OCR>",
    ]
    assert Image.open(folder / "found.png").size == (640, 640)


def _asked(said: str, folder: Path) -> None:
    assert re.search(r"at \d+,\d+ to \d+,\d+\n +category +\w+ \([01]\.\d\d\)\n +description +\w+", said)


def _grasp(said: str, folder: Path) -> None:
    answer = json.loads(said)
    x, y = answer["image_px"]["centre"]
    assert 20 <= x <= 125
    assert 250 <= y <= 360  # where the picture has its cube
    assert 40 < answer["image_px"]["width"] < 160
    assert (folder / "grasp.png").exists()
    if "camera_m" in answer:
        _, _, distance = answer["camera_m"]["centre"]
        assert 0.5 < distance < 1.5
        assert np.linalg.norm(answer["camera_m"]["closing_axis"]) == pytest.approx(1, abs=1e-3)


def _captioned(said: str, folder: Path) -> None:
    assert f"\n{FRAMES} pictures in" in said
    with AnyReader([folder / "captions.mcap"]) as bag:
        captions = [con for con in bag.connections if con.topic.endswith("caption/text")]
        texts = [bag.deserialize(data, con.msgtype) for con, _, data in bag.messages(captions)]
    assert len(texts) == FRAMES
    assert texts[0].results[0].class_id in said  # type: ignore[attr-defined]  # a type made from the bag


def _labelled(said: str, folder: Path) -> None:
    out = str(folder / "labelled")
    yolo = sv.DetectionDataset.from_yolo(f"{out}/yolo/images", f"{out}/yolo/labels", f"{out}/yolo/data.yaml")
    coco = sv.DetectionDataset.from_coco(f"{out}/coco/images", f"{out}/coco/annotations.json")
    counts = [sum(len(labels) for _, _, labels in data) for data in (yolo, coco)]
    assert said.startswith(f"8 pictures, {counts[0]} labels")
    assert counts[0] == counts[1] > 0


def _looped(said: str, folder: Path) -> None:
    assert [line.split()[1] for line in said.splitlines()] == [f"{number}:" for number in range(FRAMES)]
    capture = cv2.VideoCapture(str(folder / "seen.avi"))
    assert sum(iter(capture.grab, False)) == FRAMES


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "encode_once": _encoded,
    "ask_regions": _asked,
    "pick_by_name": _grasp,
    "caption_bag": _captioned,
    "label_dataset": _labelled,
    "camera_loop": _looped,
}


def test_every_example_is_in_the_table() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {name for name, _ in COMMANDS}
    assert COMMANDS[0] == ("make_samples", "samples")


@pytest.mark.parametrize(("name", "arguments"), COMMANDS[1:])
def test_it_runs_as_written(name: str, arguments: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(name, *shlex.split(arguments))
    CHECKS[name](capsys.readouterr().out, folder)


def test_half_a_camera_is_said_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("pick_by_name", "the cyan cube", "--camera", "600,600,320,320", "--height", "0.5")
    assert "--camera needs --depth, or --height and --pitch" in capsys.readouterr().err


def test_a_depth_image_gives_the_grasp_in_metres(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((640, 640), 800, np.uint16)).save(folder / "depth.png")
    run("pick_by_name", "the cyan cube", "--camera", "600,600,320,320", "--depth", "depth.png")
    answer = json.loads(capsys.readouterr().out)
    assert answer["camera_m"]["centre"][2] == pytest.approx(0.8)
    assert answer["camera_m"]["width"] == pytest.approx(answer["image_px"]["width"] * 0.8 / 600, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("encode_once", ["nowhere.png"], "error: there is no file 'nowhere.png'"),
        ("ask_regions", ["the cyan cube", "nowhere.png"], "error: there is no file 'nowhere.png'"),
        ("pick_by_name", ["the cyan cube", "nowhere.png"], "error: there is no file 'nowhere.png'"),
        ("pick_by_name", ["the cyan cube", "--min-score", "1.01"], "--min-score is 1.01"),
        ("camera_loop", ["nowhere.avi"], "error: .*nowhere.avi does not exist"),
        ("caption_bag", ["nowhere", "captions.mcap"], "error: .*nowhere"),
        ("label_dataset", ["nowhere", "labelled"], "error: .*nowhere does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_not_by_a_trace(
    name: str, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"(?s){message}"):
        run(name, *arguments)


def test_half_a_camera_matrix_is_no_camera(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("pick_by_name", "the cyan cube", "--camera", "600,600")
    assert "'600,600' are not four numbers; write FX,FY,CX,CY in pixels" in capsys.readouterr().err


@given(
    centre=st.tuples(st.floats(100, 500), st.floats(100, 500)),
    sides=st.tuples(st.floats(20, 60), st.floats(80, 200)),
    angle=st.floats(0, 179),
)
def test_the_gripper_closes_across_the_short_side(
    centre: tuple[float, float], sides: tuple[float, float], angle: float
) -> None:
    """Of a rectangle given by OpenCV: its middle, its short side, and the direction of that."""
    corners = cv2.boxPoints((centre, sides, angle)).astype(np.float64)
    grasp = PICK["grasp_of"](corners)
    np.testing.assert_allclose(grasp.centre, centre, atol=0.1)
    assert sides[0] - 0.1 <= grasp.width <= sides[0] + sides[1] * np.sin(np.deg2rad(0.6))  # whole degrees are tried
    turned = np.rad2deg(np.arctan2(grasp.direction[1], grasp.direction[0])) - angle
    assert abs((turned + 90) % 180 - 90) <= 1
    assert np.linalg.norm(np.diff(grasp.fingers, axis=0)) == pytest.approx(grasp.width)


MATRIX = np.array([[610.0, 0, 330], [0, 590, 245], [0, 0, 1]])


def project(points: Any) -> Any:
    """Pixels of points in the camera's frame, by OpenCV."""
    return cv2.projectPoints(np.asarray(points, np.float64), np.zeros(3), np.zeros(3), MATRIX, None)[0].reshape(-1, 2)


@given(
    height=st.floats(0.2, 2),
    pitch=st.floats(5, 90),
    above=st.floats(0, 0.1),
    place=st.tuples(st.floats(-0.3, 0.3), st.floats(0.1, 1.5)),
)
def test_a_point_over_the_table_is_found_again(
    height: float, pitch: float, above: float, place: tuple[float, float]
) -> None:
    """World: x right, y forward, z up, the camera `height` above the origin of the table; then turned by `pitch`."""
    world = np.array([place[0], place[1], above - height])
    down = np.deg2rad(pitch)
    forward, up = np.array([0, np.cos(down), -np.sin(down)]), np.array([0, np.sin(down), np.cos(down)])
    point = np.array([world[0], -world @ up, world @ forward])
    if point[2] < 0.05:  # behind the camera
        return
    rays = PICK["Camera"](610, 590, 330, 245).rays(project([point]))
    np.testing.assert_allclose(PICK["on_table"](rays, height, pitch, above)[0], point, atol=1e-6)


def test_depth_is_read_where_the_object_is_and_holes_are_left_out() -> None:
    points = np.array([(-0.05, 0.02, 0.7), (0.05, 0.02, 0.7), (0.0, 0.02, 0.7)])
    pixels = project(points)
    depth = np.zeros((480, 640))
    column, row = pixels[2].round().astype(int)
    depth[row, column - 1 : column + 2] = 0.7
    rays = PICK["Camera"](610, 590, 330, 245).rays(pixels)
    np.testing.assert_allclose(PICK["on_depth"](rays, pixels[:2], depth), points, atol=1e-9)
    with pytest.raises(SystemExit, match="no depth was measured around pixel"):
        PICK["on_depth"](rays, pixels[:2], np.zeros((480, 640)))
