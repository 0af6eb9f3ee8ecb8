"""Rivals on the very weights of a bundle: each must give the same token ids, in a process of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from florence_bench.contenders import KINDS, Job, Question, load
from florence_bench.errors import BenchmarkError
from florence_bench.race import Entry, make_workloads, race
from florence_bench.remote import Worker
from florence_bench.settings import RaceSettings
from florence_edge.cli.demo_scene import scene
from florence_edge.codec import Codec
from florence_edge.errors import CheckpointError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.tasks import find
from support.engines import tiny_engines

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rivals") / "scene.jpg"
    data = BytesIO()
    scene().save(data, format="JPEG", quality=90)
    path.write_bytes(data.getvalue())
    return path


def job(kind: str, scratch: Path, folder: Path | None = None) -> Job:
    engines = tiny_engines()
    given = engines.bundle.folder if kind == "florence-edge" else engines.checkpoint
    features = engines.bundle.manifest.graphs.vision.outputs[0].shape[1]
    image = engines.bundle.manifest.image
    return Job(kind, str(folder or given), image, int(features), 1, "onnx", None, str(scratch))


def question(task: str) -> Question:
    codec = Codec.open(tiny_engines().bundle)
    return Question(task, None, tuple(codec.question(find(task), None, ImageSize(640, 480)).ids.tolist()))


@pytest.mark.parametrize("kind", ["transformers", "onnx-community", "openvino"])
def test_a_rival_gives_the_ids_of_the_bundle(kind: str, picture: Path, tmp_path: Path) -> None:
    library = {"onnx-community": "onnxruntime"}.get(kind, kind)
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    image = picture.read_bytes()
    config = tiny_engines().bundle.manifest.search
    exact = replace(config, beams=1, max_new_tokens=20, min_new_tokens=20)
    settings = [exact, replace(config, beams=1, max_new_tokens=40)]
    if not KINDS[kind].split:
        settings.append(replace(exact, beams=3))
    rival = load(kind).open_contender(job(kind, tmp_path))
    ours = load("florence-edge").open_contender(job("florence-edge", tmp_path))
    questions = [question("<CAPTION>"), question("<OD>")]
    for search in settings:
        answers = ours.answer(image, questions, search)
        assert rival.answer(image, questions, search) == answers
        assert len({tuple(ids) for ids in answers}) == len(questions), "equal answers would hide a wrong prompt"
    rival.close()
    ours.close()


def test_the_split_has_a_greedy_loop_only(picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    contender = load("onnx-community").open_contender(job("onnx-community", tmp_path))
    with pytest.raises(InputError, match="greedy"):
        contender.answer(picture.read_bytes(), [question("<CAPTION>")], tiny_engines().bundle.manifest.search)


def test_a_folder_that_is_neither_checkpoint_nor_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"embed_tokens\.onnx"):
        load("onnx-community").open_contender(job("onnx-community", tmp_path, tmp_path))


def test_a_workers_fault_reaches_the_other_side(picture: Path, tmp_path: Path) -> None:
    with Worker(job("florence-edge", tmp_path, tmp_path)) as worker, pytest.raises(BenchmarkError, match="no bundle"):
        worker.opened()
    with Worker(job("florence-edge", tmp_path)) as worker:
        assert worker.opened() > 0
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(BenchmarkError, match="ended with code -9"):
            worker.ask(picture, [question("<CAPTION>")], tiny_engines().bundle.manifest.search)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "transformers-compile", "onnx-community", "openvino"])
def test_a_rival_can_be_raced(kind: str, picture: Path, tmp_path: Path) -> None:
    config = tiny_engines().bundle.manifest.search
    beams = 1 if KINDS[kind].split else 3
    entries = [Entry(name, job(name, tmp_path), beams) for name in ("florence-edge", kind)]
    workloads = make_workloads(picture, question("<CAPTION>"), [question("<OD>"), question("<OCR>")], 12, config)
    found = race(entries, workloads, RaceSettings(rounds=2))
    (duel,) = found.duels
    assert duel.identical == {"answer": True, "first": True, "tasks": True}
    assert duel.memory > 0
    assert {"answer", "first", "tasks", "cold start"} <= duel.ratios.keys()
