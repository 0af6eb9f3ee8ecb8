"""`florence-edge train`: a recipe and a folder in, a checkpoint in the native layout and, if asked, a bundle out."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.bundle import check_target
from florence_edge.errors import InputError

from .checkpoint import save_checkpoint
from .exporters import exporter
from .folder import write_json
from .loop.devices import Devices, open_devices
from .loop.validation import Validation
from .lora import ADAPTER, merged, save_adapter
from .material import Material, gather
from .model import FlorenceModel
from .recipe import Recipe
from .start import Start, begin
from .trainer import Outcome, Trainer

CHECKPOINT = "checkpoint"
_INPUTS = "inputs.json"


@dataclass(frozen=True)
class Results:
    """What a run writes for others, in `folder`, and what it says there of how it was made."""

    recipe: Recipe
    start: Start
    folder: Path
    data: str = ""

    def plain(self, model: FlorenceModel) -> FlorenceModel:
        """A model as others know it: adapters merged."""
        return merged(model) if self.recipe.lora else model

    def write(self, model: FlorenceModel, folder: Path, *, step: int | None = None) -> None:
        """Writes a model as a checkpoint to any folder."""
        save_checkpoint(
            self.plain(model),
            self.start.config,
            folder,
            tokenizer=self.start.tokenizer,
            generation=self.start.generation,
            metadata={
                "recipe": self.recipe.to_dict(),
                "recipe_sha256": self.recipe.digest(),
                "start_sha256": self.start.sha256,
                "data": self.data,
                "step": step,
            },
        )

    def keep(self, model: FlorenceModel, step: int) -> None:
        """Writes the run's result so far in place of the one before."""
        self.write(model, self.folder / CHECKPOINT, step=step)
        if self.recipe.lora is not None:
            save_adapter(model, self.folder / ADAPTER, recipe=self.recipe.lora, base=self.recipe.start)

    def check_inputs(self) -> None:
        """Refuses to go on with a run whose start or data were changed since it began: no step would be the same."""
        path = self.folder / _INPUTS
        inputs = {"start": self.start.sha256, "data": self.data}
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else inputs
        changed = [name for name, value in inputs.items() if known.get(name) != value]
        if changed:
            raise InputError(
                f"the run in {self.folder} began with other contents of: {', '.join(changed)}; put them back, or use "
                "another output folder"
            )
        write_json(path, inputs)


@dataclass(frozen=True)
class Run:
    """A recipe made ready in a folder, before the first step."""

    trainer: Trainer
    material: Material
    results: Results


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: int | None = None,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] | None = None,
    bundle: str | Path | None = None,
) -> Outcome:
    """Trains as `recipe` says, going on from what `folder` holds, and writes `folder/checkpoint`.

    With validation that is the best model so far, without it the last; a LoRA run also writes `folder/adapter`. `until`
    ends this call at a step before the recipe's last; a later call goes on from there. `device` is torch's name of one,
    or "auto". `report` gets every line of the log. A finished run is converted to a verified ONNX bundle at `bundle`.
    Raises `InputError` for a recipe that cannot be followed, before anything is computed. In one of several processes
    that a launcher started, all compute and the first alone writes; `folder` must be one that all of them see.
    """
    folder = Path(folder)
    export = exporter() if bundle is not None else None
    if bundle is not None:
        check_target(bundle, overwrite=True)
    with closing(open_devices(device, shard=recipe.compute.shard)) as devices:
        run = prepare(recipe, folder, devices=devices)
        validation, results = run.trainer.validation, run.results
        if devices.main:
            results.check_inputs()
        outcome = run.trainer.run(until=until, report=report)
        if devices.main:
            if validation is None or not validation.measured:
                results.keep(outcome.model, outcome.step)
            if export and bundle is not None and outcome.finished:
                export(folder / CHECKPOINT, Path(bundle), overwrite=True)
            outcome = replace(outcome, model=results.plain(outcome.model))
        devices.wait()
    return outcome


def prepare(recipe: Recipe, folder: Path, *, devices: Devices) -> Run:
    """Reads everything that a recipe names and builds the trainer; what cannot be used is an `InputError`."""
    folder.mkdir(parents=True, exist_ok=True)
    start = begin(recipe, folder, devices=devices)
    results = Results(recipe, start, folder)
    material = gather(recipe, start, devices=devices, write=results.write)
    results = replace(results, data=material.digest)
    validation = None
    if recipe.validation is not None and material.judge is not None:
        validation = Validation(recipe.validation, material.judge, keep=results.keep, baseline=bool(recipe.start))
    trainer = Trainer(recipe, material.source, start.model, folder=folder, devices=devices, validation=validation)
    return Run(trainer, material, results)
