"""What a run begins with: a published checkpoint, one of our own, or a new model for tabletop scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.tokens import TOKENIZER_FILE, Tokens

from .checkpoint import load_checkpoint
from .corpus import texts
from .enlarge import deepen, enlarge
from .folder import digest
from .generation import read_generation
from .loop.devices import Devices
from .lora import add_adapters
from .model import FlorenceConfig, FlorenceModel
from .recipe import Recipe
from .scratch import order_locations
from .tokenizer import load_tokenizer, train_tokenizer


@dataclass(frozen=True)
class Start:
    """A model with its tokenizer and search settings; `sha256` of the checkpoint it comes from, empty for a new one."""

    model: FlorenceModel
    tokenizer: Tokenizer
    generation: SearchConfig
    sha256: str = ""

    @property
    def config(self) -> FlorenceConfig:
        """The model's dimensions."""
        return self.model.config


def begin(recipe: Recipe, folder: Path, *, devices: Devices) -> Start:
    """The start of a run, frozen and with adapters as the recipe says; `InputError` for one that cannot be followed."""
    start = _from_checkpoint(recipe) if recipe.start else _from_nothing(recipe, folder, devices)
    _freeze(start.model, recipe.optimizer.freeze)
    if recipe.lora is not None:
        add_adapters(start.model, recipe.lora, seed=recipe.data.seed)
    return start


def _from_checkpoint(recipe: Recipe) -> Start:
    if recipe.model != FlorenceConfig():
        raise InputError("a recipe has either `start`, a checkpoint to go on from, or [model], a model to begin with")
    folder = Path(recipe.start)
    model, _ = load_checkpoint(folder)
    if recipe.enlarge is not None:
        model = enlarge(model, *recipe.enlarge)
    if recipe.deepen is not None:
        model = deepen(model, recipe.deepen)
    return Start(model, load_tokenizer(folder), read_generation(folder), digest(folder))


def _from_nothing(recipe: Recipe, folder: Path, devices: Devices) -> Start:
    """A new model for tabletop scenes, and a tokenizer trained on what is said about them."""
    path = folder / TOKENIZER_FILE
    if devices.main and not path.exists():
        corpus = texts(recipe.tokenizer.scenes, seed=recipe.data.seed)
        train_tokenizer(corpus, text_tokens=recipe.tokenizer.text_tokens).save(str(path))
    devices.wait()
    tokenizer = Tokenizer.from_file(str(path))
    vocabulary = Tokens(tokenizer).vocabulary
    torch.manual_seed(recipe.data.seed)
    model = FlorenceModel(replace(recipe.model, text=replace(recipe.model.text, vocab_size=vocabulary.size)))
    order_locations(model, vocabulary)
    # Scene descriptions repeat their trigrams ("in front of", "with a"): the published ban would garble them.
    generation = SearchConfig(no_repeat_ngram=0, max_new_tokens=recipe.model.limits.new_tokens)
    return Start(model, tokenizer, generation)


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
