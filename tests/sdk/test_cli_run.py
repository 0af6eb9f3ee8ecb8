"""`florence-edge run`: files in, answers out, whatever happens between."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.cli import store
from florence_edge.cli.main import main
from florence_edge.errors import BackendError
from florence_edge.files import write
from florence_edge.tasks import Task
from support.fake_backend import ANSWERS, FakeBackend


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeBackend]:
    """Every engine that a command opens is a scripted one, and noted here."""
    opened: list[FakeBackend] = []

    def script(task: Task, given: str, brightness: float) -> str:
        if brightness < -1.9:
            raise BackendError("the logits are not finite")
        return ANSWERS[task.token]

    def open_backend(name: str, bundle: Bundle, **_: object) -> FakeBackend:
        opened.append(FakeBackend(bundle, script))
        return opened[-1]

    monkeypatch.setattr("florence_edge.model.open_backend", open_backend)
    return opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three images, something else, and a subfolder with one more."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.JPG", "c.png", "more/d.png")):
        Image.new("RGB", (200, 100), (200, 40 * index, 90)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_is_one_document_per_image(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "od", str(photos), "--model", str(bundle.folder), "--json"]) == 0
    documents = lines(capsys)
    assert [Path(document["image"]).name for document in documents] == ["a.png", "b.JPG", "c.png"]
    assert documents[0].keys() == {"image", "task", "input", "bundle", "result"}
    assert documents[0]["result"]["labels"] == ["cube", "ball"]
    assert documents[0]["result"]["size"] == {"width": 200, "height": 100}
    assert engines[0].closed


def test_text_is_a_table_for_people(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "detect", str(photos / "a.png"), "--model", str(bundle.folder)]) == 0
    shown = capsys.readouterr()
    rows = [line.split() for line in shown.out.splitlines()]
    assert rows[1] == ["score", "label", "x1", "y1", "x2", "y2"]
    assert rows[3][1:] == ["cube", "20.1", "20.1", "60.1", "40.0"]
    assert rows[0][0] == f"{photos / 'a.png'}:"
    assert shown.err == ""  # no progress bar: this is no terminal


@pytest.mark.parametrize(
    ("task", "values", "shown"),
    [
        ("caption", [], "a red cube left of a ball"),
        ("ground", ["a red cube"], "a ball"),
        ("detect", ["ball, red cube", "cup"], "red cube"),
        ("segment", ["a red cube"], "points"),
        ("classify_region", ["1,2,30,40"], "cube"),
        ("read_regions", [], "OPEN"),
        ("propose", [], "0."),
        ("ask", ["is it red?"], "yes"),
    ],
)
def test_every_kind_of_input_and_answer(
    bundle: Bundle,
    engines: list[FakeBackend],
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    values: list[str],
    shown: str,
) -> None:
    given = [argument for value in values for argument in ("--input", value)]
    assert main(["run", task, str(photos / "a.png"), "--model", str(bundle.folder), *given]) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["<COUNT>", "a.png"], 1, "unknown task"),
        (["od", "a.png", "--input", "cup"], 0, ""),
        (["caption", "a.png", "--input", "cup"], 1, "takes no input"),
        (["ground", "a.png"], 1, "takes a phrase"),
        (["ground", "a.png", "--input", "a", "--input", "b"], 1, "given 2 times"),
        (["read_region", "a.png", "--input", "one,two"], 1, "is no box"),
        (["read_region", "a.png", "--input", "1,2,3"], 1, "shape [3]"),
        (["read_region", "a.png", "--input", "0,0,900,10"], 1, "leaves the image"),
        (["caption", "nowhere.png", "more/*.gif", "more/none"], 1, "nowhere.png does not exist"),
        (["caption", "a.png", "--resume"], 2, "--resume needs --out"),
    ],
)
def test_what_cannot_be_asked_is_said_before_or_at_the_image(
    bundle: Bundle,
    engines: list[FakeBackend],
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(photos)
    if arguments[:1] == ["od"] and "--input" in arguments:
        arguments = ["detect", *arguments[1:]]
    assert main(["run", *arguments, "--model", str(bundle.folder)]) == code
    assert message in capsys.readouterr().err


def test_bad_files_are_passed_over_and_listed_at_the_end(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "aa.png").write_bytes(b"not an image")
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(photos / "bb.png")  # the engine fails on it
    for batch in ("1", "3", "8"):
        assert main(["run", "caption", str(photos), "--model", str(bundle.folder), "--json", "--batch", batch]) == 1
        shown = capsys.readouterr()
        documents = [json.loads(line) for line in shown.out.splitlines()]
        assert [("error" in document, Path(document["image"]).name) for document in documents] == [
            (False, "a.png"),
            (True, "aa.png"),
            (False, "b.JPG"),
            (True, "bb.png"),
            (False, "c.png"),
        ]
        assert "2 of 5 images failed:" in shown.err
        assert "aa.png' is not an image" in shown.err
        assert "bb.png: the logits are not finite" in shown.err


def test_patterns_reach_as_deep_as_they_say(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(photos / "**"), str(photos / "a.png"), str(photos)]
    assert main(["run", "caption", *names, "--model", str(bundle.folder), "--json"]) == 0
    assert sorted(Path(document["image"]).name for document in lines(capsys)) == ["a.png", "b.JPG", "c.png", "d.png"]


def documents(folder: Path) -> dict[str, Any]:
    """What a run saved, without times."""
    saved = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for document in saved.values():
        document["result"]["timings_ms"] = None
    return saved


def test_what_is_saved_is_the_document_and_an_annotated_picture(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", "od", str(photos), "--model", str(bundle.folder), "--out", str(out), "--json"]) == 0
    printed = lines(capsys)
    saved = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    assert saved == printed
    pictures = sorted(out.glob("*.jpg"))
    assert len(pictures) == 3
    assert len(list(out.iterdir())) == 6
    with Image.open(pictures[0]) as picture, Image.open(photos / "a.png") as original:
        assert picture.size == original.size
        assert np.abs(np.asarray(picture, np.int16) - np.asarray(original)).max() > 50


def test_names_as_long_as_file_systems_take_are_saved_apart(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", tmp_path / "long"
    folder.mkdir()
    for end in "ab":
        os.link(photos / "a.png", folder / f"{'é' * 125}{end}.png")
    command = ["run", "caption", str(folder), "--model", str(bundle.folder), "--out", str(out)]
    assert main(command) == 0
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.jpg"))) == 2
    assert main([*command, "--resume"]) == 0
    assert len(engines) == 1


def test_the_box_that_was_asked_about_is_drawn(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    question = ["run", "read_region", str(photos / "a.png"), "--input", "30,20,160,80", "--model", str(bundle.folder)]
    assert main([*question, "--out", str(out)]) == 0
    (picture,) = out.glob("*.jpg")
    with Image.open(picture) as drawn:
        shades = np.asarray(drawn.convert("L").resize((drawn.width, drawn.height)), np.int16)
    left = (drawn.width - 200) // 2  # a narrow picture is widened for its text
    assert shades[50, left + 28 : left + 34].max() - shades[50, left + 28 : left + 34].min() > 150
    assert np.ptp(shades[50, left + 60 : left + 120]) < 10


def test_resume_leaves_out_only_what_is_the_same_question(
    bundle: Bundle, engines: list[FakeBackend], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    base = ["--model", str(bundle.folder), "--out", str(out), "--resume", "--json"]
    assert main(["run", "od", str(photos), *base]) == 0
    first = lines(capsys)
    assert main(["run", "od", str(photos), *base]) == 0
    assert lines(capsys) == first
    assert len(engines) == 1  # nothing to do: no model was opened
    Image.new("RGB", (200, 100), "green").save(photos / "b.JPG")
    for again, count in ((["od"], 1), (["caption"], 3), (["detect", "--input", "cup"], 3), (["od", "--beams", "1"], 3)):
        assert main(["run", again[0], str(photos), *again[1:], *base]) == 0
        assert sum(engines[-1].encoded) == count


@pytest.mark.parametrize("moment", range(11))
def test_a_kill_at_any_moment_leaves_nothing_half_done_and_resume_finishes(
    bundle: Bundle,
    engines: list[FakeBackend],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = ["run", "od", str(photos), "--model", str(bundle.folder), "--json"]
    assert main([*arguments, "--out", str(whole)]) == 0
    writes = write
    written = 0

    def dying(path: Path, data: bytes) -> None:
        """Dies in the middle of a file when the moment is even, right behind it when it is odd."""
        nonlocal written
        written += 1
        if written > moment // 2 and moment % 2 == 0:
            path.with_name(f".{path.name}.part").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        writes(path, data)
        if written > moment // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", dying)
    assert main([*arguments, "--out", str(broken)]) == 130
    assert "--resume goes on" in capsys.readouterr().err
    left = documents(broken)
    assert left.items() <= documents(whole).items()
    assert all((broken / name).with_suffix(".jpg").exists() for name in left)
    monkeypatch.setattr(store, "write", writes)
    assert main([*arguments, "--out", str(broken), "--resume"]) == 0
    assert documents(broken) == documents(whole)
    assert sum(engines[-1].encoded) == 3 - len(left)
    assert sorted(path.name for path in broken.iterdir()) == sorted(path.name for path in whole.iterdir())
