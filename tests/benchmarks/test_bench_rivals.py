"""Rivals on the very weights of a bundle: each must give the same token ids, in a process of its own.

Whatever goes wrong with one of them, the others finish the race.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from florence_bench.contenders import KINDS, Job, Question, load
from florence_bench.errors import BenchmarkError
from florence_bench.race import line_up, make_workloads, race
from florence_bench.remote import Worker
from florence_bench.settings import RaceSettings, Rival
from florence_bench.standings import Entry
from florence_edge.codec import Codec
from florence_edge.drawing.scene import scene
from florence_edge.errors import CheckpointError, InputError
from florence_edge.geometry import ImageSize
from florence_edge.tasks import find
from support.engines import tiny_engines

pytest.importorskip("transformers")

PATIENCE = 300.0


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
    image, vocabulary = engines.bundle.manifest.image, engines.config.text.vocab_size
    return Job(kind, str(folder or given), image, int(features), vocabulary, (), 1, "onnx", None, str(scratch))


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


@pytest.fixture(scope="module")
def tempting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, with rows of no token that would win wherever the likeliest token of an answer does."""
    engines = tiny_engines()
    folder = tmp_path_factory.mktemp("tempting") / "checkpoint"
    shutil.copytree(engines.checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    real = engines.config.text.vocab_size
    for name, tensor in tensors.items():
        if tensor.shape[0] > real:
            spare = tensor.shape[0] - real
            tensors[name] = torch.cat([tensor[:real], 1.5 * tensor[4 : 4 + spare]])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("kind", "beams"), [("transformers", 1), ("transformers", 3), ("onnx-community", 1)])
def test_ids_of_no_token_are_barred(kind: str, beams: int, tempting: Path, picture: Path, tmp_path: Path) -> None:
    exact = replace(tiny_engines().bundle.manifest.search, beams=beams, max_new_tokens=20, min_new_tokens=20)
    image, questions = picture.read_bytes(), [question("<CAPTION>"), question("<OD>")]
    ours = load("florence-edge").open_contender(job("florence-edge", tmp_path)).answer(image, questions, exact)
    given = job(kind, tmp_path, tempting)
    assert load(kind).open_contender(given).answer(image, questions, exact) == ours
    unbarred = load(kind).open_contender(replace(given, vocabulary=10**6)).answer(image, questions, exact)
    assert max(map(max, unbarred)) >= given.vocabulary, "nothing was there to be barred"


@pytest.mark.parametrize("kind", ["transformers", "onnx-community"])
def test_unused_ids_inside_the_vocabulary_are_barred(kind: str, picture: Path, tmp_path: Path) -> None:
    search = replace(tiny_engines().bundle.manifest.search, beams=1, max_new_tokens=12, min_new_tokens=12)
    image, questions = picture.read_bytes(), [question("<CAPTION>")]
    (free,) = load(kind).open_contender(job(kind, tmp_path)).answer(image, questions, search)
    barred = tuple({*free} - {0, 1, 2})
    (found,) = load(kind).open_contender(replace(job(kind, tmp_path), unused=barred)).answer(image, questions, search)
    assert barred
    assert not {*barred} & {*found}


def test_the_split_has_a_greedy_loop_only(picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    contender = load("onnx-community").open_contender(job("onnx-community", tmp_path))
    with pytest.raises(InputError, match="greedy"):
        contender.answer(picture.read_bytes(), [question("<CAPTION>")], tiny_engines().bundle.manifest.search)


def test_a_folder_that_is_neither_checkpoint_nor_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"embed_tokens\.onnx"):
        load("onnx-community").open_contender(job("onnx-community", tmp_path, tmp_path))


def test_a_workers_fault_reaches_the_other_side(picture: Path, tmp_path: Path) -> None:
    with (
        Worker(job("florence-edge", tmp_path, tmp_path), PATIENCE) as worker,
        pytest.raises(BenchmarkError, match="no bundle"),
    ):
        worker.opened()
    with Worker(job("florence-edge", tmp_path), PATIENCE) as worker:
        assert worker.opened() > 0
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(BenchmarkError, match="ended with code -9"):
            worker.ask(picture, [question("<CAPTION>")], tiny_engines().bundle.manifest.search)


def test_a_contender_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Worker(job("florence-edge", tmp_path), 0.001) as worker:
        with pytest.raises(BenchmarkError, match=r"longer than 0\.001 s"):
            worker.opened()
        assert worker._process.poll() is not None


def test_rivals_without_beams_are_raced_greedily(tmp_path: Path) -> None:
    rivals = [
        Rival("florence-edge", "a"),
        Rival("florence-edge", "b"),
        Rival("openvino", "c"),
        Rival("transformers", "c"),
    ]
    line = line_up(rivals, 3, lambda rival: job(rival.kind, tmp_path, Path(rival.folder)))
    assert [(entry.job.folder, entry.beams) for entry in line] == [
        *(("a", 3), ("a", 1)),
        *(("b", 3), ("b", 1)),
        ("c", 1),
        ("c", 3),
    ]
    assert len({entry.name for entry in line}) == len(line)
    assert [entry.beams for entry in line_up(rivals, 1, lambda rival: job(rival.kind, tmp_path))] == [1, 1, 1, 1]


def test_contenders_that_fail_are_left_out_and_the_others_finish(
    monkeypatch: pytest.MonkeyPatch, picture: Path, tmp_path: Path
) -> None:
    config = tiny_engines().bundle.manifest.search
    workloads = make_workloads(picture, question("<CAPTION>"), [question("<OD>")], 8, config)
    ours, other, dying = (Entry(name, job("florence-edge", tmp_path), 3) for name in ("ours", "other", "dying"))
    absent = Entry("absent", job("transformers", tmp_path, tmp_path / "nowhere"), 3)
    asked = Worker.ask
    answers = dict[int, int]()

    def ask(worker: Worker, *arguments: Any) -> Any:
        answers[id(worker)] = answers.get(id(worker), 0) + 1
        if worker.job is dying.job and answers[id(worker)] == 6:  # in the second of the workloads of round one
            worker._process.kill()
        return asked(worker, *arguments)

    monkeypatch.setattr(Worker, "ask", ask)
    found = race([ours, absent, dying, other], workloads, RaceSettings(rounds=2))
    assert [finish.name for finish in found.finishes] == ["ours", "other"]
    assert [len(finish.times_ms[name].samples) for finish in found.finishes for name in finish.times_ms] == [2] * 6
    assert [failure.name for failure in found.failures] == ["absent", "dying"]
    assert "nowhere" in found.failures[0].reason
    assert "ended with code -9" in found.failures[1].reason
    assert all(str(tmp_path) not in failure.reason for failure in found.failures)


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
