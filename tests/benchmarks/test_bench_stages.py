"""What is told apart inside a search, and the work that every stage must do."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_bench.clock import WallClock
from florence_bench.errors import BenchmarkError
from florence_bench.recorder import Recorder
from florence_bench.roofline import bandwidth, peak_flops
from florence_bench.settings import Settings
from florence_bench.stages import StageMeter, decoder_steps, first_free
from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, Int32Array, Int64Array
from florence_edge.model import Florence
from florence_edge.options import SearchConfig
from florence_edge.search import generate
from support.fake_backend import FakeBackend, make_bundle


class Counting:
    """A decoder of random logits that counts its steps."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        self.steps += 1
        return np.random.default_rng(self.steps).normal(size=(*token_ids.shape, 50)).astype(np.float32)


FORCED = list(product([0, None], [2, None]))


@pytest.mark.parametrize(("bos", "eos"), FORCED)
@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_steps_of_a_fixed_length_are_those_of_the_search(
    bos: int | None, eos: int | None, tokens: int, beams: int
) -> None:
    config = SearchConfig(
        beams=beams, max_new_tokens=tokens, min_new_tokens=tokens, forced_bos=bos, forced_eos=eos, no_repeat_ngram=0
    )
    decoder = Counting()
    generate(decoder, 1, config)
    assert decoder.steps == decoder_steps(config, tokens)


@pytest.mark.parametrize(("bos", "eos"), FORCED)
def test_the_first_free_token_is_chosen_by_the_last_step(bos: int | None, eos: int | None) -> None:
    config = SearchConfig(forced_bos=bos, forced_eos=eos)
    assert decoder_steps(config, first_free(config)) == (1 if bos is None else 2)


def test_a_backend_that_does_not_keep_the_length_is_found_out(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    recorder = Recorder(FakeBackend(bundle))
    settings = Settings(tokens=8, warmup_seconds=0, seconds=0.01, runs=2)
    picture = _jpeg()
    with Florence(bundle, recorder) as model, pytest.raises(BenchmarkError, match="min_new_tokens"):
        StageMeter(model, recorder, replace(settings, task="<OCR>"), WallClock()).measure([picture], recorder)


def test_settings_are_refused_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Settings(tokens=1, runs=0, seconds=0, scenarios=("single", "double"), growth=("age",), camera_rates=(0.0,))
    for word in ("tokens", "runs", "seconds", "double", "age", "camera_rates"):
        assert word in str(caught.value)


def test_the_ceilings_are_of_a_plausible_size() -> None:
    clock = WallClock()
    assert 1e8 < peak_flops(clock, budget_seconds=0.01) < 1e14
    assert 1e8 < bandwidth(clock, budget_seconds=0.01) < 1e13


def _jpeg() -> bytes:
    data = BytesIO()
    Image.new("RGB", (64, 48), "teal").save(data, format="JPEG")
    return data.getvalue()
