"""The whole road on a small real bundle: ONNX Runtime behind `Florence`, all tasks, batches, streams, the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import Detections, Florence, FlorenceError, Result, SearchOptions
from florence_edge.cli.main import main
from florence_edge.drawing.scene import scene
from florence_edge.errors import BackendError, BundleError, InputError
from florence_edge.tasks import TASKS, InputKind, Task
from support.bundles import tiny_bundle

pytest.importorskip("onnxruntime")

GIVEN = {
    InputKind.NONE: None,
    InputKind.PHRASE: "a red cube left of a ball",
    InputKind.CLASSES: ["cup", "red cube", "the label"],
    InputKind.BOX: (10.0, 20.0, 300.0, 200.0),
}
SHORT = SearchOptions(max_new_tokens=24)


@pytest.fixture(scope="module")
def model() -> Iterator[Florence]:
    with Florence.load(tiny_bundle(), threads=1) as opened:
        yield opened


def plain(result: Result | FlorenceError) -> dict[str, object]:
    """A result without its times; scores to four digits, since a batch adds its numbers in another order."""
    assert isinstance(result, Result), result
    values = {**result.to_dict(), "timings_ms": None}
    values["scores"] = [None if score is None else round(score, 4) for score in values["scores"]]
    return values


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_is_answered_within_its_limits(model: Florence, task: Task) -> None:
    picture = scene()
    result = model.run(task.token, picture, GIVEN[task.input])
    assert result.size == picture.size
    assert 1 <= result.tokens <= task.budget
    assert result.finish in ("eos", "length")
    assert ((result.scores > 0) & (result.scores <= 1)).all() or len(result.raw) == 0
    if isinstance(result, Detections):
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [*picture.size, *picture.size]).all()
    json.loads(result.to_json())


def test_a_mixed_batch_equals_its_single_runs(model: Florence) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + 30 * i, 90, 3)).astype(np.uint8) for i in range(3)]
    given = {**GIVEN, InputKind.BOX: (5, 5, 60, 30)}
    items = [(images[i % 3], task.token, given[task.input]) for i, task in enumerate(TASKS)]
    together = model.run_many(items, search=SHORT, batch_size=8)
    alone = [model.run(task, image, value, search=SHORT) for image, task, value in items]
    assert [plain(result) for result in together] == [plain(result) for result in alone]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("task", ["caption", "od", "<OCR_WITH_REGION>", "<REGION_PROPOSAL>"])
def test_a_stream_adds_up_to_the_answer(model: Florence, task: str, beams: int) -> None:
    search = SearchOptions(beams=beams, max_new_tokens=40)
    view = model.encode(scene())
    stream = model.stream(task, view, search=search)
    text = "".join(stream)
    result = model.run(task, view, search=search)
    assert text == getattr(result, "text", result.raw)
    assert plain(stream.result) == plain(result)


def test_a_view_answers_like_its_image(model: Florence) -> None:
    view = model.encode(scene())
    assert view.features.numpy().shape[0] == 1
    assert plain(model.detect(view, "cup", search=SHORT)) == plain(model.detect(scene(), "cup", search=SHORT))


def test_an_unknown_backend_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the backends are: onnx"):
        Florence.load(tiny_bundle(), backend="tpu")


def test_damaged_graphs_and_altered_files_are_told_apart(tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_bundle(), tmp_path / "copy"))
    graph = folder / "decoder.onnx"
    graph.write_bytes(bytes(reversed(graph.read_bytes())))
    with pytest.raises(BundleError, match=r"decoder\.onnx was altered"):
        Florence.load(folder)
    with pytest.raises(BackendError, match=r"cannot open .*decoder\.onnx"):
        Florence.load(folder, verify="size").caption(scene())


def test_the_command_runs_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (70, 50), "red").save(tmp_path / "red.png")
    settings = ["--max-new-tokens", "8", "--threads", "1", "--beams", "1", "--batch", "2"]
    assert main(["run", "caption", str(tmp_path), "--model", str(tiny_bundle()), *settings, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["result"]["tokens"] <= 8
    assert main(["doctor", "--model", str(tiny_bundle()), "--json"]) in (0, 1)
    checks = json.loads(capsys.readouterr().out)["checks"]
    (onnx,) = [check for check in checks if check["topic"] == "backends" and check["name"] == "onnx"]
    assert onnx["state"] == "ok"


def test_the_demo_runs_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", str(tmp_path / "out"), "--model", str(tiny_bundle())]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == len(TASKS) + 1
