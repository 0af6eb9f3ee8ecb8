"""A small random model that the kernels can run, and random requests to it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from florence_edge.backends.request import Bounds, Request, make_request
from florence_edge.manifest import Limits
from florence_edge.options import EarlyStopping, SearchConfig
from florence_edge.preprocess import ImageSpec
from florence_train.model import FlorenceConfig, FlorenceModel, TextConfig, VisionConfig

VOCABULARY, POSITIONS = 97, 64
CONFIG = FlorenceConfig(
    vision=VisionConfig(
        dims=(32, 32, 64, 64), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), groups=(1, 1, 2, 2), window=4, max_grid=16
    ),
    text=TextConfig(
        vocab_size=VOCABULARY,
        dim=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn=64,
        decoder_ffn=64,
        max_positions=POSITIONS,
        unused_tokens=(90, 91),
    ),
    image=ImageSpec(height=64, width=64),
)


@cache
def small_model() -> FlorenceModel:
    """In eval mode, its attention peaked, and `</s>` likely enough for answers of different lengths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = FlorenceModel(CONFIG).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1 and "norm" not in name:
                    parameter.normal_(std=0.2)
                elif "query" in name or "embedding" in name:
                    parameter.mul_(2.5)
            model.embedding.weight[2] *= 1.6
    return model


def random_config(rng: np.random.Generator) -> SearchConfig:
    """Any search of one to eight beams."""
    limit = int(rng.integers(1, 17))
    stops: tuple[EarlyStopping, ...] = (True, False, "never")
    return SearchConfig(
        beams=int(rng.integers(1, 9)),
        max_new_tokens=limit,
        min_new_tokens=int(rng.integers(0, min(limit, 6) + 1)),
        length_penalty=float(rng.choice([-1.0, 0.0, 0.5, 1.0, 2.0])),
        early_stopping=stops[int(rng.integers(3))],
        no_repeat_ngram=int(rng.integers(0, 5)),
        forced_bos=None if rng.random() < 0.3 else 0,
        forced_eos=None if rng.random() < 0.3 else 2,
    )


def random_request(rng: np.random.Generator, images: int, config: SearchConfig, positions: int = POSITIONS) -> Request:
    """One to four prompts of different lengths, each about any of the images; a model of so many positions."""
    prompts = [
        np.asarray([0, *rng.integers(3, VOCABULARY, size=rng.integers(1, 9)), 2]) for _ in range(rng.integers(1, 5))
    ]
    rows = [int(row) for row in rng.integers(0, images, size=len(prompts))]
    return make_request(Bounds(Limits(20, positions - 1), config, VOCABULARY), images, prompts, None, rows)
