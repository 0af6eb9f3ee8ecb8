"""Step-by-step decoding with a shared, never reordered cache against whole sequences through transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from florence_train.model import CrossCache, FlorenceModel, SelfCache
from florence_train.names import NATIVE, rename
from florence_train.tiny import tiny_config
from support.oracle import reference_logits, reference_model

CONFIG = tiny_config(700)
BEAMS, STEPS, LENGTH = 4, 9, 12


def empty_cache(config_batch: int, beams: int, length: int) -> SelfCache:
    """A cache full of nonsense, as memory that was never cleared: only what ancestors name may be read."""
    text = CONFIG.text
    shape = (config_batch, text.decoder_heads, length, beams, text.dim // text.decoder_heads)
    generator = torch.Generator().manual_seed(9)
    keys, values = ([torch.randn(shape, generator=generator) for _ in range(text.decoder_layers)] for _ in range(2))
    return SelfCache(keys, values)


def replay(
    model: FlorenceModel, cross: CrossCache, tokens: Tensor, parents: Tensor
) -> tuple[list[Tensor], list[list[list[int]]]]:
    """Decodes tokens `[steps, B, K]`, beam k of step t going on from beam parents[t, b, k] of step t - 1.

    Returns the logits `[B, K, V]` of every step and each beam's history of tokens after the last step.
    """
    steps, batch, beams = tokens.shape
    cache = empty_cache(batch, beams, LENGTH)
    ancestors = torch.full((batch, beams, LENGTH), -1, dtype=torch.int32)
    histories: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(batch)]
    logits = []
    for t in range(steps):
        index = parents[t].long()
        ancestors = torch.gather(ancestors, 1, index[..., None].expand_as(ancestors))
        histories = [[histories[b][index[b, k]] + [int(tokens[t, b, k])] for k in range(beams)] for b in range(batch)]
        output = model.decode_step(tokens[t], torch.tensor(t), ancestors, cache, cross)
        for kept, new in zip([*cache.keys, *cache.values], [*output.keys, *output.values], strict=True):
            kept[:, :, t] = new
        ancestors[:, :, t] = torch.arange(beams, dtype=torch.int32)
        logits.append(output.logits)
    return logits, histories


@pytest.fixture(scope="module")
def setting() -> tuple[FlorenceModel, object, Tensor, Tensor, Tensor]:
    """Returns our model, the reference, features, prompt ids and a prompt mask of a batch of two."""
    reference = reference_model(CONFIG, seed=3)
    model = FlorenceModel(CONFIG).eval()
    model.load_state_dict(rename(reference.state_dict(), NATIVE, model.state_dict()))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        features = model.encode_image(torch.randn(2, 3, 64, 96, generator=generator))
    prompt = torch.randint(CONFIG.text.vocab_size, (2, 6), generator=generator)
    return model, reference, features, prompt, torch.arange(6) < torch.tensor([[6], [4]])


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_beams_that_cross_and_die_equal_their_histories_run_whole(
    setting: tuple[FlorenceModel, object, Tensor, Tensor, Tensor], seed: int
) -> None:
    model, reference, features, prompt, mask = setting
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(CONFIG.text.vocab_size, (STEPS, 2, BEAMS), generator=generator)
    parents = torch.randint(BEAMS, (STEPS, 2, BEAMS), generator=generator)
    assert (parents != torch.arange(BEAMS)).any(), "some beam must change its slot"
    logits, histories = replay(model, model.encode_prompt(features, prompt, mask), tokens, parents)
    for beam in range(BEAMS):
        sequences = torch.tensor([histories[b][beam] for b in range(2)])
        expected = reference_logits(reference, features, prompt, sequences, mask)[:, -1]
        assert (logits[-1][:, beam] - expected).abs().max() < 1e-3


@torch.no_grad()
def test_every_step_of_independent_beams_equals_the_whole_sequence(
    setting: tuple[FlorenceModel, object, Tensor, Tensor, Tensor],
) -> None:
    model, reference, features, prompt, mask = setting
    tokens = torch.randint(CONFIG.text.vocab_size, (STEPS, 2, BEAMS), generator=torch.Generator().manual_seed(7))
    straight = torch.arange(BEAMS).expand(STEPS, 2, BEAMS)
    logits = torch.stack(replay(model, model.encode_prompt(features, prompt, mask), tokens, straight)[0])
    for beam in range(BEAMS):
        expected = reference_logits(reference, features, prompt, tokens[:, :, beam].T, mask)
        assert (logits[:, :, beam].transpose(0, 1) - expected).abs().max() < 1e-3


@torch.no_grad()
def test_a_wrong_ancestor_changes_the_answer(setting: tuple[FlorenceModel, object, Tensor, Tensor, Tensor]) -> None:
    model, _, features, prompt, mask = setting
    cross = model.encode_prompt(features, prompt, mask)
    cache = empty_cache(2, BEAMS, LENGTH)
    ancestors = torch.full((2, BEAMS, LENGTH), -1, dtype=torch.int32)
    ancestors[:, :, :3] = torch.arange(BEAMS, dtype=torch.int32)[:, None]
    token, position = torch.full((2, BEAMS), 5), torch.tensor(3)
    right = model.decode_step(token, position, ancestors, cache, cross).logits
    ancestors[0, 1, 2] = 3
    moved = (model.decode_step(token, position, ancestors, cache, cross).logits - right).abs().amax(-1)
    assert moved[0, 1] > 0.01
    moved[0, 1] = 0
    assert moved.max() < 1e-4, "no other beam may see it"


@torch.no_grad()
def test_the_cross_cache_is_one_entry_per_prompt_and_the_self_cache_is_left_alone(
    setting: tuple[FlorenceModel, object, Tensor, Tensor, Tensor],
) -> None:
    model, _, features, prompt, mask = setting
    cross = model.encode_prompt(features, prompt, mask)
    text, total = CONFIG.text, features.shape[1] + prompt.shape[1]
    assert len(cross.keys) == len(cross.values) == text.decoder_layers
    head = text.dim // text.decoder_heads
    assert {tuple(t.shape) for t in [*cross.keys, *cross.values]} == {(2, text.decoder_heads, total, head)}
    assert cross.mask.sum(dim=1).tolist() == [total, total - 2]
    cache = empty_cache(2, BEAMS, LENGTH)
    before = [tensor.clone() for tensor in cache.keys]
    ancestors = torch.zeros(2, BEAMS, LENGTH, dtype=torch.int32)
    output = model.decode_step(torch.zeros(2, BEAMS, dtype=torch.long), torch.tensor(12), ancestors, cache, cross)
    assert output.logits.shape == (2, BEAMS, text.vocab_size)
    assert {tuple(t.shape) for t in [*output.keys, *output.values]} == {(2, text.decoder_heads, BEAMS, head)}
    assert all(torch.equal(a, b) for a, b in zip(before, cache.keys, strict=True))
