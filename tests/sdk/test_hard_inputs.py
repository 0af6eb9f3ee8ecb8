"""Arguments, pictures and bundles at the edge of sense: each ends in an error that says so, or is read as meant."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from florence_edge import Bundle, Detections, Florence, FlorenceError, ImageSize, SearchOptions, parse, select
from florence_edge.backends.registry import open_backend
from florence_edge.errors import BundleError, ImageError, InputError
from florence_edge.images import load_image
from florence_edge.options import SearchConfig
from florence_edge.prompts import class_names, prompt_for
from florence_edge.tasks import find
from support.fake_backend import FakeBackend
from support.manifests import write_bundle

SIZE = ImageSize(64, 48)
HALF = "red \ud83d cube"
"""Half a surrogate pair, as JSON and file names can bring it in."""


@pytest.fixture
def model(bundle: Bundle) -> Iterator[Florence]:
    with Florence(bundle, FakeBackend(bundle)) as opened:
        yield opened


@pytest.mark.parametrize("task", [5, None, b"od", ["od"]])
def test_a_task_is_named_by_a_string(task: Any) -> None:
    with pytest.raises(InputError, match="'<OD>' or 'detect'"):
        find(task)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 2.0},
        {"beams": "3"},
        {"beams": True},
        {"max_new_tokens": 2.5},
        {"min_new_tokens": "5"},
        {"no_repeat_ngram": 1.5},
        {"length_penalty": "1"},
        {"constrained": "no"},
        {"constrained": 1},
    ],
)
def test_options_of_another_type_are_refused_where_they_are_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(wrong))} is .* it must be "):
        SearchOptions(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 33},
        {"beams": 10**9},
        {"length_penalty": float("nan")},
        {"length_penalty": float("-inf")},
        {"length_penalty": 1e6},
        {"length_penalty": -200.0},
        {"early_stopping": 1},
        {"early_stopping": 0},
    ],
)
def test_options_that_no_search_can_follow_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .* it must "):
        SearchConfig().over(SearchOptions(**wrong))


def test_numbers_of_numpy_are_kept_as_those_of_python() -> None:
    options = SearchOptions(beams=np.int64(2), length_penalty=np.float32(0.5))
    assert json.dumps([options.beams, options.length_penalty]) == "[2, 0.5]"


@pytest.mark.parametrize("search", [{}, {"beams": 1}, "greedy", SearchOptions])
def test_other_things_than_options_are_refused(model: Florence, search: Any) -> None:
    with pytest.raises(InputError, match="give SearchOptions"):
        model.caption(Image.new("RGB", SIZE), search=search)


@pytest.mark.parametrize("task", ["ground", "segment", "ask", "detect"])
def test_half_a_character_is_refused(task: str) -> None:
    with pytest.raises(InputError, match="half a surrogate pair"):
        prompt_for(find(task, with_input=True), HALF, SIZE)


def test_a_box_of_any_numbers_is_used_or_refused() -> None:
    class Recorded:
        """As a tensor of torch that records gradients."""

        def __array__(self, *given: Any, **settings: Any) -> Any:
            raise RuntimeError("use tensor.detach()")

    boxes: list[Any] = [(0, 0, 10**400, 4), Recorded()]
    for box in boxes:
        with pytest.raises(InputError, match="a box is x1 y1 x2 y2"):
            prompt_for(find("classify_region"), box, SIZE)


def test_a_name_in_an_array_is_one_name() -> None:
    assert class_names(np.array("cube")) == ("cube",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_score": "0.5"},
        {"max_regions": 1.5},
        {"max_regions": "1"},
        {"allowed_labels": [1]},
        {"allowed_labels": [None]},
        {"allowed_labels": 5},
    ],
)
def test_conditions_of_another_type_are_refused(wrong: dict[str, Any]) -> None:
    found = parse("<OD>", "cube<loc_1><loc_2><loc_3><loc_4>", SIZE)
    assert isinstance(found, Detections)
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .* it must "):
        select(found, **wrong)


def test_bad_items_of_every_type_cost_a_batch_only_themselves(model: Florence) -> None:
    image = Image.new("RGB", SIZE)
    items: list[Any] = [
        (image, 5),
        (image, "ground", HALF),
        (image, "classify_region", (0, 0, 10**400, 1)),
        (image, "detect"),
    ]
    *bad, good = model.run_many(items, errors="return")
    assert [type(answer) for answer in bad] == [InputError] * 3
    assert not isinstance(good, FlorenceError)
    with pytest.raises(InputError, match="batch_size"):
        model.run_many(items, batch_size="4")  # type: ignore[call-overload]  # the error is the point


@pytest.mark.parametrize("wrong", [{"threads": "2"}, {"threads": 1.5}, {"threads": 10**6}, {"providers": "CPU"}])
def test_how_an_engine_runs_is_checked_before_it_is_opened(bundle: Bundle, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        open_backend("onnx", bundle, **wrong)


def test_lab_is_a_colour_space_without_transparency() -> None:
    lab = Image.new("LAB", (5, 4), (128, 0, 0))
    assert np.asarray(load_image(lab)).tolist() == np.asarray(lab.convert("RGB")).tolist()


def test_a_transparent_deep_grey_becomes_white() -> None:
    values = np.array([[0, 40000], [65535, 0]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", transparency=0)
    assert np.asarray(load_image(buffer.getvalue()))[..., 0].tolist() == [[255, 156], [255, 255]]


def test_an_array_is_measured_before_it_is_copied() -> None:
    with pytest.raises(ImageError, match="20000000000 pixels"):
        load_image(np.broadcast_to(np.uint8(7), (200_000, 100_000, 3)))


@pytest.mark.parametrize(("mode", "wrong"), [("L", b"\0"), ("P", 300), ("RGB", "x")])
def test_a_transparency_of_another_mode_is_an_image_error(mode: str, wrong: Any) -> None:
    image = Image.new(mode, (5, 4))
    image.info["transparency"] = wrong
    with pytest.raises(ImageError, match="cannot be turned into RGB"):
        load_image(image)


def test_no_program_is_run_for_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*given: Any) -> Any:
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(ImageError, match="PostScript"):
        load_image(postscript)


def test_a_manifest_nested_without_end_is_a_bundle_error(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle").folder
    (folder / "manifest.json").write_text("[" * 200_000, encoding="ascii")
    with pytest.raises(BundleError, match="nested too deeply"):
        Bundle.open(folder)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 300, "loop"])
def test_names_that_no_file_has_are_bundle_errors(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path / "bundle").folder
    os.symlink("loop", folder / "loop")
    values = json.loads((folder / "manifest.json").read_text("utf-8"))
    values["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BundleError, match=r"plain relative path|cannot be read|is missing"):
        Bundle.open(folder)


@pytest.mark.parametrize("source", ["~no-such-user-here", "x" * 5000])
def test_a_path_that_cannot_be_is_a_bundle_error(source: str) -> None:
    with pytest.raises(BundleError, match="cannot be opened as a bundle"):
        Bundle.open(source)
    with pytest.raises(InputError, match="bundle folder"):
        Bundle.open(None)  # type: ignore[arg-type]  # the error is the point


def test_a_tokenizer_with_other_ids_than_the_manifests_is_refused(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, tokenizer=replace(bundle.manifest.tokenizer, pad=7))
    with pytest.raises(BundleError, match=r"tokenizer.json is of another model: it has .*pad=1.* says .*pad=7"):
        Florence(Bundle(bundle.folder, manifest), FakeBackend(bundle))
