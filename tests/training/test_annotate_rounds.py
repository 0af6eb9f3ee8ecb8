"""Merging labels, going rounds, the commands, Ray."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.cli import TERMINATED
from florence_edge.cli.main import main
from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.options import SearchOptions
from florence_train.annotate.cluster import Opening, annotate_on_ray
from florence_train.annotate.iterate import Labelling, Round, iterate
from florence_train.annotate.merge import merge
from florence_train.annotate.model import open_checkpoint, open_model
from florence_train.annotate.noise import Noise, corrupt
from florence_train.annotate.plan import Plan
from florence_train.annotate.run import annotate
from florence_train.data import load, write_shards
from florence_train.data.truths import Region
from florence_train.evaluate import EvalOptions, evaluate
from florence_train.loop.interrupt import stop_requested
from florence_train.recipe import DataRecipe, OptimizerRecipe, OutputRecipe, Recipe
from florence_train.tiny import write_tiny_checkpoint

SHORT = SearchOptions(beams=1, max_new_tokens=12)
PLAN = Plan.of(["caption", "detect", "propose"], search=SHORT)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("rounds") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def write(path: Path, *turns: tuple[str, str, str], **more: Any) -> Path:
    rows = [{"image": image, "prefix": prefix, "suffix": suffix, **more} for image, prefix, suffix in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_people_win_and_every_turn_says_whose_it_is(pictures: Path, tmp_path: Path) -> None:
    box = "<loc_1><loc_2><loc_300><loc_400>"
    clean = write(
        pictures / "clean.jsonl", ("0.png", "<OD>", f"cube{box}"), ("1.png", "<CAPTION>", "a ball"), source="anna"
    )
    (tmp_path / "labels").mkdir()
    machine = write(
        tmp_path / "labels" / "train.jsonl",
        (str(pictures / "0.png"), "<OD>", f"cone{box}"),
        ("../pictures/0.png", "<CAPTION>", "a cone"),
        ("../pictures/1.png", "Locate the objects with category name in the image.", f"cone{box}"),
        ("../pictures/1.png", "<CAPTION>", "a cone"),
        run="77",
    )
    found = merge(clean, machine, out=tmp_path / "merged.jsonl")
    assert (found.clean, found.machine, found.superseded) == (2, 2, 2)
    assert read(tmp_path / "merged.jsonl") == [
        {"image": "pictures/0.png", "prefix": "<OD>", "suffix": f"cube{box}", "source": "anna", "origin": "clean"},
        {"image": "pictures/1.png", "prefix": "<CAPTION>", "suffix": "a ball", "source": "anna", "origin": "clean"},
        {"image": "pictures/0.png", "prefix": "<CAPTION>", "suffix": "a cone", "run": "77", "origin": "machine"},
        {
            "image": "pictures/1.png",
            "prefix": "Locate the objects with category name in the image.",
            "suffix": f"cone{box}",
            "run": "77",
            "origin": "machine",
        },
    ]
    assert load(tmp_path / "merged.jsonl").faults == ()


def test_every_line_that_cannot_be_merged_is_told(pictures: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean.jsonl"
    clean.write_text('{"image": 1}\nno json\n\n{"image": "a.png", "prefix": "<NO>", "suffix": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)line 1.*line 2.*line 4.*none.jsonl cannot be read"):
        merge(clean, tmp_path / "none.jsonl", out=tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()


def test_noise_does_what_it_says_as_often_as_it_says() -> None:
    size, names = ImageSize(200, 100), ["a", "b", "c"]
    regions = [Region("", "a", np.array([50, 20, 90, 60], np.float32))] * 4000
    noise = Noise(drop=0.25, rename=0.5, shift=0.4, reach=0.3)
    seen = corrupt(regions, noise, names=names, size=size, rng=np.random.default_rng(0))
    assert len(seen) / 4000 == pytest.approx(0.75, abs=0.03)
    assert sum(region.label != "a" for region in seen) / len(seen) == pytest.approx(0.5, abs=0.03)
    moves = np.array([region.box - regions[0].box for region in seen])
    assert (np.abs(moves).max(axis=1) > 0).mean() == pytest.approx(0.4, abs=0.03)
    assert np.abs(moves).max() <= 0.3 * 40
    same = corrupt(regions[:5], Noise(0, 0, 0), names=names, size=size, rng=np.random.default_rng(0))
    assert same == regions[:5]
    with pytest.raises(InputError, match="drop is 2"):
        Noise(drop=2)


def test_a_checkpoint_answers_without_being_converted(checkpoint: Path, pictures: Path) -> None:
    with open_model(checkpoint) as model, open_checkpoint(checkpoint) as again:
        results = [one.run("<CAPTION>", pictures / "0.png", search=SHORT).to_dict() for one in (model, again)]
        assert model.info()["identity"] == again.info()["identity"]
    for result in results:
        del result["timings_ms"]
    assert results[0] == results[1]


def test_a_round_labels_merges_trains_and_measures_and_is_not_done_twice(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    clean = write(pictures / "clean.jsonl", ("0.png", "<CAPTION>", "a red cube"))
    recipe = Recipe(
        start=str(checkpoint),
        data=DataRecipe(weights={"<CAPTION>": 1.0}, images_per_step=1, workers=0),
        optimizer=OptimizerRecipe(steps=2, warmup_steps=1),
        output=OutputRecipe(log_every=1),
    )
    told = Labelling(str(pictures / "*.png"), Plan.of(["caption"], search=SHORT), clean)
    measure = partial(evaluate, data=load(clean), options=EvalOptions(search=SHORT, resamples=0))

    def go() -> list[Round]:
        return list(iterate(recipe, told, out=tmp_path / "out", model=checkpoint, rounds=2, measure=measure))

    first = go()
    assert [done.number for done in first] == [1, 2]
    assert first[0].labels.clean == 1
    assert first[0].labels.superseded <= 1
    assert "<CAPTION> CIDEr" in first[0].metrics
    state = (tmp_path / "out" / "round-2" / "run" / "checkpoint" / "model.safetensors").read_bytes()
    assert go() == first
    assert (tmp_path / "out" / "round-2" / "run" / "checkpoint" / "model.safetensors").read_bytes() == state


def test_the_commands_do_the_same(checkpoint: Path, pictures: Path, tmp_path: Path, capsys: Any) -> None:
    clean = write(pictures / "clean.jsonl", ("0.png", "<CAPTION>", "a red cube"))
    out, greedy = tmp_path / "out", ["--model", str(checkpoint), "--beams", "1", "--json"]
    arguments = ["annotate", str(pictures), "--out", str(out), *greedy]
    code = main(
        [*arguments, "--task", "caption", "--task", "detect", "--input", "detect=cup,bowl", "--clean", str(clean)]
    )
    values = json.loads(capsys.readouterr().out)
    assert code == (1 if values["faults"] else 0)
    assert set(values["tasks"]) == {"<CAPTION>", "<OPEN_VOCABULARY_DETECTION>"}
    assert values["merged"]["clean"] == 1
    assert len(read(out / "merged.jsonl")) == values["merged"]["clean"] + values["merged"]["machine"]
    for bad, message in (
        (["--task", "caption", "--input", "detect"], "not TASK=TEXT"),
        (["--task", "caption", "--input", "detect=cup"], "which is not asked"),
        (["--task", "caption", "--filter", "nonsense"], "no filter is called"),
    ):
        assert main([*arguments, *bad]) != 0
        assert message in capsys.readouterr().err


def test_a_scheduler_that_stops_a_round_is_told_so_by_the_exit_code(
    checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stopped(*given: Any) -> SimpleNamespace:
        with stop_requested() as stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            return SimpleNamespace(finished=not stopping())

    monkeypatch.setattr("florence_train.annotate.iterate.train", stopped)
    clean = write(pictures / "clean.jsonl", ("0.png", "<CAPTION>", "a red cube"))
    recipe = tmp_path / "recipe.toml"
    start = f'start = {json.dumps(str(checkpoint))}\n[data.weights]\n"<CAPTION>" = 1.0\n'
    recipe.write_text(f"{start}[optimizer]\nsteps = 2\nwarmup_steps = 1\n")
    arguments = [recipe, pictures / "*.png", "--out", tmp_path / "out", "--clean", clean, "--model", checkpoint]
    assert main(["iterate", *map(str, arguments), "--task", "caption", "--beams", "1"]) == TERMINATED
    assert "stopped; the same command goes on" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("shards", [False, True])
def test_a_cluster_writes_what_one_process_writes(
    checkpoint: Path, pictures: Path, tmp_path: Path, shards: bool
) -> None:
    (pictures / "1.png").write_bytes(b"no image")
    source = str(pictures)
    if shards:
        clean = write(pictures / "clean.jsonl", ("0.png", "<CAPTION>", "a"), ("2.png", "<CAPTION>", "b"))
        write_shards(load(clean).records, tmp_path / "shards", per_shard=1)
        source = str(tmp_path / "shards" / "*.tar")
    with open_model(checkpoint) as model:
        annotate(model, source, out=tmp_path / "one", plan=PLAN)
    annotate_on_ray(Opening(str(checkpoint)), source, out=tmp_path / "many", plan=PLAN, workers=2)
    for name in ("answers.jsonl", "train.jsonl", "report.json"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_frames_in_order_cannot_be_shared_out(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="read in order"):
        annotate_on_ray(Opening(str(checkpoint)), "video://clip.avi", out=tmp_path / "out", plan=PLAN)
