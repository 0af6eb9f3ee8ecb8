"""What is told apart inside a search, the ceilings above every stage, and what makes its times doubtful."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from itertools import cycle, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_bench.clock import VirtualClock, WallClock
from florence_bench.errors import BenchmarkError
from florence_bench.machine import Machine
from florence_bench.power.conditions import Conditions
from florence_bench.recorder import Recorder
from florence_bench.roofline import Point, bandwidth, peak_flops, roofline
from florence_bench.series import Series
from florence_bench.settings import Settings
from florence_bench.stability import warnings
from florence_bench.stages import STAGES, Observed, StageMeter, Stages, decoder_steps, first_free
from florence_bench.work import Work
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


class Ticking(VirtualClock):
    """Moves on by itself between two looks: by 3, 1 and 2 ms in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = cycle((0, 3, 0, 1, 0, 2))

    def now(self) -> int:
        self.spend(1e-3 * next(self._looks))
        return super().now()


def test_the_ceilings_are_those_of_the_fastest_run() -> None:
    assert peak_flops(Ticking(), budget_seconds=0.0) == pytest.approx(2 * 1024**3 / 1e-3)
    assert bandwidth(Ticking(), budget_seconds=0.0) == pytest.approx(2 * 2**27 / 1e-3)


def test_a_point_is_what_was_done_in_the_time_it_took() -> None:
    work = {"vision": Work(2e9, 1e6), "step": Work(1.0, 1.0)}
    found = roofline(work, {"vision": 50.0, "step": 0.0}, VirtualClock(), on_cpu=False)
    assert (found.peak_flops, found.bandwidth) == (None, None)
    assert found.points == (Point("vision", 2e9, 1e6, 0.05),)
    assert (found.points[0].rate, found.points[0].intensity) == (4e10, work["vision"].intensity) == (4e10, 2000.0)


QUIET = Conditions({}, {}, "15W", None, 3, (), 2.0)


def measured(**changed: tuple[float, ...]) -> Stages:
    """Steady stages: the engine takes 98 ms of 100."""
    spent = {
        "load": (1.0,),
        "preprocess": (1.0,),
        "vision": (50.0,),
        "encoder": (10.0,),
        "decode": (38.0,),
        "parse": (0.1,),
    }
    series = {name: Series.of(changed.get(name, samples)) for name, samples in {**spent, "total": (100.0,)}.items()}
    total, stages = series["total"], {name: series[name] for name in STAGES}
    return Stages(8, 3, stages, total, total, total, total, 10.0, 80.0, None, Observed(total, total, 0))


@pytest.mark.parametrize(
    ("stages", "before", "after", "said"),
    [
        (measured(), QUIET, QUIET, None),
        (measured(total=(176.0,)), QUIET, QUIET, None),  # 78 ms beside the engine's 98
        (measured(total=(177.0,)), QUIET, QUIET, "bound by the host"),
        (measured(load=(49.9,)), QUIET, QUIET, None),
        (measured(load=(50.0,)), QUIET, QUIET, "bound by the input"),
        (measured(decode=(-1.0, 38.0, 38.0)), QUIET, QUIET, "in 1 of 1 runs"),
        (measured(total=(98.0, 100.0, 102.0)), QUIET, QUIET, None),
        (measured(total=(97.0, 100.0, 103.0)), QUIET, QUIET, "unstable"),
        (measured(), replace(QUIET, load=2.1), QUIET, "shared"),
        (measured(), replace(QUIET, load=None), QUIET, None),
        (measured(), QUIET, replace(QUIET, load=9.0, throttle_events=5), "throttled: 2 "),
        (measured(), QUIET, replace(QUIET, throttling=("GPU 0: heat",)), "GPU 0: heat"),
        (measured(), QUIET, replace(QUIET, power_mode="30W"), "from 15W to 30W"),
    ],
)
def test_doubtful_measurements_carry_one_warning_each(
    stages: Stages, before: Conditions, after: Conditions, said: str | None
) -> None:
    machine = Machine("cpu", 4, 0, (), "", None, (), False, "", "", {})
    found = warnings(stages, machine, before, after)
    assert len(found) == (said is not None)
    assert all(said in text for text in found if said)


def _jpeg() -> bytes:
    data = BytesIO()
    Image.new("RGB", (64, 48), "teal").save(data, format="JPEG")
    return data.getvalue()
