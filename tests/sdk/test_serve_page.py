"""The page in a real browser: what a person does, and what is then to be seen. Screenshots go to FLORENCE_SHOTS."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge.backends.registry import open_backend
from florence_edge.bundle import Bundle
from florence_edge.drawing.palette import colour
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.results import Detections
from florence_edge.serve.options import ServeOptions
from florence_edge.stream import Ask
from support.browser import Browser
from support.fake_backend import FakeStreamingBackend
from support.serving import GatedBackend, Served, served
from support.streams import ScriptedCamera

pytestmark = pytest.mark.browser

TOKEN = "correct-horse-battery-staple"
BUSY = "(document.querySelector('#text').getAttribute('aria-busy') === 'true')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.new("RGB", (640, 480), (60, 62, 66)).save(path)
    return path


@pytest.fixture(autouse=True)
def no_complaints(browser: Browser) -> Iterator[None]:
    """A page that breaks its own policy, or fails in a script, fails the test."""
    browser.call("Page.navigate", url="about:blank")
    browser.errors.clear()
    yield
    assert not [error for error in browser.errors if "the server responded with a status of 4" not in error]


def visit(browser: Browser, server: Served, photo: Path | None = None) -> None:
    """Opens the page, and a picture on it."""
    browser.open(server.address)
    browser.wait("document.querySelector('#task').options.length > 10")
    if photo is not None:
        browser.choose_file("#file", photo)
        browser.wait(f"document.querySelector('#text').textContent && !{BUSY}")


def shot(browser: Browser, name: str) -> Image.Image:
    """What is seen; kept where somebody wants to look at it."""
    folder = os.environ.get("FLORENCE_SHOTS")
    data = browser.screenshot()
    if folder:
        Path(folder, f"{name}.png").write_bytes(data)
    return Image.open(BytesIO(data)).convert("RGB")


def text(browser: Browser, selector: str) -> str:
    value: str = browser.evaluate(f"document.querySelector({selector!r}).textContent")
    return value


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.evaluate(f"[...document.querySelectorAll({selector!r})].map(one => one.textContent)")
    return found


def shown(browser: Browser, selector: str) -> bool:
    return bool(browser.evaluate(f"document.querySelector({selector!r}).checkVisibility()"))


def test_a_caption_appears_as_it_is_written(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, GatedBackend(bundle, open=True, token_s=0.15))) as server:
        browser.open(server.address)
        browser.wait("document.querySelector('#task').options.length > 10")
        browser.choose_file("#file", photo)
        browser.wait(f"{BUSY} && document.querySelector('#text').textContent.length > 2")
        part = text(browser, "#text")
        assert "a red cube left of a ball".startswith(part)
        assert part != "a red cube left of a ball"
        browser.wait(f"!{BUSY}")
        assert text(browser, "#text") == "a red cube left of a ball"
        stages = [
            row.strip()
            for row in browser.evaluate("[...document.querySelectorAll('#stages dt')].map(x => x.textContent)")
        ]
        assert stages == ["waiting", "reading", "resizing", "image encoder", "answer", "parsing"]
        shot(browser, "caption")


def test_boxes_are_drawn_where_they_belong_and_in_their_colours(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle))) as server:
        visit(browser, server, photo)
        browser.choose("#task", "<OD>")
        browser.wait("document.querySelectorAll('#regions li').length === 2")
        assert texts(browser, "#regions .name") == ["cube", "ball"]
        picture = np.asarray(shot(browser, "boxes")).astype(int)
        left, top, width, _ = browser.place("#frame")
        result = Florence(bundle, FakeStreamingBackend(bundle)).run("detect", photo)
        assert isinstance(result, Detections)
        for number, (x1, y1, _, y2) in enumerate(result.boxes * width / 640):
            column = slice(round(left + x1) - 3, round(left + x1) + 4)
            edge = picture[round(top + (y1 + y2) / 2), column]
            assert np.abs(edge - colour(number)).sum(axis=-1).min() < 40, (number, edge)


def test_pointing_at_an_entry_dims_the_others(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle))) as server:
        visit(browser, server, photo)
        browser.choose("#task", "<OD>")
        browser.wait("document.querySelectorAll('#regions li').length === 2")
        browser.evaluate("document.querySelectorAll('#regions li')[1].focus()")
        dimmed = (
            "[...document.querySelectorAll('#overlay .item')]"
            ".filter(item => getComputedStyle(item).opacity < 1).map(item => item.dataset.item)"
        )
        assert browser.evaluate(dimmed) == ["0"]
        browser.evaluate("document.activeElement.blur()")
        assert browser.evaluate(dimmed) == []


def test_what_is_typed_is_asked(browser: Browser, bundle: Bundle, photo: Path) -> None:
    asked: list[str] = []
    backend = FakeStreamingBackend(bundle)
    plain = backend.script
    backend.script = lambda task, given, light: asked.append(f"{task.name}: {given}") or plain(task, given, light)  # type: ignore[func-returns-value]
    with served(Florence(bundle, backend)) as server:
        visit(browser, server, photo)
        browser.choose("#task", "<REFERRING_EXPRESSION_SEGMENTATION>")
        assert browser.evaluate("document.activeElement.id") == "input"
        browser.type("#input", "the <b>red</b> cube")
        browser.wait("document.querySelector('#overlay .area')")
        assert text(browser, "#regions .name") == "the <b>red</b> cube"
        browser.choose("#task", "<OPEN_VOCABULARY_DETECTION>")
        browser.type("#input", "red cube, ball")
        browser.wait("document.querySelector('#regions .name').textContent === 'red cube'")
        browser.choose("#task", "<OCR_WITH_REGION>")
        browser.wait("document.querySelector('#regions .name').textContent === 'OPEN'")
        shot(browser, "quads")
    assert asked[1:] == [
        "referring_expression_segmentation: the <b>red</b> cube",
        "open_vocabulary_detection: red cube<and>ball",
        "ocr_with_region: ",
    ]


def test_a_box_is_dragged_over_the_picture(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle))) as server:
        visit(browser, server, photo)
        browser.choose("#task", "<REGION_TO_DESCRIPTION>")
        x, y = browser.middle("#frame")
        scale = 640 / browser.evaluate("document.querySelector('#frame').clientWidth")
        browser.drag((x - 100, y - 50), (x + 60, y + 40))
        browser.wait(f"document.querySelector('#text').textContent === 'a red cube on a table' && !{BUSY}")
        box = [float(number) for number in browser.evaluate("document.querySelector('#input').value").split(", ")]
        expected = [320 - 100 * scale, 240 - 50 * scale, 320 + 60 * scale, 240 + 40 * scale]
        np.testing.assert_allclose(box, expected, atol=1.5 * scale)
        assert browser.evaluate("document.querySelectorAll('#overlay .pick').length") == 1
        browser.type("#input", "1, 2, 9000, 4")
        browser.wait("document.querySelector('#trouble').textContent.includes('x leaves the image')")


def test_the_camera_is_followed_and_can_be_paused(browser: Browser, bundle: Bundle) -> None:
    camera = ScriptedCamera("wrist", [itertools.cycle(["frame", 0.02])])
    with served(Florence(bundle, FakeStreamingBackend(bundle)), source=camera, ask=Ask("detect")) as server:
        visit(browser, server)
        browser.wait("document.querySelectorAll('#regions li').length === 2")
        assert text(browser, "#camera-name") == "wrist"
        frame = "Number(document.querySelector('#status').textContent.match(/frame (\\d+)/)?.[1])"
        first = browser.evaluate(frame)
        browser.wait(f"{frame} > {first}")
        browser.choose("#task", "<CAPTION>")
        browser.wait("document.querySelector('#text').textContent === 'a red cube left of a ball'")
        shot(browser, "camera")
        browser.click("#pause")
        browser.wait("document.querySelector('#status').textContent.startsWith('Paused')")
        browser.click("#pause")
        browser.wait(f"{frame} > {first} + 2")


def test_the_token_is_asked_for_once(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle)), ServeOptions(token=TOKEN)) as server:
        browser.open(server.address)
        browser.wait("document.querySelector('#door').open")
        shot(browser, "door")
        browser.type("#token", "wrong-wrong-wrong-wrong")
        browser.wait("document.querySelector('#door').open && !document.querySelector('#token').value")
        browser.type("#token", TOKEN)
        browser.wait("document.querySelector('#task').options.length > 10")
        browser.open(server.address + "?again")
        browser.wait("document.querySelector('#task').options.length > 10")
        assert not browser.evaluate("document.querySelector('#door').open")
        browser.evaluate("sessionStorage.clear()")
        browser.open(f"{server.address}?link#token={TOKEN}")
        browser.wait("document.querySelector('#task').options.length > 10")
        assert browser.evaluate("location.hash") == ""


def test_a_refusal_is_told_to_the_person(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle)), ServeOptions(max_pixels=1000)) as server:
        browser.open(server.address)
        browser.wait("document.querySelector('#task').options.length > 10")
        browser.choose_file("#file", photo)
        browser.wait("document.querySelector('#trouble').textContent.includes('allowed: at most 1000 pixels')")
        assert shown(browser, "#trouble")


def test_everything_has_a_name_for_those_who_do_not_see(browser: Browser, bundle: Bundle, photo: Path) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle))) as server:
        visit(browser, server, photo)
        browser.choose("#task", "<OPEN_VOCABULARY_DETECTION>")
        nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = {"button", "combobox", "textbox", "radio", "link", "image", "heading", "menuitem"}
        seen = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and node["role"]["value"] in roles
        ]
        assert {"button", "combobox", "textbox", "heading"} <= {role for role, _ in seen}
        assert [entry for entry in seen if not entry[1]] == []
        overlay = browser.evaluate("document.querySelector('#overlay').getAttribute('aria-label')")
        assert overlay == "Nothing is marked"


@pytest.mark.parametrize("width", [390, 820])
def test_it_fits_a_small_screen(browser: Browser, bundle: Bundle, photo: Path, width: int) -> None:
    with served(Florence(bundle, FakeStreamingBackend(bundle))) as server:
        browser.resize(width, 844)
        try:
            visit(browser, server, photo)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            shot(browser, f"width-{width}")
        finally:
            browser.resize(1280, 900)


def test_the_bundled_model_in_the_browser(browser: Browser) -> None:
    bundle = Bundle.open("tabletop", verify="size")
    sample = bundle.folder / "demo.png"
    with Florence(bundle, open_backend("onnx", bundle, threads=1)) as model, served(model, sample=sample) as server:
        found = model.run("detect", sample, search=SearchOptions(beams=1))
        assert isinstance(found, Detections)
        visit(browser, server)
        shot(browser, "welcome")
        browser.click("#sample")
        browser.wait(f"document.querySelector('#text').textContent && !{BUSY}")
        shot(browser, "sample-caption")
        browser.choose("#task", "<OD>")
        browser.wait("document.querySelectorAll('#regions li').length > 1")
        assert texts(browser, "#regions .name") == list(found.labels)
        shot(browser, "sample-boxes")
