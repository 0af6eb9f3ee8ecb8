"""What a run is measured on: data that it does not train on, and the measures of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.tasks import find
from florence_edge.vocabulary import Vocabulary

from .annotate.model import open_checkpoint
from .batch import Batch, Sample, collate
from .data import Dataset, Record
from .evaluate import EvalOptions, evaluate
from .evaluate.report import ERRORS
from .loop.objective import answer_logits, count
from .losses import answer_loss
from .model import FlorenceModel
from .recipe import DataRecipe, ValidationRecipe

LOSS = "loss"


class Samples(Protocol):
    """What a held-out loss is computed on."""

    vocabulary: Vocabulary

    def samples(self, step: int) -> list[Sample]:
        """Always the same for the same number."""
        ...


class Writer(Protocol):
    """Writes a model as a checkpoint folder that can be opened."""

    def __call__(self, model: FlorenceModel, folder: Path) -> None:
        """Writes it."""
        ...


def split(dataset: Dataset, share: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """The images that are trained on, and a share of them, at least one, that is not; the same for the same seed."""
    if len(dataset) < 2:
        raise InputError("a share of one image cannot be held out; give validation.data, or more images")
    held = max(1, min(len(dataset) - 1, round(share * len(dataset))))
    order = np.random.default_rng([seed, len(dataset)]).permutation(len(dataset))
    parts = [tuple(dataset.records[index] for index in sorted(chosen)) for chosen in (order[held:], order[:held])]
    return Dataset(parts[0], dataset.faults), Dataset(parts[1])


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean loss per answer token, plain cross-entropy, of some steps of held-out data."""

    source: Samples
    steps: int
    device: torch.device
    lower_is_better = True

    @torch.inference_mode()
    def __call__(self, model: FlorenceModel) -> float:
        """See `Judge`."""
        model = model.to(self.device)
        total, tokens = 0.0, 0.0
        for batch in self._batches():
            weight = float(count(batch, self.source.vocabulary)[0])
            logits = answer_logits(model, model.encode_image(batch.pixels), batch)
            total += float(answer_loss(logits, batch.labels(), self.source.vocabulary).total) * weight
            tokens += weight
        model.cpu()
        return total / tokens

    def _batches(self) -> Iterator[Batch]:
        for step in range(self.steps):
            yield collate(self.source.samples(step), SearchConfig()).to(self.device)


@dataclass(frozen=True)
class HeldOutMetric:
    """A metric of `florence-edge eval`: the model is written as it would be kept, opened and asked."""

    records: tuple[Record, ...]
    task: str
    metric: str
    beams: int
    write: Writer

    @property
    def lower_is_better(self) -> bool:
        """Whether it measures errors."""
        return self.metric in ERRORS

    def __call__(self, model: FlorenceModel) -> float:
        """See `Judge`; `InputError` for a metric that the evaluators do not measure of the task."""
        options = EvalOptions(tasks=(self.task,), search=SearchOptions(beams=self.beams), resamples=0, worst=0)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoint"
            self.write(model, folder)
            with open_checkpoint(folder) as opened:
                report = evaluate(opened, self.records, options=options)
        try:
            value = report.metric(self.task, self.metric).value
        except InputError as error:
            raise InputError(f"validation.metric: {error}") from error
        return float("nan") if value is None else value


def metric_judge(recipe: ValidationRecipe, records: tuple[Record, ...], *, write: Writer) -> HeldOutMetric:
    """The judge of a metric such as "<OD> mAP"; `InputError` where the data does not ask that task."""
    name, _, metric = recipe.metric.partition(" ")
    task = find(name).token
    if not any(example.task == task for record in records for example in record.examples):
        raise InputError(f"validation.metric is {recipe.metric!r}, but the held-out data asks nothing of {task}")
    return HeldOutMetric(records, task, metric, recipe.beams, write)


def evenly(recipe: DataRecipe) -> DataRecipe:
    """The data recipe of a held-out loss: every task that has a weight counts alike, nothing is augmented."""
    weights = {task: 1.0 for task, weight in recipe.weights.items() if weight}
    return replace(recipe, weights=weights, augment=None, stages=())
