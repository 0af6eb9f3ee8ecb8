"""What the studies of growth ask of a model, and what they make of an engine whose costs are known."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from florence_bench import growth
from florence_bench.clock import NANOSECONDS, VirtualClock
from florence_bench.growth import Growth, grow
from florence_bench.settings import GROWTHS, Settings
from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.bundle import Bundle
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.images import ImageSource, load_image
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from support.fake_backend import FakeBackend, FakeFeatures, make_bundle

SIZES = {"tokens": (8.0, 16.0, 32.0), "beams": (1.0, 2.0, 3.0, 4.0), "batch": (1.0, 2.0, 4.0), "pixels": (4096, 16384)}


class Timed(FakeBackend):
    """Encoding takes 10 ms and 2 per image, an answer 1 ms per token and beam; a shape it first meets 1 s more."""

    def __init__(self, bundle: Bundle, clock: VirtualClock) -> None:
        super().__init__(bundle)
        self.clock, self.met = clock, set[tuple[int, ...]]()

    def encode_image(self, pixels: Float32Array) -> FakeFeatures:
        self._spend(0.01 + 0.002 * len(pixels), (len(pixels),))
        return super().encode_image(pixels)

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        config = self._config.over(options)
        assert config.min_new_tokens == config.max_new_tokens
        shape = len(prompt_ids), config.max_new_tokens, config.beams
        self._spend(1e-3 * config.max_new_tokens * config.beams * len(prompt_ids), shape)
        return super().generate(features, prompt_ids, options, image_of)

    def _spend(self, seconds: float, shape: tuple[int, ...]) -> None:
        self.clock.spend(seconds + (shape not in self.met))
        self.met.add(shape)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Growth]:
    """All studies over that engine, with 8 tokens and 2 beams where they are not varied, and 100 ns per pixel read."""
    clock, bundle = VirtualClock(), make_bundle(tmp_path / "bundle", new_tokens=32)

    def read(image: ImageSource, *, bgr: bool = False) -> Image.Image:
        picture = load_image(image, bgr=bgr)
        clock.spend(1e-7 * picture.width * picture.height)
        return picture

    monkeypatch.setattr("florence_edge.view.perf_counter", lambda: clock.now() / NANOSECONDS)
    monkeypatch.setattr("florence_edge.view.load_image", read)
    monkeypatch.setattr(growth, "SIDES", (64, 128))
    data = BytesIO()
    Image.new("RGB", (100, 50), "teal").save(data, format="JPEG")
    settings = Settings(tokens=8, beams=2, warmup_seconds=1, seconds=0.01, runs=50, growth=GROWTHS)
    with Florence(bundle, Timed(bundle, clock)) as model:
        return {study.varied: study for study in grow(model, data.getvalue(), settings, clock)}


def test_each_study_varies_one_thing_and_leaves_out_what_is_met_first(found: dict[str, Growth]) -> None:
    assert {name: study.sizes for name, study in found.items()} == SIZES
    expected = {
        "tokens": [2 * size for size in SIZES["tokens"]],
        "beams": [8 * size for size in SIZES["beams"]],
        "batch": [10 + (2 + 8 * 2 + 100 * 50 * 1e-4) * size for size in SIZES["batch"]],
        "pixels": [1e-4 * size for size in SIZES["pixels"]],
    }
    for name, costs in expected.items():
        samples = [series.samples for series in found[name].costs_ms]
        assert [len(each) for each in samples] == [5] * len(costs), name
        assert [sample for each in samples for sample in set(each)] == pytest.approx(costs), name


def test_what_grows_in_proportion_is_linear_and_a_batch_saves_what_is_shared(found: dict[str, Growth]) -> None:
    for name in ("tokens", "beams", "pixels"):
        assert (found[name].exponent.value, found[name].per_unit.value) == pytest.approx((1.0, 1.0)), name
    assert found["batch"].exponent.value < 1
    assert found["batch"].per_unit.value == pytest.approx((10 + 4 * 18.5) / 4 / (10 + 18.5))
    assert {study.linear_or_better for study in found.values()} == {"yes"}
