"""The training loop: one recipe in, a checkpoint out, interruptible at any step.

Every batch is a function of (recipe, step), so a run that was interrupted and resumed computes the same losses as one
that was not. SIGINT and SIGTERM finish the step, save and return.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.vocabulary import LOCATION_BINS, Vocabulary

from .auxiliary import DenseHeads
from .batch import Batch, Sample, collate
from .losses import answer_loss
from .model import FlorenceModel
from .recipe import Recipe
from .schedule import geometric, learning_rate

STATE = "state.pt"
LOG = "log.jsonl"


class Source(Protocol):
    """Training data as a function of the step."""

    vocabulary: Vocabulary
    attribute_classes: tuple[int, ...]

    def samples(self, step: int) -> list[Sample]:
        """The samples of one step; the same step always gives the same ones."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended: steps done, whether that is all of them, and the model with the averaged weights."""

    step: int
    finished: bool
    model: FlorenceModel


class _Steps(Dataset[Batch]):
    """Steps as data-loader items, so that worker processes render and collate ahead."""

    def __init__(self, source: Source, search: SearchConfig) -> None:
        self.source, self.search = source, search

    def __getitem__(self, step: int) -> Batch:
        return collate(self.source.samples(step), self.search)


class Trainer:
    """Trains `model` on `source` as `recipe` says; everything it writes lies in `folder`."""

    def __init__(
        self, recipe: Recipe, source: Source, model: FlorenceModel, *, folder: Path, device: str = "cpu"
    ) -> None:
        self.recipe, self.source, self.folder = recipe, source, Path(folder)
        self.device = torch.device(device)
        self.model = model.to(self.device).train()
        self.heads = DenseHeads(model.config.text.dim, source.attribute_classes).to(self.device).train()
        self.optimizer = torch.optim.AdamW(
            _parameter_groups([self.model, self.heads], recipe.optimizer.weight_decay),
            lr=recipe.optimizer.learning_rate,
            betas=recipe.optimizer.betas,
        )
        self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step = 0

    def run(self, *, until: int | None = None, report: Callable[[dict[str, float]], None] | None = None) -> Outcome:
        """Trains from the saved state, if there is one, to step `until` (default: the recipe's last)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        last = min(until or self.recipe.optimizer.steps, self.recipe.optimizer.steps)
        loader = DataLoader(
            _Steps(self.source, SearchConfig()),
            batch_size=None,
            sampler=range(self.step, last),
            num_workers=self.recipe.data.workers,
            worker_init_fn=_leave_signals_to_the_loop,
            generator=torch.Generator(),  # else the loader draws from the global one, which a resumed run would notice
        )
        with _stop_requested() as stopping:
            started, window = time.monotonic(), []
            for batch in loader:
                window.append(self._train(batch.to(self.device)))
                self.step += 1
                if self.step % self.recipe.output.log_every == 0 or self.step == last:
                    self._log(window, time.monotonic() - started, report)
                    started, window = time.monotonic(), []
                if self.step % self.recipe.output.save_every == 0:
                    self.save()
                if stopping():
                    break
        self.save()
        return Outcome(self.step, self.step >= self.recipe.optimizer.steps, self.averaged())

    def _train(self, batch: Batch) -> dict[str, float]:
        recipe, vocabulary = self.recipe, self.source.vocabulary
        rate = learning_rate(self.step, recipe.optimizer)
        sigma = geometric(self.step, recipe.optimizer.steps, recipe.loss.location_sigma)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        features = self.model.encode_image(batch.pixels)
        logits = self.model.decode(features[batch.image_of], batch.prompt_ids, batch.decoder_ids, batch.prompt_mask)
        terms = answer_loss(
            logits,
            batch.labels,
            vocabulary,
            location_sigma=sigma,
            label_smoothing=recipe.loss.label_smoothing,
        )
        dense = self._dense(features, batch, sigma)
        loss = terms.total + recipe.loss.dense * dense
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares it without types
        norm = torch.nn.utils.clip_grad_norm_(_parameters(self.model, self.heads), recipe.optimizer.clip)
        self.optimizer.step()
        self._average()
        return {
            "loss": float(loss.detach()),
            "text": terms.text,
            "location": terms.location,
            "dense": float(dense.detach()),
            "gradient": float(norm),
            "rate": rate,
            "sigma": sigma,
            "images": float(len(batch.pixels)),
        }

    def _dense(self, features: Tensor, batch: Batch, sigma: float) -> Tensor:
        if self.recipe.loss.dense <= 0 or batch.dense is None:
            return features.new_zeros(())
        first = self.source.vocabulary.first_location
        locations = self.model.embedding.weight[first : first + LOCATION_BINS]
        return self.heads.loss(features[:, 1:], batch.dense, locations, sigma)

    def _average(self) -> None:
        """Moves the averaged weights; early on the average is shorter, so that it never remembers the start."""
        decay = min(self.recipe.optimizer.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay) if value.is_floating_point() else self.ema[name].copy_(value)

    def averaged(self) -> FlorenceModel:
        """A copy of the model with the averaged weights, in eval mode on the CPU."""
        model = FlorenceModel(self.model.config)
        model.load_state_dict(self.ema)
        return model.eval()

    def _log(
        self, window: list[dict[str, float]], seconds: float, report: Callable[[dict[str, float]], None] | None
    ) -> None:
        keys = window[-1].keys() - {"images"}
        line = {key: _mean([entry[key] for entry in window]) for key in sorted(keys)}
        line |= {"step": float(self.step), "images_per_second": sum(entry["images"] for entry in window) / seconds}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if report:
            report(line)

    def save(self) -> None:
        """Writes the whole state atomically: a kill at any moment leaves the old state or the new one."""
        state = {
            "recipe": self.recipe.digest(),
            "step": self.step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "random": torch.get_rng_state(),
        }
        temporary = self.folder / (STATE + ".part")
        torch.save(state, temporary)
        temporary.replace(self.folder / STATE)

    def _resume(self) -> None:
        path = self.folder / STATE
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.digest():
            raise InputError(f"{path} belongs to another recipe; use another output folder, or move the old one away")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = state["ema"]
        torch.set_rng_state(state["random"].cpu())


def _leave_signals_to_the_loop(worker: int) -> None:
    """Keeps workers alive when a terminal or a scheduler signals the whole group: the loop ends them after saving."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def _parameters(*modules: torch.nn.Module) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()


def _parameter_groups(modules: list[torch.nn.Module], decay: float) -> list[dict[str, Any]]:
    """Matrices are decayed; biases, norms and embeddings are not."""
    named = [(name, value) for module in modules for name, value in module.named_parameters() if value.requires_grad]
    matrices = [
        value for name, value in named if value.ndim > 1 and "embedding" not in name and "positions" not in name
    ]
    chosen = {id(value) for value in matrices}
    others = [value for _, value in named if id(value) not in chosen]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a question the loop asks between steps."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
