"""Annotated images as steps of a training run.

Every sample is a function of (recipe, step, place in the step), so workers may prepare steps in any order and a
resumed run sees what an unbroken one would have seen. Each epoch takes every image once, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from florence_edge.errors import InputError, listing
from florence_edge.geometry import Int64Array
from florence_edge.grammar import format_answer, prompt_for
from florence_edge.preprocess import to_pixels
from florence_edge.tasks import find
from florence_edge.tokens import Tokens
from florence_train.auxiliary import DenseClasses
from florence_train.batch import Sample, Turn
from florence_train.examples import Example
from florence_train.model import FlorenceConfig
from florence_train.recipe import DataRecipe

from .augment import Augmentation
from .record import Dataset, Record


class RecordSource:
    """Annotated images, with the turns of each drawn by the recipe's task weights.

    Raises `InputError` that lists the examples whose prompt or answer is longer than the model's limits, so that none
    of them ends a run; `fitting` leaves those out of a data set beforehand. With an `augmentation` every sample is
    a new draw of it.
    """

    dense_classes = DenseClasses()

    def __init__(
        self,
        recipe: DataRecipe,
        model: FlorenceConfig,
        tokens: Tokens,
        dataset: Dataset,
        *,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.recipe, self.tokens, self.augmentation = recipe, tokens, augmentation
        self.vocabulary = tokens.vocabulary
        self.spec = model.image
        self.records = [record for record in dataset.records if _weigh(record.examples, recipe.weights).any()]
        if not self.records:
            raise InputError(f"the data has no example of the tasks with a weight: {', '.join(recipe.weights)}")
        faults = [fault for record in self.records for fault in too_long(record, model, tokens)]
        if faults:
            raise InputError(listing("some examples are too long for this model:", faults))

    def samples(self, step: int) -> list[Sample]:
        """The images of one step with the turns drawn for them."""
        count = self.recipe.images_per_step
        return [self._sample(step * count + offset) for offset in range(count)]

    def _sample(self, index: int) -> Sample:
        epoch, place = divmod(index, len(self.records))
        record = self.records[int(_order(self.recipe.seed, epoch, len(self.records))[place])]
        rng = np.random.default_rng([self.recipe.seed, index, 1])
        picture, examples = record.picture.load(), record.examples
        if self.augmentation is not None:
            picture, examples = self.augmentation(picture, examples, int(rng.integers(2**31)))
        drawn = draw(examples, self.recipe.weights, self.recipe.prompts_per_image, rng)
        pixels = to_pixels(picture, self.spec)[0]
        return Sample(pixels, tuple(_turn(self.tokens, example, record) for example in drawn))


def draw(
    examples: Sequence[Example], weights: Mapping[str, float], number: int, rng: np.random.Generator
) -> list[Example]:
    """Up to `number` different examples, drawn by task weight, which the examples of one task share evenly."""
    shares = _weigh(examples, weights)
    count = min(number, int(np.count_nonzero(shares)))
    chosen = rng.choice(len(examples), size=count, replace=False, p=shares / shares.sum())
    return [examples[index] for index in chosen]


def too_long(record: Record, model: FlorenceConfig, tokens: Tokens) -> list[str]:
    """The examples of a record whose prompt or answer has more tokens than the model's limits."""
    limits = model.limits
    faults = []
    for example in record.examples:
        turn = _turn(tokens, example, record)
        for what, ids, most in (
            ("prompt", turn.prompt, limits.prompt_tokens),
            ("answer", turn.answer, limits.new_tokens),
        ):
            if len(ids) > most:
                faults.append(f"{record.name}: {example.task}: the {what} has {len(ids)} tokens, at most {most}")
    return faults


def fitting(dataset: Dataset, model: FlorenceConfig, tokens: Tokens) -> Dataset:
    """The data without the examples that are too long for a model."""
    records = []
    for record in dataset.records:
        kept = tuple(e for e in record.examples if not too_long(replace(record, examples=(e,)), model, tokens))
        if kept:
            records.append(replace(record, examples=kept))
    return Dataset(tuple(records), dataset.faults)


def _turn(tokens: Tokens, example: Example, record: Record) -> Turn:
    task = find(example.task)
    prompt = tokens.encode(prompt_for(task, example.input, record.size))
    return Turn(prompt, tokens.encode(format_answer(task, example.target)))


def _weigh(examples: Sequence[Example], weights: Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The weight of each example: its task's, shared by the examples of that task."""
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.task] = counts.get(example.task, 0) + 1
    return np.array([weights.get(example.task, 0.0) / counts[example.task] for example in examples])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Int64Array:
    return np.random.default_rng([seed, epoch]).permutation(count)
