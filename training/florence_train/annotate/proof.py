"""Whether the data engine pays: one round of label, filter and retrain against training on noisy labels as they are.

    python -m florence_train.annotate.proof CHECKPOINT OUT --seeds 0 1 --json results.json

CHECKPOINT is the tabletop model's (`florence-edge train training/recipes/tabletop.toml`), which has learnt these tasks
from clean scenes before. New pictures come in: a tenth was labelled with care, the rest carelessly (`Noise`). Every arm
goes on from the checkpoint by the same recipe for the same number of steps and is measured on the same held-out scenes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from florence_edge.options import SearchOptions
from florence_edge.results import Detections
from florence_train.data import Dataset, Record, write_jsonl
from florence_train.data.record import FilePicture
from florence_train.data.truths import Region, about_regions
from florence_train.evaluate import EvalOptions, evaluate
from florence_train.recipe import DataRecipe, LossRecipe, OptimizerRecipe, OutputRecipe, Recipe
from florence_train.run import CHECKPOINT, train
from florence_train.tabletop import TabletopConfig, render, split_seed
from florence_train.tabletop.vocabulary import KINDS

from .filters import read_filters
from .iterate import Labelling, iterate
from .model import open_checkpoint
from .noise import Noise, corrupt
from .plan import Plan

TASKS = ("<OD>", "<REGION_TO_CATEGORY>")
METRICS = (("<OD>", "mAP50"), ("<OD>", "mAP"), ("<REGION_TO_CATEGORY>", "accuracy"))
FILTERS = ("finished", "nms=0.7", "confidence=0.2@<REGION_TO_CATEGORY>")
SIDE = 160
"""Pixels of a picture, as the model takes them."""

_GREEDY = SearchOptions(beams=1)


@dataclass(frozen=True)
class Setting:
    """Size of the experiment: `pictures` to train on, a `clean` share of them, `held_out` ones, and the recipe."""

    pictures: int = 200
    clean: float = 0.1
    held_out: int = 100
    steps: int = 60
    images_per_step: int = 8
    learning_rate: float = 3e-4
    noise: Noise = field(default_factory=Noise)


def compare(
    checkpoint: str | Path,
    out: str | Path,
    *,
    seed: int,
    setting: Setting = Setting(),
    tell: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """The metrics of every arm for one seed of pictures, noise and training; a call that was stopped goes on.

    `clean` trains on the careful tenth alone, `noisy` on that and the careless rest, `round` on that tenth and what is
    left, after filters, of the labels that the noisy arm's model gives the rest.
    """
    folder = Path(out) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    data = _prepare(folder, seed, setting)
    recipe = _recipe(Path(checkpoint), seed, setting)
    test = Dataset(tuple(_scenes(folder / "test", "test", seed, setting.held_out)))
    metrics: dict[str, dict[str, float | None]] = {}

    def measure(arm: str, model: Path) -> None:
        metrics[arm] = _measured(model, test)
        tell(f"seed {seed}: {arm}: {metrics[arm]}")

    def trained(arm: str) -> Path:
        train(replace(recipe, data=replace(recipe.data, source=str(data[arm]))), folder / arm)
        return folder / arm / CHECKPOINT

    measure("start", Path(checkpoint))
    measure("noisy", trained("noisy"))
    labelling = Labelling(str(data["rest"]), Plan.of(TASKS, search=_GREEDY), data["clean"], read_filters(FILTERS))
    (last,) = iterate(recipe, labelling, out=folder, model=folder / "noisy" / CHECKPOINT)
    measure("round", Path(last.checkpoint))
    measure("clean", trained("clean"))
    return {"seed": seed, "metrics": metrics, "labels": asdict(last.labels)}


def _prepare(folder: Path, seed: int, setting: Setting) -> dict[str, Path]:
    """The annotations that the arms train on, and the list of the pictures that were labelled carelessly."""
    records = _scenes(folder / "train", "train", seed, setting.pictures)
    careful = round(len(records) * setting.clean)
    rng = np.random.default_rng([seed, 1])
    careless = [
        _record(record, corrupt(_regions(record), setting.noise, names=KINDS, size=record.size, rng=rng))
        for record in records[careful:]
    ]
    files = {name: folder / f"{name}.jsonl" for name in ("clean", "noisy")} | {"rest": folder / "rest.txt"}
    write_jsonl(records[:careful], files["clean"])
    write_jsonl([*records[:careful], *(record for record in careless if record.examples)], files["noisy"])
    files["rest"].write_text("".join(f"train/{record.name}\n" for record in records[careful:]), encoding="utf-8")
    return files


def _scenes(folder: Path, split: str, seed: int, count: int) -> list[Record]:
    """Pictures, written once, with the truth about them."""
    folder.mkdir(exist_ok=True)
    config = TabletopConfig(height=SIDE, width=SIDE, objects=(1, 4), labels=0.0)
    records = []
    for index in range(count):
        scene = render(split_seed(split, 100 + seed), index, config)
        path = folder / f"{index:05d}.png"
        if not path.exists():
            Image.fromarray(scene.image).save(path)
        regions = [Region("", thing.kind, thing.box) for thing in scene.objects]
        records.append(_record(Record(path.name, FilePicture(path), scene.size, ()), regions))
    return records


def _record(record: Record, regions: Sequence[Region]) -> Record:
    """What is asked about a picture when somebody sees `regions` in it; nothing where nobody sees any."""
    asked = [example for task in TASKS for _, example in about_regions(task, regions, record.size)] if regions else []
    return replace(record, examples=tuple(asked))


def _regions(record: Record) -> list[Region]:
    """The regions that `_record` made the examples of."""
    target = record.examples[0].target
    assert isinstance(target, Detections)
    return [Region("", label, box) for label, box in zip(target.labels, target.boxes, strict=True)]


def _recipe(start: Path, seed: int, setting: Setting) -> Recipe:
    return Recipe(
        start=str(start),
        data=DataRecipe(
            weights=dict.fromkeys(TASKS, 1.0),
            seed=seed,
            images_per_step=setting.images_per_step,
            prompts_per_image=3,
            workers=0,
        ),
        optimizer=OptimizerRecipe(
            steps=setting.steps,
            learning_rate=setting.learning_rate,
            warmup_steps=10,
            ema=0.95,
            freeze=("vision",),
        ),
        loss=LossRecipe(location_sigma=(3.0, 3.0)),
        output=OutputRecipe(log_every=20),
    )


def _measured(checkpoint: Path, test: Dataset) -> dict[str, float | None]:
    with open_checkpoint(checkpoint) as model:
        report = evaluate(model, test, options=EvalOptions(search=_GREEDY, resamples=0, worst=0))
    return {f"{task} {name}": report.metric(task, name).value for task, name in METRICS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment for every seed and prints, and writes, what came out."""
    parser = argparse.ArgumentParser(prog="python -m florence_train.annotate.proof", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of the tabletop model")
    parser.add_argument("out", type=Path, help="folder to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run each [0]")
    parser.add_argument("--pictures", type=int, default=Setting().pictures, help="to train on [%(default)s]")
    parser.add_argument("--held-out", type=int, default=Setting().held_out, help="to measure on [%(default)s]")
    parser.add_argument("--steps", type=int, default=Setting().steps, help="of every arm [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    chosen = parser.parse_args(arguments)
    setting = Setting(pictures=chosen.pictures, held_out=chosen.held_out, steps=chosen.steps)
    begun, runs = time.monotonic(), []
    for seed in chosen.seeds:
        runs.append(compare(chosen.checkpoint, chosen.out, seed=seed, setting=setting, tell=_say))
        print(json.dumps(runs[-1]), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(_result(runs, setting, begun), indent=2) + "\n", encoding="utf-8")
    return 0


def _result(runs: Sequence[dict[str, Any]], setting: Setting, begun: float) -> dict[str, Any]:
    return {
        "setting": asdict(setting),
        "filters": list(FILTERS),
        "runs": list(runs),
        "seconds": round(time.monotonic() - begun),
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
