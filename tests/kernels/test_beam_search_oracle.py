"""The beam kernels against `generate` of transformers on toy BART models: sequence, score, token log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from support.beam_search import Found, Logits, Options, Search
from support.kernels import Kernels
from support.toys import VOCABULARY, toy_bart

IMAGES = 4
STOPPING = (False, True, "never")


def generate(model: Any, prompts: torch.Tensor, options: Options) -> list[Found]:
    with torch.no_grad():
        out = model.generate(
            input_ids=prompts,
            num_beams=options.beams,
            do_sample=False,
            max_length=options.max_length,
            min_new_tokens=options.min_new_tokens or None,
            length_penalty=options.length_penalty,
            early_stopping=STOPPING[options.early_stopping],
            no_repeat_ngram_size=options.no_repeat_ngram or None,
            forced_bos_token_id=options.forced_bos_token if options.forced_bos_token >= 0 else None,
            forced_eos_token_id=options.forced_eos_token if options.forced_eos_token >= 0 else None,
            return_dict_in_generate=True,
            output_scores=True,
        )
    greedy = options.beams == 1
    transitions = None if greedy else model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    found = []
    for image, sequence in enumerate(out.sequences.tolist()):
        # The first EOS ends a hypothesis; what follows is padding. Position 0 is the start token, which is EOS too.
        ends = [i for i, token in enumerate(sequence) if token == options.eos_token and i > 0]
        tokens = sequence[: ends[0] + 1] if ends else sequence
        if transitions is None:
            found.append(Found(tokens, float("nan")))
        else:
            logprobs = transitions[image, : len(tokens) - 1].tolist()
            found.append(Found(tokens, float(out.sequences_scores[image]), logprobs))
    return found


def logits_functions(model: Any, prompts: torch.Tensor) -> list[Logits]:
    with torch.no_grad():
        encoded = model.get_encoder()(prompts).last_hidden_state

    def function(image: int) -> Logits:
        states = BaseModelOutput(last_hidden_state=encoded[image : image + 1])

        def logits(tokens: Sequence[int]) -> np.ndarray:
            with torch.no_grad():
                out = model(encoder_outputs=states, decoder_input_ids=torch.tensor([list(tokens)]))
            return np.asarray(out.logits[0, -1].numpy())

        return logits

    return [function(image) for image in range(len(prompts))]


def compare(kernels: Kernels, seed: int, options: Options, eos_bias: float) -> None:
    model = toy_bart(seed, eos_bias=eos_bias)
    prompts = torch.randint(3, VOCABULARY, (IMAGES, 6))
    ours = Search(kernels, options, batch=IMAGES).run(logits_functions(model, prompts))
    for image, (found, expected) in enumerate(zip(ours, generate(model, prompts, options), strict=True)):
        assert found.tokens == expected.tokens, f"image {image}"
        if options.beams > 1:  # greedy search of transformers keeps no log-probabilities
            np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=1e-4)
            assert found.score == pytest.approx(expected.score, abs=1e-4)


OPTIONS = [
    Options(beams=beams, early_stopping=stopping, length_penalty=penalty)
    for beams in (2, 3, 5)
    for stopping in (0, 1, 2)
    for penalty in (0.0, 1.0, 2.0)
]
VARIANTS = [
    Options(min_new_tokens=6),
    Options(no_repeat_ngram=0, early_stopping=1),
    Options(no_repeat_ngram=2, forced_bos_token=-1),
    Options(forced_eos_token=-1),
    Options(beams=8, max_length=10),
    Options(beams=4, length_penalty=-1.0, early_stopping=2),
]


@pytest.mark.parametrize("options", [OPTIONS[i] for i in (1, 5, 13, 24)] + VARIANTS, ids=str)
def test_equals_generate(twin: Kernels, options: Options) -> None:
    compare(twin, seed=len(str(options)), options=options, eos_bias=1.0)


def test_device_code_equals_generate(kernels: Kernels) -> None:
    compare(kernels, seed=7, options=Options(early_stopping=1), eos_bias=1.0)


@pytest.mark.parametrize("eos_bias", [0.0, 2.0])
def test_one_beam_that_stops_when_full_is_greedy_search(twin: Kernels, eos_bias: float) -> None:
    compare(twin, seed=3, options=Options(beams=1, early_stopping=1), eos_bias=eos_bias)


@pytest.mark.slow
@pytest.mark.parametrize("eos_bias", [0.0, 1.5])
@pytest.mark.parametrize("options", OPTIONS + [replace(v, length_penalty=1.5) for v in VARIANTS], ids=str)
def test_equals_generate_in_1056_cases(twin: Kernels, options: Options, eos_bias: float) -> None:
    """33 settings x 2 biases x 4 seeds x 4 images."""
    for seed in range(4):
        compare(twin, seed, options, eos_bias)
