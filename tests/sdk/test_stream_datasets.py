"""Streams into training data: `yolo://` and `coco://`, read back by supervision and pycocotools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from florence_edge.bundle import Bundle
from florence_edge.cli.main import main
from florence_edge.errors import BackendError, ImageError, InputError
from florence_edge.stream import Ask, Event, Frame, Run, SinkError, StreamOptions, open_sink, watch
from florence_edge.tasks import Task
from support.streams import Memory, Recording, contents, full_after, model_of, picture

COUNT = 6


def script(task: Task, given: str, brightness: float) -> str:
    """Boxes that move with the picture, new kinds of things now and then, and now and then nothing."""
    place = int((brightness + 3) * 1000) % 400
    if task.token == "<CAPTION>":
        return f"brightness {brightness:.4f}"
    if task.token == "<REFERRING_EXPRESSION_SEGMENTATION>":
        return f"<loc_{place}><loc_100><loc_{place + 200}><loc_150><loc_{place + 90}><loc_800>"
    if place % 3 == 0:
        return ""
    kind = ("cup", "red cube", "Café ☕")[place % 7 % 3]
    return f"{kind}<loc_{place}><loc_200><loc_{place + 300}><loc_700>ball<loc_5><loc_5><loc_{place + 9}><loc_500>"


def run(
    bundle: Bundle,
    uris: Sequence[str],
    tasks: Sequence[Ask | str | tuple[str, str]] = ("detect",),
    *,
    most: int | None = None,
    resume: bool = False,
) -> list[Event]:
    """Runs a stream into sinks, up to `most` events."""
    seen: list[Event] = []
    options = StreamOptions(resume=resume)
    with watch(model_of(bundle, script), Recording("cam", COUNT), tasks, sinks=uris, options=options) as events:
        for event in events:
            seen.append(event)
            if len(seen) == most:
                break
    return seen


def read_yolo(folder: Path) -> Any:
    images, labels, names = (str(folder / name) for name in ("images", "labels", "data.yaml"))
    return sv.DetectionDataset.from_yolo(images, labels, names)


def by_frame(data: Any) -> dict[int, tuple[Any, Any]]:
    """Picture (BGR) and labels of every frame; supervision lists files in no order."""
    return {int(Path(path).stem[-8:]): (image, labels) for path, image, labels in data}


def test_supervision_reads_from_both_what_was_found(bundle: Bundle, tmp_path: Path) -> None:
    events = run(bundle, [f"yolo://{tmp_path}/yolo", f"coco://{tmp_path}/coco"])
    truth = COCO(str(tmp_path / "coco" / "annotations.json"))
    coco = sv.DetectionDataset.from_coco(str(tmp_path / "coco/images"), str(tmp_path / "coco/annotations.json"))
    yolo = read_yolo(tmp_path / "yolo")
    names, found, same = yolo.classes, by_frame(yolo), by_frame(coco)
    assert len(found) == len(same) == len(truth.imgs) == COUNT
    assert {"ball", *names} >= {*coco.classes} >= {*names}
    assert sum(len(event.results["detect"]) == 0 for event in events) > 0  # pictures of nothing are kept
    for event in events:
        result = event.results["detect"].to_supervision()  # type: ignore[attr-defined]
        image, labels = found[event.frame.index]
        assert [names[number] for number in labels.class_id] == [*result.data["class_name"]]
        np.testing.assert_allclose(labels.xyxy, result.xyxy, atol=1e-3)
        np.testing.assert_allclose(same[event.frame.index][1].xyxy, result.xyxy, atol=1e-3)
        assert np.abs(image[..., ::-1].astype(int) - event.frame.image).max() < 6


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised inside pycocotools
def test_outlines_are_kept_where_they_are_asked_for(bundle: Bundle, tmp_path: Path) -> None:
    uris = [f"yolo://{tmp_path}/outlines?kind=segment", f"yolo://{tmp_path}/boxes", f"coco://{tmp_path}/coco"]
    events = run(bundle, uris, [("segment", "the cup")])
    truth = COCO(str(tmp_path / "coco" / "annotations.json"))
    outlines, boxes = by_frame(read_yolo(tmp_path / "outlines")), by_frame(read_yolo(tmp_path / "boxes"))
    for number, event in enumerate(events):
        (mask,) = event.results["segment"].to_masks()  # type: ignore[attr-defined]
        assert (outlines[number][1].mask[0] & mask).sum() > 0.8 * mask.sum()  # theirs has whole pixels for corners
        assert boxes[number][1].mask is None
        assert (truth.annToMask(truth.loadAnns([number + 1])[0]).astype(bool) & mask).sum() > 0.8 * mask.sum()


def test_classes_that_were_asked_for_come_first_and_low_scores_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    events = run(bundle, [f"yolo://{tmp_path}/all", f"coco://{tmp_path}/coco"], [("detect", "ball")])
    assert read_yolo(tmp_path / "all").classes[0] == "ball"
    assert COCO(str(tmp_path / "coco" / "annotations.json")).cats[1]["name"] == "ball"
    scores = sorted(float(score) for event in events for score in event.results["detect"].scores)
    middle = scores[len(scores) // 2]
    run(bundle, [f"yolo://{tmp_path}/some?min_score={middle}"], [("detect", "ball")])
    kept = sum(len(labels) for _, _, labels in read_yolo(tmp_path / "some"))
    assert kept == sum(score >= middle for score in scores) < len(scores)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(1, COUNT), max_size=3), lost=st.booleans())
def test_stopped_and_resumed_runs_write_what_an_unbroken_one_writes(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, stops: list[int], lost: bool
) -> None:
    folder = tmp_path_factory.mktemp("resume")

    def uris(name: str) -> list[str]:
        return [f"yolo://{folder / name}/yolo", f"coco://{folder / name}/coco?min_score=0.2"]

    tasks = [Ask("caption"), Ask("detect", every=2)]
    run(bundle, uris("whole"), tasks)
    for stop in stops:
        run(bundle, uris("broken"), tasks, most=stop, resume=True)
        if lost:  # as after a kill between two files, and within a line
            for picture in sorted((folder / "broken/yolo/images").iterdir())[-1:]:
                picture.unlink()
            os.truncate(lines := folder / "broken/coco/annotations.jsonl", max(0, lines.stat().st_size - 5))
            (folder / "broken/coco/annotations.json").unlink()
    run(bundle, uris("broken"), tasks, resume=True)
    assert contents(folder / "broken") == contents(folder / "whole")
    assert len(list((folder / "whole/yolo/images").iterdir())) == COUNT / 2  # those on which only a caption was due


def test_a_full_disk_is_told_and_the_run_can_go_on(bundle: Bundle, tmp_path: Path) -> None:
    for kind in ("yolo", "coco"):
        whole, broken = tmp_path / f"whole-{kind}", tmp_path / f"broken-{kind}"
        run(bundle, [f"{kind}://{whole}"])
        with full_after(4), pytest.raises(SinkError, match="No space left on device; what was written before is compl"):
            run(bundle, [f"{kind}://{broken}"])
        assert 0 < len(list((broken / "images").iterdir())) < COUNT
        run(bundle, [f"{kind}://{broken}"], resume=True)
        assert contents(broken) == contents(whole)


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_a_frame_that_was_not_answered_is_not_a_picture_of_nothing(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    (answered,) = run(bundle, [], most=1)
    frame = answered.frame
    sink = open_sink(f"{kind}://{tmp_path}/out")
    sink.open(Run("key", {"cam": None}, live=False, resume=False))
    sink.write(answered)
    damaged = Frame(np.zeros((0, 0, 3), np.uint8), 0, 1, "cam", error=ImageError("damaged"))
    sink.write(Event(damaged))
    failed = replace(answered, frame=replace(frame, index=2), errors={"caption": BackendError("not finite")})
    sink.write(failed)
    sink.write(replace(answered, frame=replace(frame, index=3)))
    sink.close()
    assert sorted(path.stem[-1] for path in (tmp_path / "out/images").iterdir()) == ["0", "3"]


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_a_run_without_regions_is_refused_at_its_first_frame(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    kept = Memory()
    with pytest.raises(SinkError, match="nothing to label: none of the tasks caption answers with regions"):
        list(watch(model_of(bundle), Recording("cam", 50), ["caption"], sinks=[kept, f"{kind}://{tmp_path}/out"]))
    assert len(kept.events) == 1


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_what_lies_there_is_never_mixed_with(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    run(bundle, [f"{kind}://{tmp_path}/out"])
    before = contents(tmp_path)
    with pytest.raises(SinkError, match="is not empty; go on with --resume"):
        run(bundle, [f"{kind}://{tmp_path}/out"])
    with pytest.raises(SinkError, match="holds the answers of another run"):
        run(bundle, [f"{kind}://{tmp_path}/out"], ["propose"], resume=True)
    with pytest.raises(SinkError, match="holds the answers of another run"):
        run(bundle, [f"{kind}://{tmp_path}/out?min_score=0.5"], resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("yolo://out?kind=pose", "it must be one of detect, segment, obb"),
        ("yolo://out?min_score=high", "'high'; it must be a number in 0..1"),
        ("coco://out?min_score=1.5", "min_score is 1.5; it must lie in 0..1"),
        ("coco://out?kind=segment", "unknown option kind"),
    ],
)
def test_options_are_checked(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_sink(uri)


def test_a_folder_of_photos_becomes_a_coco_file_on_the_command_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("florence_edge.model.open_backend", lambda *_, **__: model_of(bundle, script).backend)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        Image.fromarray(picture(index)).save(tmp_path / f"photos/{index}.png")
    command = ["watch", str(tmp_path / "photos"), "--task", "detect", "--model", str(bundle.folder)]
    assert main([*command, "--sink", f"coco://{tmp_path}/out"]) == 0
    capsys.readouterr()
    assert len(COCO(str(tmp_path / "out/annotations.json")).imgs) == 3
