"""Toy decoders for the search: a random BART of transformers, and tables of logits; both without a cache.

They rebuild every beam's history from the ancestors they are told, so a wrong ancestor gives wrong logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import BartConfig, BartForConditionalGeneration

from florence_edge.geometry import Float32Array, Int32Array, Int64Array
from florence_edge.options import SearchConfig

VOCABULARY = 23


class Replay:
    """A `Decoder` that asks `logits_of` (histories [B, K, p + 1] -> [B, K, V]) anew at every step."""

    def __init__(self, logits_of: Callable[[Int64Array], Float32Array]) -> None:
        self.logits_of = logits_of
        self.fed: list[Int64Array] = []

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        batch, beams = token_ids.shape
        assert token_ids.dtype == np.int64
        assert ancestors.dtype == np.int32
        assert ancestors.shape == (batch, beams, len(self.fed))
        past = [np.take_along_axis(tokens, ancestors[..., t], axis=1) for t, tokens in enumerate(self.fed)]
        self.fed.append(token_ids.copy())
        return self.logits_of(np.stack([*past, token_ids], axis=-1))


def toy_bart(seed: int, *, eos_bias: float = 0.0) -> Any:
    """A BART of one layer with weights large enough for decided opinions; fp64, so that a cache makes no difference."""
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        init_std=1.5,
    )
    model: Any = BartForConditionalGeneration(config)
    model.eval().double()
    model.final_logits_bias.normal_()
    model.final_logits_bias[0, config.eos_token_id] += eos_bias
    return model


def bart_decoder(model: Any, inputs: torch.Tensor) -> Replay:
    """A decoder over the encoded `inputs` [B, T] of a toy BART."""
    with torch.no_grad():
        encoded = model.get_encoder()(inputs).last_hidden_state

    def logits_of(histories: Int64Array) -> Float32Array:
        batch, beams, length = histories.shape
        with torch.no_grad():
            logits = model(
                encoder_outputs=(encoded.repeat_interleave(beams, dim=0),),
                decoder_input_ids=torch.from_numpy(histories.reshape(batch * beams, length)),
            ).logits[:, -1]
        values: Float32Array = logits.reshape(batch, beams, -1).float().numpy().copy()
        return values

    return Replay(logits_of)


def bart_generate(model: Any, inputs: torch.Tensor, config: SearchConfig) -> Any:
    """transformers' own search with the same settings."""
    beam_settings = {"early_stopping": config.early_stopping, "length_penalty": config.length_penalty}
    with torch.no_grad():
        return model.generate(
            input_ids=inputs,
            num_beams=config.beams,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            no_repeat_ngram_size=config.no_repeat_ngram,
            forced_bos_token_id=config.forced_bos,
            forced_eos_token_id=config.forced_eos,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **(beam_settings if config.beams > 1 else {}),
        )


def table_decoder(seed: int, *, vocabulary: int, order: int = 2, decimals: int | None = None) -> Replay:
    """Random logits that depend on the last `order` tokens of a history; `decimals` rounds them, which makes ties."""

    def row(context: tuple[int, ...]) -> Float32Array:
        values = np.random.default_rng([seed, *context]).normal(scale=2.0, size=vocabulary).astype(np.float32)
        return values if decimals is None else values.round(decimals)

    def logits_of(histories: Int64Array) -> Float32Array:
        rows = [row((b, *map(int, ids[-order:]))) for b, beams in enumerate(histories) for ids in beams]
        return np.stack(rows).reshape(*histories.shape[:2], vocabulary)

    return Replay(logits_of)
