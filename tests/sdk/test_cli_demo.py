"""`florence-edge demo` on a scripted engine: what it asks, writes and says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.cli import demo
from florence_edge.cli.main import main
from florence_edge.drawing.scene import HEIGHT, WIDTH, scene
from florence_edge.tasks import TASKS, Task
from support.fake_backend import ANSWERS, FakeBackend, make_bundle


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the scripted engine was asked, as (token, input in the prompt)."""
    asked: list[tuple[str, str]] = []

    def script(task: Task, given: str, brightness: float) -> str:
        asked.append((task.token, given))
        return "<b>&" if task.token == "<OCR>" else ANSWERS[task.token]

    monkeypatch.setattr("florence_edge.model.open_backend", lambda name, bundle, **_: FakeBackend(bundle, script))
    return asked


class Page(HTMLParser):
    """Collects the images and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.images += [value or "" for name, value in attrs if name == "src"]


def test_all_tasks_are_asked_and_shown(
    bundle: Bundle, questions: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["demo", str(out), "--model", str(bundle.folder)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert [row.split()[0].rstrip(",") for row in shown.out.splitlines()[2:17]] == [task.method for task in TASKS]
    assert "15 tasks answered" in shown.out
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert page.images == [f"{task.name}.png" for task in TASKS]
    assert "detail=&#x27;paragraph&#x27;" in (out / "index.html").read_text(encoding="utf-8")
    assert "b" not in page.tags  # the model's text is shown, not obeyed
    for name in page.images:
        with Image.open(out / name) as picture:
            assert picture.width >= WIDTH
    report = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [answer["task"] for answer in report["answers"]] == [task.token for task in TASKS]
    assert (out / "index.html").stat().st_mtime_ns >= (out / "results.json").stat().st_mtime_ns


def test_later_questions_are_about_what_was_found(
    bundle: Bundle, questions: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert main(["demo", str(tmp_path / "out"), "--model", str(bundle.folder), "--json"]) == 0
    asked = dict(questions)
    assert asked["<CAPTION_TO_PHRASE_GROUNDING>"] == ANSWERS["<CAPTION>"]
    assert asked["<REFERRING_EXPRESSION_SEGMENTATION>"] == "cube"
    assert asked["<OPEN_VOCABULARY_DETECTION>"] == "cube<and>ball"
    assert asked["<REGION_TO_CATEGORY>"] == "<loc_100><loc_200><loc_300><loc_400>"
    assert asked["<REGION_TO_OCR>"] != asked["<REGION_TO_CATEGORY>"]  # where text was found, not the first object


def test_the_table_is_as_wide_as_the_terminal(
    bundle: Bundle,
    questions: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo", str(tmp_path), "--model", str(bundle.folder)]) == 0
    rows = capsys.readouterr().out.splitlines()[:17]
    assert 70 <= max(map(len, rows)) <= 80


def test_an_image_of_the_users_is_used(
    bundle: Bundle, questions: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (330, 77), "green").save(tmp_path / "mine.png")
    arguments = ["demo", str(tmp_path / "out"), "--model", str(bundle.folder), "--image", str(tmp_path / "mine.png")]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answers"][0]["result"]["size"] == {"width": 330, "height": 77}


def make_random(folder: Path) -> Path:
    """Stands in for the package that makes a random model."""
    return make_bundle(folder).folder


def test_without_the_bundled_model_a_random_one_is_made_and_named_so(
    questions: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = EntryPoint("tiny", f"{__name__}:make_random", "florence_edge.demo_models")
    monkeypatch.setattr(demo, "bundled_names", lambda: ())
    monkeypatch.setattr(demo, "entry_points", lambda group: [entry])
    out = tmp_path / "out"
    assert main(["demo", str(out)]) == 0
    assert "its answers mean nothing" in capsys.readouterr().err
    assert "This is a small random model" in (out / "index.html").read_text(encoding="utf-8")
    assert dict(questions)["<CAPTION_TO_PHRASE_GROUNDING>"] == "a red cube left of a ball"


def test_without_any_model_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "bundled_names", lambda: ())
    monkeypatch.setattr(demo, "entry_points", lambda group: [])
    assert main(["demo", str(tmp_path / "out")]) == 1
    assert "pip install 'florence-edge[convert]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_drawn_scene_is_a_picture() -> None:
    image = scene()
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    assert len(image.getcolors(1 << 20) or []) > 300
