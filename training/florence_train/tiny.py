"""A small random checkpoint: every code path of a real one in a few seconds and a few megabytes, but no knowledge."""

from __future__ import annotations

from pathlib import Path

import torch

from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec
from florence_edge.tasks import TASKS

from .checkpoint import save_checkpoint
from .model import FlorenceConfig, FlorenceModel, TextConfig, VisionConfig
from .tokenizer import train_tokenizer

TEXT_TOKENS = 512
WORDS = ("a red cube left of a ball", "cup", "mug", "bowl", "the label says open", "two cones on a wooden table")


def tiny_config(vocab_size: int) -> FlorenceConfig:
    """Returns the dimensions of a tiny model for images of 64 x 64 pixels."""
    return FlorenceConfig(
        vision=VisionConfig(
            dims=(16, 32, 64, 64), depths=(1, 1, 2, 1), heads=(2, 2, 4, 4), groups=(2, 2, 4, 4), window=4, max_grid=16
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            dim=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_heads=4,
            decoder_heads=4,
            encoder_ffn=128,
            decoder_ffn=128,
            max_positions=256,
        ),
        image=ImageSpec(height=64, width=64),
    )


def write_tiny_checkpoint(folder: str | Path, *, seed: int = 0) -> Path:
    """Writes a random checkpoint in the native layout, with tokenizer and generation settings, and returns its folder.

    The same seed gives the same files. The caller's random state is left alone.
    """
    tokenizer = train_tokenizer([*(task.prompt for task in TASKS), *WORDS], text_tokens=TEXT_TOKENS)
    config = tiny_config(tokenizer.get_vocab_size())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FlorenceModel(config)
    generation = SearchConfig(max_new_tokens=config.limits.new_tokens)
    save_checkpoint(model, config, folder, tokenizer=tokenizer, generation=generation, metadata={"seed": seed})
    return Path(folder)
