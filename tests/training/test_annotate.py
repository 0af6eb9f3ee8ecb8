from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import Float32Array
from florence_edge.model import Florence
from florence_edge.stream import SinkError
from florence_edge.tasks import TASKS, Task
from florence_train.annotate.filters import read_filters
from florence_train.annotate.plan import Plan
from florence_train.annotate.run import annotate, label
from florence_train.annotate.selecting import restore
from florence_train.data import load, write_shards
from florence_train.data.record import tasks_of
from support.fake_backend import FakeBackend, FakeFeatures, make_bundle
from support.streams import write_video

ALL = [task.token for task in TASKS if task.token != "<OPEN_VOCABULARY_DETECTION>"]
EVERYTHING = [*ALL, ("<OPEN_VOCABULARY_DETECTION>", ["red cube", "ball"])]
FILTERS = read_filters(["finished", "nms=0.5"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("annotate") / "bundle")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(np.full((40, 60, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_task_becomes_training_data_that_holds_and_every_image_is_encoded_once(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    engine = FakeBackend(bundle)
    report = annotate(
        Florence(bundle, engine), str(pictures), out=tmp_path / "out", plan=Plan.of(EVERYTHING), filters=FILTERS
    )
    assert engine.encoded == [1] * 5
    data = load(tmp_path / "out" / "train.jsonl")
    assert (len(data), data.faults) == (5, ())
    assert set(tasks_of(data.records)) == {task.token for task in TASKS}
    turns = lines(tmp_path / "out" / "train.jsonl")
    assert len(turns) == report.turns == sum(task["answers"]["kept"] for task in report.tasks.values())
    assert all(0 < score < 1 for turn in turns for score in turn["scores"])
    regions = [turn["prefix"] for turn in turns if turn["prefix"].startswith("<REGION_TO_CATEGORY>")]
    assert regions[:2] == [
        "<REGION_TO_CATEGORY><loc_100><loc_200><loc_300><loc_400>",
        "<REGION_TO_CATEGORY><loc_500><loc_500><loc_700><loc_700>",
    ]
    assert "<CAPTION_TO_PHRASE_GROUNDING>a red cube left of a blue ball, on a wooden table" in {
        turn["prefix"] for turn in turns
    }


def test_what_is_kept_of_an_answer_is_the_answer(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    model = Florence(bundle, FakeBackend(bundle))
    annotate(model, str(pictures), out=tmp_path / "out", plan=Plan.of(EVERYTHING))
    for line in lines(tmp_path / "out" / "answers.jsonl"):
        for answered in restore(line):
            direct = model.run(answered.task.token, pictures / line["name"], answered.given)
            ours, theirs = answered.result.to_dict(), direct.to_dict()
            ours["timings_ms"] = theirs["timings_ms"] = {}
            assert ours == theirs


def test_counts_add_up_and_other_filters_need_no_model(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plan, engine = Plan.of(["detect", "classify_region", "caption"]), FakeBackend(bundle)
    model, out = Florence(bundle, engine), tmp_path / "out"
    first = annotate(model, str(pictures), out=out, plan=plan)
    least = lines(out / "train.jsonl")[1]["scores"][0]
    strict = read_filters([f"confidence={least}@detect"])
    second = annotate(model, str(pictures), out=out, plan=plan, filters=strict)
    assert engine.encoded == [1] * 5
    assert first.turns == 5 * 4
    assert second.tasks["<OD>"]["removed"] == {
        "nothing found": 0,
        f"confidence={least}@detect": 5,
        "input removed": 0,
        "not writable": 0,
    }
    assert second.tasks["<REGION_TO_CATEGORY>"]["removed"]["input removed"] == 5
    for task in second.tasks.values():
        assert task["items"]["asked"] - sum(task["removed"].values()) == task["items"]["kept"]
        assert sum(task["histograms"]["score"]["asked"]) == task["items"]["asked"]
    assert second.to_dict() == label(out, plan, filters=strict).to_dict()
    written = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert written["turns"] == second.turns == len(lines(out / "train.jsonl"))
    assert "| `<OD>` | 10 | 0 | 5 | 0 | 0 | 5 |" in (out / "report.md").read_text(encoding="utf-8")


def test_a_killed_run_goes_on_without_loss_or_repeat(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plan = Plan.of(["caption", "detect"])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    annotate(Florence(bundle, FakeBackend(bundle)), str(pictures), out=whole, plan=plan)
    annotate(Florence(bundle, FakeBackend(bundle)), str(pictures), out=broken, plan=plan)
    answers = (broken / "answers.jsonl").read_bytes()
    ends = [place + 1 for place, byte in enumerate(answers) if byte == ord("\n")]
    for cut, missing in ((0, 5), (ends[1], 3), (ends[1] + 10, 3), (ends[3] - 1, 2), (len(answers), 0)):
        (broken / "answers.jsonl").write_bytes(answers[:cut])
        engine = FakeBackend(bundle)
        annotate(Florence(bundle, engine), str(pictures), out=broken, plan=plan)
        assert len(engine.encoded) == missing
        for name in ("answers.jsonl", "train.jsonl", "report.json"):
            assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_answers_of_another_run_are_not_mixed_in(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    model = Florence(bundle, FakeBackend(bundle))
    annotate(model, str(pictures), out=tmp_path / "out", plan=Plan.of(["caption"]))
    with pytest.raises(SinkError, match="another run"):
        annotate(model, str(pictures), out=tmp_path / "out", plan=Plan.of(["caption", "detect"]))


def test_damaged_images_are_told_and_cost_no_more_than_themselves(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "2.png").write_bytes(b"no image")
    report = annotate(
        Florence(bundle, FakeBackend(bundle)), str(pictures), out=tmp_path / "out", plan=Plan.of(["caption"])
    )
    assert (report.images, report.labelled, len(report.faults)) == (5, 4, 1)
    assert "2.png" in report.faults[0]
    assert len(load(tmp_path / "out" / "train.jsonl")) == 4


def test_an_engine_that_does_not_recover_ends_the_run(bundle: Bundle, tmp_path: Path) -> None:
    class Broken(FakeBackend):
        def encode_image(self, pixels: Float32Array) -> FakeFeatures:
            raise BackendError("out of memory")

    (tmp_path / "many").mkdir()
    for number in range(12):
        Image.new("RGB", (8, 8)).save(tmp_path / "many" / f"{number:02d}.png")
    with pytest.raises(BackendError, match="10 images in a row"):
        annotate(
            Florence(bundle, Broken(bundle)), str(tmp_path / "many"), out=tmp_path / "out", plan=Plan.of(["caption"])
        )
    assert len(lines(tmp_path / "out" / "answers.jsonl")) == 9


def test_shards_and_videos_leave_pictures_that_training_can_read(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    plan, model = Plan.of(["caption"]), Florence(bundle, FakeBackend(bundle))
    annotate(model, str(pictures), out=tmp_path / "files", plan=plan)
    write_shards(load(tmp_path / "files" / "train.jsonl").records, tmp_path / "shards", per_shard=2)
    for name, source in (
        ("tar", str(tmp_path / "shards" / "*.tar")),
        ("avi", str(write_video(tmp_path / "clip.avi", 3))),
    ):
        report = annotate(model, source, out=tmp_path / name, plan=plan)
        data = load(tmp_path / name / "train.jsonl")
        assert len(data) == report.images == (5 if name == "tar" else 3)
        assert all(line["image"].startswith("images/") for line in lines(tmp_path / name / "train.jsonl"))
    originals = [np.array(record.picture.load()) for record in load(tmp_path / "files" / "train.jsonl").records]
    copies = [np.array(record.picture.load()) for record in load(tmp_path / "tar" / "train.jsonl").records]
    np.testing.assert_array_equal(copies, originals)


def test_cameras_and_missing_shards_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    model = Florence(bundle, FakeBackend(bundle))
    with pytest.raises(InputError, match="no shard matches"):
        annotate(model, str(tmp_path / "*.tar"), out=tmp_path / "out", plan=Plan.of(["caption"]))
    with pytest.raises(InputError, match="is a camera"):
        annotate(model, "v4l2://0", out=tmp_path / "out", plan=Plan.of(["caption"]))


def test_answers_no_file_can_hold_are_left_out(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    def script(task: Task, given: str, light: float) -> str:
        return "" if task.token == "<CAPTION>" else "cube<loc_100><loc_200><loc_300>"

    model = Florence(bundle, FakeBackend(bundle, script))
    report = annotate(model, str(pictures), out=tmp_path / "out", plan=Plan.of(["caption", "detect"]))
    assert (report.turns, report.tasks["<CAPTION>"]["removed"]["nothing found"]) == (0, 5)
    assert (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["classify_region"], "ask one of <OD>"),
        (["ground"], "ask one of <DETAILED_CAPTION>"),
        (["<OPEN_VOCABULARY_DETECTION>"], "give it one"),
        (["caption", "<CAPTION>"], "given twice"),
        ([("caption", "text")], "takes no input"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(tasks: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.of(tasks)


def test_inputs_of_ones_own_are_asked_as_they_are(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plan = Plan.of([("ground", "a red cube"), ("classify_region", (0, 0, 30, 20)), ("detect", "cup")])
    annotate(Florence(bundle, FakeBackend(bundle)), str(pictures), out=tmp_path / "out", plan=plan)
    prefixes = {line["prefix"] for line in lines(tmp_path / "out" / "train.jsonl")}
    assert prefixes == {
        "<CAPTION_TO_PHRASE_GROUNDING>a red cube",
        "<REGION_TO_CATEGORY><loc_0><loc_0><loc_500><loc_500>",
        "<OPEN_VOCABULARY_DETECTION>cup",
    }


def test_inputs_that_do_not_fit_cost_their_own_question_only(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    def script(task: Task, given: str, light: float) -> str:
        return " " if task.token == "<DETAILED_CAPTION>" else "a cube"

    plan = Plan.of([("classify_region", (0, 0, 500, 20)), "caption", "<DETAILED_CAPTION>", "ground"])
    report = annotate(Florence(bundle, FakeBackend(bundle, script)), str(pictures), out=tmp_path / "out", plan=plan)
    assert (report.turns, len(report.faults)) == (5, 5)
    assert "x leaves the image" in report.faults[0]


def test_no_more_inputs_are_taken_from_an_image_than_allowed(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plan = Plan.of(["detect", "classify_region"], most=1)
    report = annotate(Florence(bundle, FakeBackend(bundle)), str(pictures), out=tmp_path / "out", plan=plan)
    assert report.tasks["<REGION_TO_CATEGORY>"]["answers"]["asked"] == 5
