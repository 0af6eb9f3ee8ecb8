"""Rounds of the data engine: label with the best model so far, merge with clean labels, train anew, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.errors import InputError
from florence_edge.files import write
from florence_edge.model import Florence
from florence_train.evaluate import Report
from florence_train.recipe import Recipe
from florence_train.run import CHECKPOINT, train

from .filters import Filter
from .merge import Merged, merge
from .model import open_model
from .plan import Plan
from .run import LABELS, annotate


@dataclass(frozen=True)
class Labelling:
    """How every round labels: images as `open_images` takes them, questions, filters, and the file of clean labels.

    `backend` and `threads` are as in `open_model`.
    """

    source: str
    plan: Plan
    clean: str | Path
    filters: tuple[Filter, ...] = ()
    backend: str = "onnx"
    threads: int | None = None


@dataclass(frozen=True)
class Round:
    """What a round came to; `metrics` maps `task metric` to values, empty where nothing was measured."""

    number: int
    labels: Merged
    checkpoint: str
    metrics: Mapping[str, float | None]


def iterate(
    recipe: Recipe,
    labelling: Labelling,
    *,
    out: str | Path,
    model: str | Path,
    rounds: int = 1,
    measure: Callable[[Florence], Report] | None = None,
) -> Iterator[Round]:
    """Labels, merges, trains and measures `rounds` times; what a round did lies in `out/round-1`, `out/round-2`, ...

    `model`, a bundle or a checkpoint, labels the first time, then the checkpoint of the round before. `recipe` is that
    of `florence-edge train`, its `source` replaced by the merged labels; every round trains from its `start`, so that
    errors of labels are not carried on in weights. A run that was stopped goes on where it was; a signal that ended
    `train` ends this too, with fewer rounds.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; it must be 1 or more")
    labeller = model
    for number in range(1, rounds + 1):
        folder = Path(out) / f"round-{number}"
        with open_model(labeller, backend=labelling.backend, threads=labelling.threads) as opened:
            annotate(opened, labelling.source, out=folder / "labels", plan=labelling.plan, filters=labelling.filters)
        labels = merge(labelling.clean, folder / "labels" / LABELS, out=folder / LABELS)
        merged = replace(recipe, data=replace(recipe.data, source=str(folder / LABELS)))
        if not train(merged, folder / "run").finished:
            return
        labeller = folder / "run" / CHECKPOINT
        yield Round(number, labels, str(labeller), _measured(labeller, measure, folder))


def _measured(
    checkpoint: Path, measure: Callable[[Florence], Report] | None, folder: Path
) -> Mapping[str, float | None]:
    """The metrics of a checkpoint; the whole report is kept beside it."""
    if measure is None:
        return {}
    with open_model(checkpoint) as model:
        report = measure(model)
    write(folder / "report.json", report.to_json().encode("utf-8"))
    return {f"{metric.task} {metric.name}": metric.value for metric in report.metrics}
