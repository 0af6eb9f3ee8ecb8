"""One grammar for sources and sinks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from florence_edge.errors import DependencyError, InputError
from florence_edge.stream import open_sink, open_source
from florence_edge.stream.pictures import expand
from florence_edge.stream.uris import LONGEST_TAG, SCHEMES, Role, parse, tag_of

SDK = Path(__file__).parents[2] / "sdk"


@pytest.mark.parametrize(
    ("text", "role", "scheme", "target", "options", "tag"),
    [
        ("v4l2://0?width=640&fps=30#left", "source", "v4l2", "0", {"width": "640", "fps": "30"}, "left"),
        ("csi://1", "source", "csi", "1", {}, ""),
        ("rtsp://me:pw@host/s?channel=1&x=2#gate", "source", "rtsp", "rtsp://me:pw@host/s?channel=1&x=2", {}, "gate"),
        ("bag://run.mcap?topic=/camera/image", "source", "bag", "run.mcap", {"topic": "/camera/image"}, ""),
        ("photos/**/*.jpg", "source", "images", "photos/**/*.jpg", {}, ""),
        ("list.txt", "source", "images", "list.txt", {}, ""),
        ("clip.MP4#road", "source", "video", "clip.MP4", {}, "road"),
        ("run.mcap", "source", "bag", "run.mcap", {}, ""),
        ("out.jsonl", "sink", "jsonl", "out.jsonl", {}, ""),
        ("file://out.jsonl", "sink", "jsonl", "out.jsonl", {}, ""),
        ("out/", "sink", "folder", "out/", {}, ""),
        ("answers", "sink", "folder", "answers", {}, ""),
        ("out.mkv", "sink", "video", "out.mkv", {}, ""),
        ("http://host:8000/a?b=c", "sink", "http", "http://host:8000/a?b=c", {}, ""),
    ],
)
def test_uris(text: str, role: Role, scheme: str, target: str, options: dict[str, str], tag: str) -> None:
    uri = parse(text, role)
    assert (uri.scheme, uri.target, uri.options, uri.tag) == (scheme, target, options, tag)


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [
        ("v4l://0", "source", "did you mean v4l2://"),
        ("http://host/x", "source", "http:// is no source"),
        ("rtsp://host", "sink", "rtsp:// is no sink"),
        ("notes.xyz", "source", "does not exist"),
        ("notes.xyz", "sink", "name the kind, as in jsonl://notes.xyz"),
        ("v4l2://0?width=1&width=2", "source", "width is given more than once"),
        ("", "source", "names no source"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(text: str, role: Role, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text, role)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v4l2://0?widht=640", "unknown option widht; allowed are: width, height, fps"),
        ("v4l2://0?width=big", "width=big must be whole numbers"),
        ("v4l2://cam", "a camera is a number or a device"),
        ("csi://left", "the sensor is a number"),
        ("video://nothing.mp4", "does not exist"),
        ("images://nothing", "does not exist"),
    ],
)
def test_options_of_sources_are_checked_before_anything_is_opened(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out.mp4", "can be read even when the power fails"),
        ("folder://out?pictures=maybe", "it must be yes or no"),
        ("jsonl://out?x=1", "none is allowed"),
    ],
)
def test_options_of_sinks_are_checked(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_sink(text)


def test_a_file_whose_name_has_a_hash_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "a#b.png"
    Image.new("RGB", (4, 4)).save(path)
    assert parse(str(path), "source").target == str(path)
    assert parse(f"{path}#left", "source").tag == "left"


def test_tags_are_names_that_every_file_system_takes() -> None:
    assert tag_of(parse("v4l2://0#front left/α", "source"), "x") == "front-left"
    assert open_source("rtsp://me:secret@10.0.0.2:554/s").tag == "10.0.0.2-554-s"
    assert open_source("v4l2:///dev/video2").tag == "v4l2-dev-video2"


def test_a_long_name_makes_a_tag_that_files_can_be_named_by() -> None:
    camera = open_source("rtsp://host/" + "x" * 400)
    assert len(camera.tag) == LONGEST_TAG


def test_lists_folders_and_patterns_name_their_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "sub/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "list.txt").write_text("# two of them\nsub/c.png\n\nb.png\n")
    assert [path.name for path in expand([str(tmp_path)])] == ["a.jpg", "b.png"]
    assert [path.name for path in expand([str(tmp_path / "list.txt")])] == ["c.png", "b.png"]
    assert [path.name for path in expand([str(tmp_path / "**")])] == ["a.jpg", "b.png", "c.png"]
    (tmp_path / "bad.txt").write_text("nowhere.png\nneither.png\n")
    with pytest.raises(InputError, match=r"nowhere.png.*\n.*neither.png"):
        expand([str(tmp_path / "bad.txt")])


def test_every_scheme_names_a_module_that_exists() -> None:
    for row in SCHEMES.values():
        place = SDK / row.module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), row.module


WITHOUT_OPENCV = """
import sys
sys.modules["cv2"] = None
from florence_edge.errors import DependencyError
from florence_edge.stream import open_source
try:
    next(open_source("v4l2://0").frames())
except DependencyError as error:
    print(error)
assert not [name for name in sys.modules if name.startswith("cv2.")]
"""


def test_without_opencv_the_extra_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENCV], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SDK)}
    )
    assert "pip install 'florence-edge[video]'" in done.stdout


def test_a_csi_camera_needs_an_opencv_with_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.videoio_registry.getBackends", list)
    with pytest.raises(DependencyError, match=r"nvarguscamerasrc sensor-id=0 .* was built without GSTREAMER"):
        next(iter(open_source("csi://0").frames()))


def test_opencv_is_imported_in_one_module_of_the_package_only() -> None:
    importing = [
        path.relative_to(SDK).as_posix()
        for path in (SDK / "florence_edge").rglob("*.py")
        if any(
            line.split()[:2] in (["import", "cv2"], ["from", "cv2"]) for line in path.read_text("utf-8").splitlines()
        )
    ]
    assert importing == ["florence_edge/stream/opencv.py"]
