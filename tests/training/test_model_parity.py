"""The torch model against transformers' with the same random weights: features within 1e-4, logits within 1e-3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from florence_train.model import FlorenceConfig, FlorenceModel, TextConfig, VisionConfig, bart, davit, layers, projector
from florence_train.names import NATIVE, rename
from florence_train.tiny import tiny_config
from support.oracle import reference_features, reference_logits, reference_model

TINY = tiny_config(700)
UNEVEN = FlorenceConfig(
    vision=VisionConfig(
        dims=(12, 24, 40),
        depths=(1, 2, 1),
        heads=(3, 2, 5),
        groups=(2, 6, 4),
        patch_sizes=(5, 3, 2),
        patch_strides=(3, 2, 2),
        patch_paddings=(2, 1, 0),
        patch_prenorms=(True, False, True),
        window=5,
        mlp_ratio=2.5,
        qkv_bias=False,
        max_grid=20,
        max_temporal=3,
    ),
    text=TextConfig(
        vocab_size=97,
        dim=48,
        encoder_layers=1,
        decoder_layers=3,
        encoder_heads=6,
        decoder_heads=4,
        encoder_ffn=80,
        decoder_ffn=56,
        max_positions=300,
    ),
    image=replace(TINY.image, height=60, width=84),
)
CONFIGS = {"tiny": TINY, "uneven": UNEVEN}
# Square, rectangular both ways, and grids that no window divides.
SIZES = ((64, 64), (64, 128), (128, 32), (76, 148), (104, 61))


def paired(config: FlorenceConfig, seed: int = 0) -> tuple[FlorenceModel, Any]:
    """Returns our model and transformers' with equal weights."""
    reference = reference_model(config, seed=seed)
    model = FlorenceModel(config).eval()
    model.load_state_dict(rename(reference.state_dict(), NATIVE, model.state_dict()))
    return model, reference


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[FlorenceModel, Any]:
    return paired(CONFIGS[request.param])


