"""The training loop: one recipe in, a checkpoint out, interruptible at any step.

Every step is a function of (recipe, step): its images, its prompts, its random numbers. So a run that was interrupted
and resumed computes the same losses as one that was not, and one whose steps are spread over several devices the same
as one on a single device, but for rounding and for what dropout draws. SIGINT and SIGTERM finish the step, save and
return.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.vocabulary import Vocabulary

from .auxiliary import DenseClasses, DenseHeads
from .batch import Batch, Sample, collate
from .loop.averages import Averages
from .loop.devices import Devices
from .loop.interrupt import leave_signals_to_the_loop, stop_requested
from .loop.log import Line, Log, Report
from .loop.objective import Objective, Share, count
from .loop.precision import attention, autocast, check_precision, scaler
from .loop.recompute import recompute
from .loop.state import STATE, learnt, restore_model, restore_optimizer, whole, write_state
from .loop.validation import Validation
from .model import FlorenceModel
from .recipe import DataRecipe, Recipe
from .schedule import geometric, learning_rate


class Source(Protocol):
    """Training data as a function of the step."""

    vocabulary: Vocabulary
    dense_classes: DenseClasses

    def samples(self, step: int) -> list[Sample]:
        """The samples of one step; the same step always gives the same ones."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps done, whether there is nothing left to do, and the model with the averaged weights."""

    step: int
    finished: bool
    model: FlorenceModel


