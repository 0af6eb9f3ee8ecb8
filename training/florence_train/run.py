"""`florence-edge train`: a recipe and a folder in, a checkpoint in the native layout out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from florence_edge.options import SearchConfig
from florence_edge.tokens import Tokens

from .checkpoint import save_checkpoint
from .corpus import texts
from .model import FlorenceModel
from .recipe import Recipe
from .scenes import SceneSource
from .scratch import order_locations
from .tokenizer import train_tokenizer
from .trainer import Outcome, Trainer

TOKENIZER = "tokenizer.json"
CHECKPOINT = "checkpoint"

GENERATION = SearchConfig(no_repeat_ngram=0)
"""Scene descriptions repeat their trigrams ("in front of", "with a"): the published ban would garble them."""


def train(
    recipe: Recipe,
    folder: Path,
    *,
    until: int | None = None,
    device: str = "cpu",
    report: Callable[[dict[str, float]], None] | None = None,
) -> Outcome:
    """Trains as `recipe` says, going on from what `folder` holds, and writes `folder/checkpoint`.

    `until` ends this call at a step before the recipe's last; a later call goes on from there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens.load(_tokenizer(recipe, folder))
    text = replace(recipe.model.text, vocab_size=tokens.vocabulary.size)
    config = replace(recipe.model, text=text)
    torch.manual_seed(recipe.data.seed)
    model = FlorenceModel(config)
    order_locations(model, tokens.vocabulary)
    source = SceneSource(recipe.data, config, tokens)
    outcome = Trainer(recipe, source, model, folder=folder, device=device).run(until=until, report=report)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    metadata = {"recipe": recipe.digest(), "step": str(outcome.step)}
    save_checkpoint(
        outcome.model, config, folder / CHECKPOINT, tokenizer=tokenizer, generation=GENERATION, metadata=metadata
    )
    return outcome


def _tokenizer(recipe: Recipe, folder: Path) -> Path:
    """The run's tokenizer file, trained on the first call."""
    path = folder / TOKENIZER
    if not path.exists():
        corpus = texts(recipe.tokenizer.scenes, seed=recipe.data.seed)
        train_tokenizer(corpus, text_tokens=recipe.tokenizer.text_tokens).save(str(path))
    return path