def gap(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    return (left - right).abs().max().item()


def draw(config: FlorenceConfig, size: tuple[int, int], *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns pixels, prompt ids and decoder ids of a batch of two."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, *size, generator=generator)
    ids = torch.randint(config.text.vocab_size, (2, 20), generator=generator)
    return pixels, ids[:, :7], ids[:, 7:]


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_features_and_logits_equal_the_reference(pair: tuple[FlorenceModel, Any], size: tuple[int, int]) -> None:
    model, reference = pair
    pixels, prompt, decoder = draw(model.config, size)
    features = reference_features(reference, pixels)
    assert features.shape[1] == model.config.image_tokens(*size)
    assert gap(model.encode_image(pixels), features) < 1e-4
    expected = reference_logits(reference, features, prompt, decoder, torch.ones_like(prompt, dtype=torch.bool))
    assert expected.std() > 1, "the reference must not be degenerate"
    assert gap(model(pixels, prompt, decoder), expected) < 1e-3


@torch.no_grad()
def test_padding_is_masked_as_in_the_reference_and_equals_the_single_runs(pair: tuple[FlorenceModel, Any]) -> None:
    model, reference = pair
    pixels, prompt, decoder = draw(model.config, (64, 64), seed=1)
    features = model.encode_image(pixels)
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    logits = model.decode(features, prompt, decoder, mask)
    assert gap(logits, reference_logits(reference, features, prompt, decoder, mask)) < 1e-3
    single = model.decode(features[1:], prompt[1:, :3], decoder[1:])
    assert gap(logits[1:], single) < 1e-4
    assert gap(model.decode(features, prompt, decoder)[1:], single) > 0.1, "the mask must matter"


@torch.no_grad()
def test_image_placeholders_of_the_native_processor_stand_for_our_features(pair: tuple[FlorenceModel, Any]) -> None:
    model, reference = pair
    pixels, prompt, decoder = draw(model.config, (64, 64), seed=2)
    image_token = reference.config.image_token_id
    prompt[prompt == image_token] = 0
    placeholders = torch.full((2, model.config.image_tokens(64, 64)), image_token)
    output = reference(
        input_ids=torch.cat([placeholders, prompt], dim=1), pixel_values=pixels, decoder_input_ids=decoder
    )
    assert gap(model(pixels, prompt, decoder), output.logits) < 1e-3


def _no_padded_tokens(grid: Tensor, bias: Tensor | None, size: tuple[int, int]) -> Tensor:
    """A window fill that forgets the bias of padded tokens."""
    return _fill(grid, None, size)


def _channel_scale_of_heads(qkv: Tensor, *, groups: int) -> Tensor:
    """Channel attention with the usual head_dim ** -0.5."""
    wrong = qkv.clone()
    wrong[..., : qkv.shape[-1] // 3] *= qkv.shape[1] ** 0.5 * (qkv.shape[-1] // 3 // groups) ** -0.5
    return _channel_attention(wrong, groups=groups)


def _pooled_last(module: projector.Projector, features: Tensor) -> Tensor:
    return _project(module, features).roll(-1, dims=1)


def _rows_for_columns(module: projector.Projector, features: Tensor) -> Tensor:
    return torch.cat([_project(module, features)[:, :1], _transposed_tokens(module, features)], dim=1)


def _transposed_tokens(module: projector.Projector, features: Tensor) -> Tensor:
    tokens = _project(module, features.transpose(2, 3))[:, 1:]
    grid = tokens.reshape(len(tokens), features.shape[3], features.shape[2], -1)
    return grid.transpose(1, 2).flatten(1, 2)


_fill = davit._fill
_channel_attention = davit.channel_attention
_project = projector.Projector.forward
_attend = layers.attend
MISTAKES: dict[str, tuple[Any, str, Any]] = {
    "padded tokens without bias": (davit, "_fill", _no_padded_tokens),
    "channel attention scaled by head size": (davit, "channel_attention", _channel_scale_of_heads),
    "pooled token last": (projector.Projector, "forward", _pooled_last),
    "rows and columns swapped": (projector.Projector, "forward", _rows_for_columns),
    "no position offset": (bart, "POSITION_OFFSET", 0),
    "mask ignored": (bart, "attend", lambda q, k, v, **options: _attend(q, k, v, causal=options["causal"])),
    "not causal": (bart, "attend", lambda q, k, v, **options: _attend(q, k, v, mask=options["mask"])),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@torch.no_grad()
def test_the_comparison_notices(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = paired(TINY)
    pixels, prompt, decoder = draw(TINY, (76, 148))
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    expected = reference_logits(reference, reference_features(reference, pixels), prompt, decoder, mask)
    assert gap(model(pixels, prompt, decoder, mask), expected) < 1e-3
    owner, name, replacement = MISTAKES[mistake]
    monkeypatch.setattr(owner, name, replacement)
    assert gap(model(pixels, prompt, decoder, mask), expected) > 1e-2


@pytest.mark.parametrize(
    ("rows", "bias"), [((3, 5), True), ((8, 4), True), ((9, 7), False)], ids=["both sides", "exact", "no bias"]
)
def test_window_attention_equals_a_loop_in_float64(rows: tuple[int, int], bias: bool) -> None:
    """Each window written out by hand: padded tokens are zero before the projection and take part in the softmax."""
    torch.manual_seed(0)
    window, heads, dim = 4, 2, 6
    projection = torch.nn.Linear(dim, 3 * dim, bias=bias).double()
    tokens = torch.randn(1, rows[0] * rows[1], dim, dtype=torch.float64)
    result = davit.window_attention(projection(tokens), projection.bias, rows, window=window, heads=heads)
    grid = torch.zeros(16, 16, dim, dtype=torch.float64)
    grid[: rows[0], : rows[1]] = tokens[0].reshape(*rows, dim)
    expected = torch.zeros_like(grid)
    for y in range(0, rows[0], window):
        for x in range(0, rows[1], window):
            cell = projection(grid[y : y + window, x : x + window].reshape(-1, dim)).reshape(-1, 3, heads, dim // heads)
            for head in range(heads):
                query, key, value = cell[:, :, head].unbind(1)
                mixed = ((query @ key.T) * (dim // heads) ** -0.5).softmax(-1) @ value
                channels = slice(head * dim // heads, (head + 1) * dim // heads)
                expected[y : y + window, x : x + window, channels] = mixed.reshape(window, window, -1)
    assert gap(result[0], expected[: rows[0], : rows[1]].reshape(-1, dim)) < 1e-12


def test_channel_attention_survives_half_precision_over_many_tokens() -> None:
    """Stage 1 of a 768-pixel image has 36,864 tokens; unscaled sums over them pass fp16's largest number."""
    torch.manual_seed(0)
    qkv = 1.5 + torch.randn(1, 36864, 3 * 32)
    assert (qkv[0, :, :32].half().T @ qkv[0, :, 32:64].half()).isinf().any()
    exact = davit.channel_attention(qkv.double(), groups=1)
    half = davit.channel_attention(qkv.half(), groups=1)
    assert gap(half.double(), exact) < 0.3


HALVES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("name", HALVES)
@torch.no_grad()
def test_half_precision_errs_no_more_than_the_reference_in_half_precision(name: str) -> None:
    model, reference = paired(TINY)
    pixels, prompt, decoder = draw(TINY, (64, 64))
    mask = torch.ones_like(prompt, dtype=torch.bool)
    exact = reference_logits(reference, reference_features(reference, pixels), prompt, decoder, mask)
    model, reference, pixels = model.to(HALVES[name]), reference.to(HALVES[name]), pixels.to(HALVES[name])
    theirs = reference_logits(reference, reference_features(reference, pixels), prompt, decoder, mask)
    ours = model(pixels, prompt, decoder)

    def error(logits: Tensor) -> float:
        return (logits.float() - exact).square().mean().sqrt().item()

    assert error(ours) < 1.5 * error(theirs)