def in_parts(recipe: DataRecipe, parts: int) -> DataRecipe:
    """The same images in the same order with every step split into `parts` steps: what a `Source` is made of.

    `parts` is the number of processes times that of accumulated parts; `InputError` where a step cannot be split so.
    """
    if recipe.images_per_step % parts:
        raise InputError(
            f"{recipe.images_per_step} images per step cannot be split into {parts} equal parts (processes x "
            "compute.accumulate); make images_per_step a multiple of that"
        )
    stages = tuple(replace(stage, from_step=stage.from_step * parts) for stage in recipe.stages)
    return replace(recipe, images_per_step=recipe.images_per_step // parts, stages=stages)


class _Steps(Dataset[list[Batch]]):
    """Steps as data-loader items, so that worker processes render and collate ahead: this process' parts of each."""

    def __init__(self, source: Source, devices: Devices, parts: int) -> None:
        self._source, self._parts = source, parts
        self._rank, self._world = devices.rank, devices.world

    def __getitem__(self, step: int) -> list[Batch]:
        first = (step * self._world + self._rank) * self._parts
        return [collate(self._source.samples(first + part), SearchConfig()) for part in range(self._parts)]


class Trainer:
    """Trains `model` on `source` as `recipe` says; everything it writes lies in `folder`.

    `source` gives a step in parts (`in_parts`). `validation` measures on the way and keeps the best weights.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        model: FlorenceModel,
        *,
        folder: Path,
        devices: Devices | None = None,
        validation: Validation | None = None,
    ) -> None:
        self.recipe, self.source, self.folder = recipe, source, Path(folder)
        self.devices = devices or Devices()
        self.validation = validation
        check_precision(recipe.compute.precision, self.devices.device)
        self.model = model.train()
        self._blank = copy.deepcopy(model).cpu().eval() if self.devices.main else None
        if recipe.compute.recompute:
            recompute(model)
        with torch.random.fork_rng():
            torch.manual_seed(recipe.data.seed)  # every process must begin with the same heads
            self.heads = DenseHeads(
                model.config.text.dim, model.config.vision.dims[-2:][0], source.dense_classes
            ).train()
        objective = Objective(model, self.heads, source.vocabulary, recipe.loss)
        self._objective = self.devices.wrap(objective)
        self._parameters = [value for value in objective.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(objective, recipe.optimizer.weight_decay),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
        )
        self._scaler = scaler(recipe.compute.precision, self.devices.device)
        self._averages = Averages(self.model, recipe.optimizer.ema)
        self.step = 0

    def run(self, *, until: int | None = None, report: Report | None = None) -> Outcome:
        """Trains from the saved state, if there is one, to step `until` (default: the recipe's last)."""
        recipe = self.recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        last = min(until or recipe.optimizer.steps, recipe.optimizer.steps)
        log = Log(
            self.folder,
            step=self.step,
            report=report,
            tensorboard=recipe.output.tensorboard,
            main=self.devices.main,
        )
        with stop_requested() as stopping, log:
            if self.validation and self.validation.before(self.step):
                self._validate(log)
            for parts in self._steps(last):
                log.add(self._advance(parts))
                if self.step % recipe.output.log_every == 0 or self.step == last:
                    log.flush(self.step)
                if self.validation and self.validation.due(self.step, recipe.optimizer.steps):
                    self._validate(log)
                if self.step % recipe.output.save_every == 0:
                    self.save()
                if self.devices.any(stopping()) or self._exhausted():
                    break
        self.save()
        return Outcome(self.step, self.step >= recipe.optimizer.steps or self._exhausted(), self.averaged())

    def rehearse(self, steps: int = 2) -> float:
        """Computes a few steps from the start without writing anything; returns the seconds that the last one took."""
        seconds = 0.0
        for parts in islice(self._steps(steps), steps):
            started = time.monotonic()
            self._advance(parts)
            seconds = time.monotonic() - started
        return seconds

    def averaged(self) -> FlorenceModel:
        """A copy of the model with the averaged weights, in eval mode on the CPU; of rank 0 alone if there are more."""
        values = whole(self._averages.values)
        if self._blank is None:
            return self.model
        model = copy.deepcopy(self._blank)
        restore_model(model, values)
        return model

    def save(self) -> None:
        """Writes the whole state atomically: a kill at any moment leaves the old state or the new one."""
        state = {
            "recipe": self.recipe.digest(),
            "step": self.step,
            "model": whole(learnt(self.model)),
            "heads": whole(self.heads.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "ema": whole(self._averages.values),
            "scaler": self._scaler.state_dict(),
            "validation": self.validation.state() if self.validation else {},
        }
        if self.devices.main:
            write_state(self.folder / STATE, state)
        self.devices.wait()

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != self.recipe.digest():
            raise InputError(f"{path} belongs to another recipe; use another output folder, or move the old one away")
        self.step = state["step"]
        restore_model(self.model, state["model"])
        restore_model(self.heads, state["heads"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self._averages.restore(state["ema"])
        if state.get("scaler"):  # one of another precision has none
            self._scaler.load_state_dict(state["scaler"])
        if self.validation and state.get("validation"):
            self.validation.restore(state["validation"])

    def _steps(self, last: int) -> Iterator[list[Batch]]:
        """This process' parts of the steps from the present one to `last`."""
        first = self.step if not self._exhausted() else last
        return iter(
            DataLoader(
                _Steps(self.source, self.devices, self.recipe.compute.accumulate),
                batch_size=None,
                sampler=range(first, last),
                num_workers=self.recipe.data.workers,
                worker_init_fn=leave_signals_to_the_loop,
            )
        )

    def _advance(self, parts: list[Batch]) -> Line:
        """One step; returns its numbers, which are those of all processes."""
        recipe = self.recipe
        self._seed()
        rate = learning_rate(self.step, recipe.optimizer)
        sigma = geometric(self.step, recipe.optimizer.steps, recipe.loss.location_sigma)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counts = [count(part, self.source.vocabulary) for part in parts]
        step = self.devices.total(torch.stack(counts).sum(dim=0))
        self.optimizer.zero_grad(set_to_none=True)
        terms = torch.zeros(4, dtype=torch.float64)
        for index, (part, counted) in enumerate(zip(parts, counts, strict=True)):
            with self.devices.exchanged(self._objective, now=index == len(parts) - 1):
                terms += self._backward(part, Share.of(counted, step), sigma=sigma)
        self._scaler.unscale_(self.optimizer)
        norm = whole(torch.nn.utils.clip_grad_norm_(self._parameters, recipe.optimizer.clip))
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._averages.move(self.model, self.step)
        self.step += 1
        loss, text, location, dense = self.devices.total(terms).tolist()
        _, texts, locations, images, *_ = step.tolist()
        return {
            "loss": loss,
            "text": text if texts else float("nan"),
            "location": location if locations else float("nan"),
            "dense": dense,
            "gradient": float(norm),
            "rate": rate,
            "sigma": sigma,
            "images": images,
        }

    def _backward(self, part: Batch, share: Share, *, sigma: float) -> Tensor:
        """Adds the gradients of a part of the step; returns its contributions to the step's losses [4] float64."""
        device, precision = self.devices.device, self.recipe.compute.precision
        with attention(precision, device):
            with autocast(precision, device):
                terms = self._objective(part.to(device), share, sigma=sigma)
            # Processes exchange the mean of their gradients, while shares of a step are to be added.
            self._scaler.scale(terms.total * self.devices.world).backward()
        return torch.tensor([float(terms.total.detach()), *terms[1:]], dtype=torch.float64)

    def _seed(self) -> None:
        """Makes the random numbers of a step (dropout) depend on the step and the process, and on nothing before."""
        entropy = np.random.SeedSequence([self.recipe.data.seed, self.step, self.devices.rank])
        torch.manual_seed(int(entropy.generate_state(1, np.uint32)[0]))

    def _validate(self, log: Log) -> None:
        assert self.validation is not None
        model = self.averaged()
        value = self.validation.judge(model) if self.devices.main else 0.0
        value = self.devices.total(torch.tensor([value], dtype=torch.float64)).item()
        if self.validation.take(value, self.step) and self.devices.main:
            self.validation.keep(model, self.step)
        log.say({"step": float(self.step), self.validation.name: value, "best": self.validation.best_value})

    def _exhausted(self) -> bool:
        return self.validation is not None and self.validation.exhausted


def _parameter_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices are decayed; biases, norms and embeddings are not."""
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    matrices = [
        value for name, value in named if value.ndim > 1 and "embedding" not in name and "positions" not in name
    ]
    chosen = {id(value) for value in matrices}
    others = [value for _, value in named if id(value) not in chosen]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
