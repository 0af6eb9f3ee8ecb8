"""The search against transformers' own, on random toy models: ids, scores and log-probabilities of every token."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from florence_edge.backends import Hypothesis
from florence_edge.geometry import AnyArray
from florence_edge.options import SearchConfig
from florence_edge.search import generate
from support.toys import VOCABULARY, bart_decoder, bart_generate, toy_bart

BATCH = 3
FORCED = ((0, 2), (0, 2), (None, 2), (0, None), (None, None), (2, 2))
SETTINGS = [
    {"length_penalty": penalty, "early_stopping": stopping, "no_repeat_ngram": ngram}
    for penalty, stopping, ngram in itertools.product((0.0, 1.0, 2.0, -1.0), (True, False, "never"), (0, 1, 3))
]


def random_config(rng: np.random.Generator, beams: int) -> SearchConfig:
    setting: dict[str, Any] = SETTINGS[rng.integers(len(SETTINGS))]
    limit = int(rng.choice([1, 2, 3, 8, 13]))
    forced_bos, forced_eos = FORCED[rng.integers(len(FORCED))]
    return SearchConfig(
        beams=beams,
        max_new_tokens=limit,
        min_new_tokens=int(rng.choice([0, 0, min(5, limit), limit])),
        forced_bos=forced_bos,
        forced_eos=forced_eos,
        **setting,
    )


def expected_logprobs(model: Any, output: Any, config: SearchConfig) -> AnyArray:
    """Log-probabilities [B, T] of the generated tokens from transformers' own records."""
    if config.beams > 1:
        scores: AnyArray = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices).numpy()
        return scores
    # Its greedy search keeps raw logits, so its scores are normalised here, before bans, in fp64; forced tokens cost 0.
    raw = torch.stack(output.logits, dim=1).double().log_softmax(dim=-1)
    chosen = output.sequences[:, 1:]
    logprobs = raw.gather(2, chosen[..., None])[..., 0]
    if config.forced_bos is not None:
        logprobs[:, 0] = 0
    if config.forced_eos is not None and chosen.shape[1] == config.max_new_tokens:
        logprobs[:, -1] = 0
    values: AnyArray = logprobs.numpy()
    return values


def assert_equal(ours: Hypothesis, sequence: AnyArray, score: float | None, logprobs: AnyArray) -> None:
    length = len(ours.ids)
    assert ours.ids.tolist() == sequence[1 : length + 1].tolist()
    assert (sequence[length + 1 :] == 1).all(), "transformers' answer is longer"
    np.testing.assert_allclose(ours.token_logprobs, logprobs[:length], atol=1e-4)
    if score is not None:
        assert ours.score == pytest.approx(score, abs=1e-4, rel=1e-6)


def compare(seed: int, beams: int) -> None:
    rng = np.random.default_rng([seed, beams])
    config = random_config(rng, beams)
    model = toy_bart(seed, eos_bias=float(rng.choice([0, 0, 4, 8])))
    inputs = torch.from_numpy(rng.integers(3, VOCABULARY, size=(BATCH, 6)))
    output = bart_generate(model, inputs, config)
    logprobs = expected_logprobs(model, output, config)
    batch = generate(bart_decoder(model, inputs), BATCH, config)
    for row in range(BATCH):
        score = float(output.sequences_scores[row]) if beams > 1 else None
        assert_equal(batch[row], output.sequences[row].numpy(), score, logprobs[row])
        (alone,) = generate(bart_decoder(model, inputs[row : row + 1]), 1, config)
        assert alone.ids.tolist() == batch[row].ids.tolist()
        assert alone.finish == batch[row].finish


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_random_cases_equal_transformers(beams: int) -> None:
    for seed in range(40):
        compare(seed, beams)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_many_random_cases_equal_transformers(beams: int) -> None:
    for seed in range(1000, 1300):
        compare(seed, beams)


@pytest.mark.parametrize("beams", [1, 3])
def test_published_settings_equal_transformers_on_long_answers(beams: int) -> None:
    for seed in range(8):
        model = toy_bart(seed)
        inputs = torch.from_numpy(np.random.default_rng(seed).integers(3, VOCABULARY, size=(1, 6)))
        config = SearchConfig(beams=beams, max_new_tokens=48)
        output = bart_generate(model, inputs, config)
        (answer,) = generate(bart_decoder(model, inputs), 1, config)
        score = float(output.sequences_scores[0]) if beams > 1 else None
        assert_equal(answer, output.sequences[0].numpy(), score, expected_logprobs(model, output, config)[0])
