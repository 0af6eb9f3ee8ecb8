"""Model dimensions: validated, strict about unknown keys, and lossless through JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.preprocess import ImageSpec
from florence_train.model import BASE, LARGE, FlorenceConfig, FlorenceModel, TextConfig, VisionConfig
from florence_train.model.davit import DaViT
from florence_train.tiny import tiny_config

STAGE = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.booleans())


@st.composite
def configs(draw: st.DrawFn) -> FlorenceConfig:
    stages = draw(st.lists(STAGE, min_size=1, max_size=5))
    heads, depths, widths, norms = zip(*stages, strict=True)
    vision = VisionConfig(
        dims=tuple(2 * h * w for h, w in zip(heads, widths, strict=True)),
        depths=depths,
        heads=heads,
        groups=heads,
        patch_sizes=(3,) * len(stages),
        patch_strides=(2,) * len(stages),
        patch_paddings=(1,) * len(stages),
        patch_prenorms=norms,
        drop_path_rate=draw(st.floats(0, 0.99)),
    )
    unused = draw(st.lists(st.integers(0, 99), max_size=3))
    text = TextConfig(vocab_size=100, unused_tokens=tuple(unused))
    return FlorenceConfig(vision, text, ImageSpec(height=16, width=16))


@given(configs())
def test_round_trip_through_json(config: FlorenceConfig) -> None:
    assert FlorenceConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@settings(max_examples=20, deadline=None)
@given(configs(), st.integers(1, 40), st.integers(1, 40))
def test_grid_is_what_the_convolutions_give(config: FlorenceConfig, height: int, width: int) -> None:
    with torch.device("meta"):
        features = DaViT(config.vision)(torch.empty(1, 3, height, width))
    assert tuple(features.shape[2:]) == config.vision.grid(height, width)


def test_absent_keys_take_the_defaults_at_every_depth() -> None:
    assert FlorenceConfig.from_dict({}) == BASE
    partial = FlorenceConfig.from_dict({"text": {"dropout": 0.0}, "image": {"height": 384}})
    assert partial == replace(
        BASE, text=replace(BASE.text, dropout=0.0), image=replace(BASE.image, height=384, width=768)
    )


def test_a_whole_number_will_do_for_a_rate() -> None:
    assert TextConfig(dropout=0) == TextConfig(dropout=0.0)


def test_all_faults_of_a_document_are_listed_at_once() -> None:
    with pytest.raises(InputError) as caught:
        FlorenceConfig.from_dict({"vison": {}, "text": {"dims": 3, "dropout": "much"}, "vision": {"window": 1.5}})
    for part in ("vison", "text.dims", "text.dropout", "vision.window"):
        assert part in str(caught.value)


FAULTS: tuple[tuple[Any, dict[str, Any], tuple[str, ...]], ...] = (
    (VisionConfig, {"depths": (1, 1)}, ("depths has 2 stages, dims has 4",)),
    (VisionConfig, {"heads": (3, 8, 16, 32), "groups": (4, 5, 16, 32)}, ("dims[0] = 128", "dims[1] = 256")),
    (VisionConfig, {"dims": (8, 8, 8, 9), "heads": (1,) * 4, "groups": (1,) * 4}, ("must be even",)),
    (VisionConfig, {"window": 0, "drop_path_rate": 1.0}, ("window must be at least 1", "drop_path_rate")),
    (VisionConfig, {"dims": (), "depths": ()}, ("at least one stage",)),
    (TextConfig, {"encoder_heads": 7, "decoder_heads": 11}, ("encoder_heads = 7", "decoder_heads = 11")),
    (TextConfig, {"vocab_size": 0, "dropout": -0.1}, ("vocab_size must be at least 1", "dropout")),
    (TextConfig, {"vocab_size": 5, "unused_tokens": (5, -1)}, ("outside the vocabulary of 5",)),
)


@pytest.mark.parametrize(("cls", "values", "parts"), FAULTS)
def test_impossible_dimensions_are_refused(cls: Any, values: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        cls(**values)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
def test_image_sizes_up_to_the_limit_of_positions(config: FlorenceConfig) -> None:
    assert config.image_tokens(768, 768) == 577
    assert config.image_tokens(960, 960) == 901
    assert config.image_tokens(640, 1440) == 1 + 20 * 45
    for height, width, reason in ((1024, 1024, "leave no room"), (96, 1640, "50x50"), (0, 64, "empty")):
        with pytest.raises(InputError, match=reason):
            config.image_tokens(height, width)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pixels": torch.zeros(1, 4, 64, 64)}, r"\[B, 3, H, W\]"),
        ({"pixels": torch.zeros(3, 64, 64)}, r"\[B, 3, H, W\]"),
        ({"pixels": torch.zeros(1, 3, 640, 640)}, "position table"),
        ({"prompt": 252}, "image and prompt take 257 positions; the model has 256"),
        ({"decoder": 257}, "decoder take 257"),
    ],
)
def test_inputs_beyond_the_tables_are_refused(arguments: dict[str, Any], reason: str) -> None:
    model = FlorenceModel(tiny_config(20))
    values = {"pixels": torch.zeros(1, 3, 64, 64), "prompt": 3, "decoder": 3, **arguments}
    prompt, decoder = (torch.zeros(1, values[name], dtype=torch.long) for name in ("prompt", "decoder"))
    with pytest.raises(InputError, match=reason):
        model(values["pixels"], prompt, decoder)
