"""`florence-edge train`: a recipe and a folder in, a checkpoint in the native layout out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.tokens import Tokens

from .checkpoint import load_checkpoint, save_checkpoint
from .corpus import texts
from .data import digest, load
from .data.source import RecordSource
from .generation import read_generation
from .model import FlorenceConfig, FlorenceModel
from .recipe import Recipe
from .scenes import SceneSource
from .scratch import order_locations
from .tokenizer import load_tokenizer, train_tokenizer
from .trainer import Outcome, Source, Trainer

CHECKPOINT = "checkpoint"
TABLETOP = "tabletop"
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class _Start:
    """What a run begins with."""

    model: FlorenceModel
    tokenizer: Tokenizer
    generation: SearchConfig

    @property
    def config(self) -> FlorenceConfig:
        return self.model.config


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    until: int | None = None,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] | None = None,
) -> Outcome:
    """Trains as `recipe` says, going on from what `folder` holds, and writes `folder/checkpoint`.

    `until` ends this call at a step before the recipe's last; a later call goes on from there. `report` gets every line
    of the log. Raises `InputError` for a recipe that cannot be followed, before anything is computed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    start = _from_checkpoint(recipe) if recipe.start else _from_nothing(recipe, folder)
    _freeze(start.model, recipe.optimizer.freeze)
    source, data = _source(recipe, start)
    outcome = Trainer(recipe, source, start.model, folder=folder, device=device).run(until=until, report=report)
    save_checkpoint(
        outcome.model,
        start.config,
        folder / CHECKPOINT,
        tokenizer=start.tokenizer,
        generation=start.generation,
        metadata={"recipe": recipe.to_dict(), "recipe_sha256": recipe.digest(), "data": data, "step": outcome.step},
    )
    return outcome


def _from_checkpoint(recipe: Recipe) -> _Start:
    """A published checkpoint, or one of our own, with its tokenizer and search settings."""
    if recipe.model != FlorenceConfig():
        raise InputError("a recipe has either `start`, a checkpoint to go on from, or [model], a model to begin with")
    model, _ = load_checkpoint(recipe.start)
    return _Start(model, load_tokenizer(recipe.start), read_generation(Path(recipe.start)))


def _from_nothing(recipe: Recipe, folder: Path) -> _Start:
    """A new model for tabletop scenes, and a tokenizer trained on what is said about them."""
    path = folder / _TOKENIZER
    if not path.exists():
        corpus = texts(recipe.tokenizer.scenes, seed=recipe.data.seed)
        train_tokenizer(corpus, text_tokens=recipe.tokenizer.text_tokens).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    vocabulary = Tokens(tokenizer).vocabulary
    torch.manual_seed(recipe.data.seed)
    model = FlorenceModel(replace(recipe.model, text=replace(recipe.model.text, vocab_size=vocabulary.size)))
    order_locations(model, vocabulary)
    # Scene descriptions repeat their trigrams ("in front of", "with a"): the published ban would garble them.
    generation = SearchConfig(no_repeat_ngram=0, max_new_tokens=recipe.model.text.max_positions - 1)
    return _Start(model, tokenizer, generation)


def _source(recipe: Recipe, start: _Start) -> tuple[Source, str]:
    """The data of the recipe, and what the checkpoint remembers of it."""
    tokens = Tokens(start.tokenizer)
    if recipe.data.source == TABLETOP:
        return SceneSource(recipe.data, start.config, tokens), TABLETOP
    dataset = load(recipe.data.source, tasks=tuple(recipe.data.weights))
    return RecordSource(recipe.data, start.config, tokens, dataset), f"sha256:{digest(dataset)}"


def _freeze(model: FlorenceModel, parts: tuple[str, ...]) -> None:
    """Keeps the parameters whose names begin with one of `parts` as they are."""
    names = [name for name, _ in model.named_parameters()]
    unknown = [part for part in parts if not any(name.startswith(f"{part}.") for name in names)]
    if unknown:
        known = sorted({name.partition(".")[0] for name in names})
        raise InputError(
            f"nothing is called {', '.join(unknown)}; the parts are: {', '.join(known)}, and parts of those"
        )
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"{part}.") for part in parts):
            parameter.requires_grad_(False)
