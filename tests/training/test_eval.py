"""Evaluation end to end with scripted models, and the command."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.grammar import format_answer, prompt_for
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.preprocess import ImageSpec
from florence_edge.results import Text
from florence_edge.tasks import TASKS, Task, find
from florence_train import cli
from florence_train.data import Dataset, Record, load, tabletop
from florence_train.evaluate import EvalOptions, Report, evaluate
from florence_train.evaluate.asked import SCENES, Asked
from florence_train.evaluate.run import answered, measured
from florence_train.examples import Example, Given
from florence_train.tabletop import TabletopConfig
from support.bundles import ROOT
from support.fake_backend import ANSWERS, FakeBackend, make_bundle

CONFIG = TabletopConfig(height=96, width=96, supersample=1)
LONG = SearchOptions(max_new_tokens=1000)  # the tokenizer writes single letters
QUICK = EvalOptions(resamples=20, worst=2, search=LONG)
Answering = Callable[[Task, str], str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("eval") / "bundle", prompt_tokens=400, new_tokens=1000, side=96)


@pytest.fixture(scope="module")
def scenes() -> list[Record]:
    return list(tabletop("val", 12, config=CONFIG, per_task=2))


def oracle(bundle: Bundle, records: Sequence[Record], spoil: Answering | None = None) -> Florence:
    """A model that knows the answers, told apart by the prompt and the picture; `spoil` may change one."""
    from florence_edge.preprocess import to_pixels

    known: dict[tuple[float, str], str] = {}
    for record in records:
        brightness = float(to_pixels(record.picture.load(), bundle.manifest.image).mean(dtype=np.float32))
        for example in record.examples:
            task = find(example.task)
            answer = format_answer(task, example.target)
            known[brightness, prompt_for(task, example.input, record.size)] = answer

    def script(task: Task, given: str, brightness: float) -> str:
        nearest = min((value for value, _ in known), key=lambda value: abs(value - brightness))
        answer = known[nearest, task.prompt.replace("{input}", given)]
        return spoil(task, answer) if spoil else answer

    return Florence(bundle, FakeBackend(bundle, script))


def report_of(bundle: Bundle, scenes: Sequence[Record], spoil: Answering | None = None) -> Report:
    with oracle(bundle, scenes, spoil) as model:
        return evaluate(model, scenes, options=QUICK, name="scenes")


PERFECT = {
    ("<OD>", "mAP50"): 1.0,
    ("<OCR>", "CER"): 0.0,
    ("<OCR_WITH_REGION>", "line and text F1"): 1.0,
    ("<DENSE_REGION_CAPTION>", "AP50"): 1.0,
    ("<REGION_PROPOSAL>", "AP50"): 1.0,
    ("<CAPTION_TO_PHRASE_GROUNDING>", "R@1"): 1.0,
    ("<OPEN_VOCABULARY_DETECTION>", "AP50"): 1.0,
    ("<REGION_TO_CATEGORY>", "accuracy"): 1.0,
    ("<REGION_TO_DESCRIPTION>", "exact match"): 1.0,
    ("<REGION_TO_OCR>", "exact match"): 1.0,
    ("<REGION_TO_OCR>", "CER"): 0.0,
    ("<MORE_DETAILED_CAPTION>", "ROUGE-L"): 1.0,
    ("<CAPTION>", "exact match"): 1.0,
}


def test_a_model_that_knows_the_truth_is_perfect(bundle: Bundle, scenes: list[Record]) -> None:
    report = report_of(bundle, scenes)
    assert list(dict.fromkeys(metric.task for metric in report.metrics)) == [task.token for task in TASKS]
    assert not report.failures
    asked_of = ((r.name, e.task, prompt_for(find(e.task), e.input, r.size)) for r in scenes for e in r.examples)
    assert report.questions == len(set(asked_of))
    for (task, name), value in PERFECT.items():
        metric = report.metric(task, name)
        assert metric.value == pytest.approx(value, abs=1e-9), (task, name)
        assert metric.low == metric.high == pytest.approx(value, abs=1e-9)
    # Polygons and boxes went through 1,000 bins of a small picture.
    assert (report.metric("<REFERRING_EXPRESSION_SEGMENTATION>", "mIoU").value or 0) > 0.95
    assert (report.metric("<OD>", "mAP").value or 0) > 0.98
    assert (report.metric("<REGION_PROPOSAL>", "AR").value or 0) > 0.98
    assert all(case.quality < 1 for case in report.worst)


def test_wrong_answers_are_counted_by_hand(bundle: Bundle, scenes: list[Record]) -> None:
    total, turn = 0, {"<REGION_TO_CATEGORY>": 0}

    def spoil(task: Task, answer: str) -> str:
        nonlocal total
        if task.token in turn:
            total += 1
            return "nonsense" if total % 3 == 0 else answer
        return "" if task.token == "<OD>" else answer

    report = report_of(bundle, scenes, spoil)
    accuracy = report.metric("<REGION_TO_CATEGORY>", "accuracy")
    assert accuracy.count == total
    assert accuracy.value == pytest.approx((total - total // 3) / total)
    assert None not in (accuracy.low, accuracy.high)
    assert (accuracy.low or 0) < 1 - (total // 3) / total < (accuracy.high or 0)
    assert report.metric("<OD>", "mAP").value == 0.0
    worst = [case for case in report.worst if case.task == "<REGION_TO_CATEGORY>"]
    assert len(worst) == 2
    assert {case.found for case in worst} == {"nonsense"}


def test_the_report_is_strict_json_and_a_page(bundle: Bundle, scenes: list[Record], tmp_path: Path) -> None:
    with oracle(bundle, scenes, lambda task, answer: "a cup" if task.method == "caption" else answer) as model:
        report = evaluate(model, scenes, options=QUICK, name="scenes", gallery=tmp_path / "worst")
    values = json.loads(report.to_json())
    assert len(values["metrics"]) == len(report.metrics)
    page = report.to_markdown()
    assert "| `<OD>` | mAP50 | 100.0 | 100.0 to 100.0 |" in page
    assert "COCO val2017 mAP" in page
    assert "RefCOCO RES mIoU" in page
    assert {metric.name for metric in report.metrics if metric.better == "lower"} == {"CER", "ECE", "ECE at IoU 0.5"}
    assert values["settings"]["search"]["max_new_tokens"] == 1000
    assert values["settings"]["search"]["beams"] == bundle.manifest.search.beams
    files = [case.file for case in report.worst if case.file]
    assert len(files) >= 6
    for file in files:
        assert f"({file})" in page
        assert Image.open(tmp_path / file).width > 640


def test_all_questions_about_an_image_share_its_encoding(bundle: Bundle, scenes: list[Record]) -> None:
    with oracle(bundle, scenes) as model:
        evaluate(model, scenes, options=EvalOptions(resamples=0, batch_size=4, worst=0, search=LONG))
        backend = model.backend
        assert isinstance(backend, FakeBackend)
        assert sum(backend.encoded) == len(scenes)
        report = evaluate(model, scenes, options=EvalOptions(resamples=0, tasks=("detect", "<CAPTION>"), limit=3))
    assert report.images == 3
    assert {metric.task for metric in report.metrics} == {"<OD>", "<CAPTION>"}
    assert report.metrics[0].low is None


def test_a_question_without_an_answer_counts_as_wrong_and_is_listed(bundle: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (96, 96), "white").save(tmp_path / "a.jpg")
    rows = [
        {"image": "a.jpg", "prefix": "<REGION_TO_CATEGORY><loc_1><loc_1><loc_9><loc_9>", "suffix": "cube"},
        {"image": "cut.jpg", "prefix": "<REGION_TO_CATEGORY><loc_1><loc_1><loc_9><loc_9>", "suffix": "cube"},
        {
            "image": "a.jpg",
            "prefix": "<CAPTION_TO_PHRASE_GROUNDING>" + "a cube " * 300,
            "suffix": "a cube<loc_1><loc_1><loc_9><loc_9>",
        },
    ]
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with Florence(bundle, FakeBackend(bundle)) as model:
        report = evaluate(model, load(tmp_path / "val.jsonl", check="header"), options=QUICK)
    assert report.metric("<REGION_TO_CATEGORY>", "accuracy").value == 0.5
    assert report.metric("<CAPTION_TO_PHRASE_GROUNDING>", "R@1").value == 0.0
    assert [line.split(":")[0] for line in report.failures] == ["a.jpg", "cut.jpg"]


class Counted:
    """A white picture that counts how often it is read."""

    def __init__(self) -> None:
        self.read = 0

    def load(self) -> Image.Image:
        self.read += 1
        return Image.new("RGB", (96, 96), "white")


def said(task: str, words: str, given: Given = None) -> Example:
    return Example(task, given, Text(task, ImageSize(96, 96), np.full(1, np.nan, np.float32), text=words))


def test_pictures_are_read_once_and_a_question_has_all_its_right_answers(bundle: Bundle) -> None:
    prompt = find("<CAPTION>").prompt
    captions = said("<CAPTION>", ANSWERS["<CAPTION>"]), said("<CAPTION>", "a ball"), said("<ASK>", "no", prompt)
    examples = ((said("<OCR>", "OPEN"),), captions, captions, captions, captions)
    pictures, seen = [Counted() for _ in examples], list[None]()
    records = [Record("white", picture, ImageSize(96, 96), of) for picture, of in zip(pictures, examples, strict=True)]
    options = EvalOptions(tasks=("<CAPTION>", "ask"), limit=3, batch_size=2, resamples=0, worst=0, search=LONG)
    backend = FakeBackend(bundle)
    with Florence(bundle, backend) as model:
        report = evaluate(model, records, options=options, on_image=lambda: seen.append(None))
    assert [picture.read for picture in pictures] == [0, 1, 1, 1, 0]
    assert (len(seen), backend.encoded) == (3, [2, 1])
    found = [report.metric(task, "exact match") for task in ("<CAPTION>", "<ASK>")]
    assert [(metric.value, metric.count) for metric in found] == [(1.0, 3), (0.0, 3)]


def test_intervals_are_over_images_and_drawn_as_asked(bundle: Bundle) -> None:
    """Three images with all right and three with none: of six draws, the right ones follow a binomial law."""
    boxes = [(10.0 * place, 10.0, 10.0 * place + 9, 40.0) for place in range(4)]
    records = [
        Record(name, Counted(), ImageSize(96, 96), tuple(said("<REGION_TO_CATEGORY>", name, given) for given in boxes))
        for name in ("cube", "cube", "cube", "ball", "ball", "ball")
    ]
    with Florence(bundle, FakeBackend(bundle)) as model:
        answers = answered(model, records, options=EvalOptions(search=LONG))

    def bounds(**options: float) -> tuple[float | None, float | None]:
        (section,) = measured(answers, EvalOptions(**options))  # type: ignore[arg-type]  # numbers of both kinds
        return section.metrics[0].low, section.metrics[0].high

    for confidence in (0.95, 0.5):
        expected = [binom.ppf(share, 6, 0.5) / 6 for share in ((1 - confidence) / 2, (1 + confidence) / 2)]
        assert bounds(confidence=confidence) == pytest.approx(tuple(expected))
    few = [bounds(resamples=10, seed=seed) for seed in (1, 1, 2, 3)]
    assert few[0] == few[1]
    assert len(set(few)) > 1


def test_options_that_cannot_be_are_all_listed() -> None:
    with pytest.raises(InputError) as caught:
        EvalOptions(limit=0, batch_size=0, resamples=-1, confidence=1, worst=-1)
    for word in ("limit is 0", "batch_size is 0", "resamples is -1", "confidence is 1", "worst is -1"):
        assert word in str(caught.value)
    with pytest.raises(InputError, match="confidence is 0"):
        EvalOptions(confidence=0)


def test_nothing_to_ask_is_an_error(bundle: Bundle, scenes: list[Record]) -> None:
    with Florence(bundle, FakeBackend(bundle)) as model, pytest.raises(InputError, match="asks nothing"):
        evaluate(model, scenes, options=EvalOptions(tasks=("ask",)))


def test_data_is_scenes_of_the_models_size_or_a_file_up_to_a_limit(tmp_path: Path) -> None:
    spec = ImageSpec(height=64, width=96)
    rendered, count = Asked("tabletop:val", limit=2).records(spec)
    assert not isinstance(rendered, Dataset)
    assert [record.size for record in rendered] == [ImageSize(width=96, height=64)] * 2
    assert (count, Asked("tabletop").records(spec)[1]) == (2, SCENES)
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = [{"image": f"{name}.png", "prefix": "<CAPTION>", "suffix": "a cube"} for name in "abc"]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = str(tmp_path / "val.jsonl")
    assert [Asked(data, limit=limit).records(spec)[1] for limit in (None, 2, 5)] == [3, 2, 3]


@pytest.fixture
def command(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def load_fake(name: str, **_: object) -> Florence:
        return Florence(bundle, FakeBackend(bundle))

    monkeypatch.setattr(Florence, "load", load_fake)

    def run(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        cli.register(parser.add_subparsers())
        options = parser.parse_args(arguments)
        code: int = options.run(options)
        return code

    return run


def test_the_command_measures_scenes_and_writes_a_report(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("eval", "tabletop:test", "--limit", "3", "--resamples", "10", "--worst", "1", "--out", str(out))
    assert command(*arguments) == 0
    text = capsys.readouterr().out
    assert "tabletop:test: 3 images" in text
    assert "COCO caption CIDEr" in text
    values = json.loads((out / "report.json").read_text())
    assert values["images"] == 3
    assert (out / "report.md").read_text().startswith("# Evaluation on tabletop:test")
    assert len(list((out / "worst").glob("*.png"))) >= 10
    with pytest.raises(InputError, match="exists"):
        command(*arguments)


def test_the_command_prints_json_and_refuses_or_skips_bad_data(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    rows = [
        {"image": "a.png", "prefix": "<REGION_TO_CATEGORY><loc_1><loc_1><loc_9><loc_9>", "suffix": "cube"},
        {"image": "a.png", "prefix": "<OD>", "suffix": ""},
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = str(tmp_path / "val.jsonl")
    with pytest.raises(InputError, match="line 2: the suffix is empty"):
        command("eval", data, "--json")
    assert command("eval", data, "--json", "--skip-faults", "--resamples", "5") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metrics"][0]["value"] == 1.0
    assert len(report["faults"]) == 1
    assert command("validate", data) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["<REGION_TO_CATEGORY>  1", "images                1", "faults                1"]
    assert lines[3].endswith("val.jsonl: line 2: the suffix is empty")
    assert command("validate", data, "--task", "classify_region", "--json") == 1
    assert json.loads(capsys.readouterr().out)["examples"] == {"<REGION_TO_CATEGORY>": 1}


def test_neither_registering_nor_evaluating_needs_torch() -> None:
    code = (
        "import argparse, sys; from florence_train import cli; "
        "cli.register(argparse.ArgumentParser().add_subparsers()); "
        "light = {'torch', 'numpy', 'florence_train.data'} & set(sys.modules); "
        "import florence_train.evaluate, florence_train.data; "
        "print(sorted(light), 'torch' in sys.modules, 'cv2' in sys.modules)"
    )
    path = {"PYTHONPATH": f"{ROOT / 'sdk'}:{ROOT / 'training'}"}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False False"
