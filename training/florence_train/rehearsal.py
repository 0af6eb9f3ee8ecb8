"""A recipe tried out before hours are spent on it: everything is read, a few steps are computed, nothing is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from .exporters import exporter
from .loop.devices import Devices, open_devices
from .loop.log import open_events
from .recipe import Recipe
from .run import prepare


@dataclass(frozen=True)
class Rehearsal:
    """What a run will be.

    `images` and `examples` per task are those trained on (None for scenes, which have no end), `epochs` how often each
    image is seen. `parameters` counts the model's, `trained` those that change. `step_seconds` is the time of one
    step on this machine, `hours` that of all steps, measurements on the way not included. `memory_bytes` is the peak
    on a GPU, None elsewhere. `validation` is what the start scores, None without validation. `faults` were left out.
    """

    steps: int
    images: int | None
    examples: Mapping[str, int] | None
    epochs: float | None
    parameters: int
    trained: int
    step_seconds: float
    hours: float
    memory_bytes: int | None
    validation: float | None
    faults: tuple[str, ...]


def rehearse(recipe: Recipe, *, device: str = "cpu", bundle: bool = False) -> Rehearsal:
    """Follows a recipe for a few steps; raises whatever the run itself would. `bundle` as if one were asked for."""
    if bundle:
        exporter()
    with tempfile.TemporaryDirectory() as scratch, closing(open_devices(device, shard=recipe.compute.shard)) as devices:
        run = prepare(recipe, Path(scratch), devices=devices)
        if recipe.output.tensorboard:
            open_events(Path(scratch) / "tensorboard", 0).close()
        score = None
        if run.trainer.validation:
            model = run.trainer.averaged()
            score = run.trainer.validation.judge(model) if devices.main else None
        parameters = list(run.trainer.model.parameters())
        seconds = run.trainer.rehearse()
        steps, material = recipe.optimizer.steps, run.material
        seen = steps * recipe.data.images_per_step
        return Rehearsal(
            steps=steps,
            images=material.images,
            examples=material.examples,
            epochs=seen / material.images if material.images else None,
            parameters=sum(value.numel() for value in parameters),
            trained=sum(value.numel() for value in parameters if value.requires_grad),
            step_seconds=seconds,
            hours=seconds * steps / 3600,
            memory_bytes=_peak(devices),
            validation=score,
            faults=material.faults,
        )


def _peak(devices: Devices) -> int | None:
    return torch.cuda.max_memory_allocated(devices.device) if devices.device.type == "cuda" else None
