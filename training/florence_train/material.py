"""The data of a recipe: what is trained on, what is measured on, and what the checkpoint remembers of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from florence_edge.errors import InputError
from florence_edge.tokens import Tokens

from .data import Dataset, Record, digest, load, tabletop
from .data.augment import Augmentation
from .data.record import tasks_of
from .data.scenes import TABLETOP, split_named
from .data.source import RecordSource, fitting
from .held_out import LOSS, HeldOutLoss, Samples, Writer, evenly, metric_judge, split
from .loop.devices import Devices
from .loop.validation import Judge
from .recipe import DataRecipe, Recipe, ValidationRecipe
from .scenes import SceneSource
from .start import Start
from .tabletop import TabletopConfig
from .trainer import Source, in_parts


@dataclass(frozen=True)
class Material:
    """What a run trains on and, where it validates, is measured on.

    `digest` names the training data. `images` and `examples` per task count it, None and empty for scenes without end.
    `faults` were left out.
    """

    source: Source
    digest: str
    judge: Judge | None = None
    images: int | None = None
    examples: Mapping[str, int] | None = None
    faults: tuple[str, ...] = ()


def gather(recipe: Recipe, start: Start, *, devices: Devices, write: Writer) -> Material:
    """Reads the data of a recipe; `InputError` that lists what cannot be used. `write` serves metrics, see `Writer`."""
    tokens, parts = Tokens(start.tokenizer), devices.world * recipe.compute.accumulate
    data = in_parts(recipe.data, parts)
    check = recipe.validation
    if recipe.data.source == TABLETOP:
        if check and check.share:
            raise InputError("validation.share holds out a part of annotated data; for scenes give data = 'tabletop'")
        judge = _judge(check, None, recipe=recipe, start=start, devices=devices, write=write) if check else None
        return Material(SceneSource(data, start.config, tokens), TABLETOP, judge)
    dataset = _read(recipe.data, recipe.data.source, start=start)
    held = None
    if check and check.share:
        dataset, held = split(dataset, check.share, seed=recipe.data.seed)
    judge = _judge(check, held, recipe=recipe, start=start, devices=devices, write=write) if check else None
    augmentation = Augmentation(recipe.data.augment) if recipe.data.augment else None
    return Material(
        RecordSource(data, start.config, tokens, dataset, augmentation=augmentation),
        f"sha256:{digest(dataset)}",
        judge,
        len(dataset),
        tasks_of(dataset.records),
        tuple(str(fault) for fault in dataset.faults),
    )


def _read(recipe: DataRecipe, source: str, *, start: Start) -> Dataset:
    """Annotated data; with faults = "skip" also without the examples that are too long for the model."""
    images = recipe.images if recipe.images and source == recipe.source else None
    dataset = load(source, images=images, tasks=tuple(recipe.weights), faults=recipe.faults)
    return fitting(dataset, start.config, Tokens(start.tokenizer)) if recipe.faults == "skip" else dataset


def _judge(
    check: ValidationRecipe,
    held: Dataset | None,
    *,
    recipe: Recipe,
    start: Start,
    devices: Devices,
    write: Writer,
) -> Judge:
    """The measure of a validation, on the part `held` out or on data of its own."""
    part = split_named(check.data)
    if held is None and not part:
        held = _read(recipe.data, check.data, start=start)
    if check.metric != LOSS:
        records = _scenes(part, check.images, start=start) if held is None else held.records[: check.images]
        return metric_judge(check, records, write=write)
    data = evenly(in_parts(recipe.data, devices.world * recipe.compute.accumulate))
    tokens = Tokens(start.tokenizer)
    source: Samples
    if held is None:
        source = SceneSource(data, start.config, tokens, split=part)
        images = check.images
    else:
        source, images = RecordSource(data, start.config, tokens, held), min(check.images, len(held))
    return HeldOutLoss(source, -(-images // data.images_per_step), devices.device)


def _scenes(part: str, count: int, *, start: Start) -> tuple[Record, ...]:
    image = start.config.image
    return tuple(tabletop(part, count, config=TabletopConfig(height=image.height, width=image.width)))
