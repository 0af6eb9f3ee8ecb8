"""A time budget: what it cuts, in which order, and that it says so."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.backends import Hypothesis
from florence_edge.bundle import Bundle
from florence_edge.geometry import Int64Array
from florence_edge.manifest import Graph, Manifest, Tensor
from florence_edge.model import Florence
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.stream import Ask, Cut, StreamOptions, watch
from florence_edge.stream.asks import as_asks
from florence_edge.stream.budget import LEAST_TOKENS, Budget
from support.fake_backend import FakeBackend
from support.streams import Recording, SlowBackend

LONG = " ".join(["cube"] * 150)


def resizable(manifest: Manifest) -> Manifest:
    """A manifest whose vision graph takes any height and width."""
    pixels = Tensor("pixels", "float32", ("B", 3, "H", "W"))
    vision = manifest.graphs.vision
    graph = Graph(vision.file, (pixels,), vision.outputs)
    image = replace(manifest.image, height=128, width=96)
    return replace(manifest, graphs=replace(manifest.graphs, vision=graph), image=image)


ASK = as_asks(["caption"])[0]
CALM = SearchOptions(beams=3)


def learnt(manifest: Manifest, limit_ms: float, *, token_ms: float, vision_ms: float = 10.0) -> Budget:
    budget = Budget(limit_ms, manifest)
    assert budget.encoded(manifest.image.height, vision_ms) == ()
    budget.searched(CALM, 20, 20 * token_ms)
    return budget


def test_nothing_is_cut_without_a_budget_or_before_a_price_is_known(bundle: Bundle) -> None:
    assert Budget(None, bundle.manifest).plan(ASK, float("inf")) == (None, ())
    assert Budget(1.0, bundle.manifest).plan(ASK, 1.0) == (None, ())


def test_tokens_are_cut_first_then_beams(bundle: Bundle) -> None:
    budget = learnt(bundle.manifest, 100.0, token_ms=1.0)
    assert budget.plan(ASK, 500.0) == (None, ())
    options, cuts = budget.plan(ASK, 50.0)
    assert cuts == (Cut("caption", "tokens", 64, 50),)
    assert (options.beams, options.max_new_tokens) == (3, 50) if options else False
    options, cuts = budget.plan(ASK, 5.0)
    assert cuts == (Cut("caption", "tokens", 64, LEAST_TOKENS), Cut("caption", "beams", 3, 1))
    assert str(cuts[1]) == "caption beams 3 -> 1"


def test_greedy_gets_its_own_price_once_it_was_tried(bundle: Bundle) -> None:
    budget = learnt(bundle.manifest, 100.0, token_ms=3.0)
    budget.searched(SearchOptions(beams=1), 20, 20 * 1.0)
    _, cuts = budget.plan(ASK, 40.0)
    assert cuts == (Cut("caption", "tokens", 64, 40), Cut("caption", "beams", 3, 1))


def test_resolution_is_cut_last_and_only_where_the_bundle_allows(bundle: Bundle) -> None:
    fixed = learnt(bundle.manifest, 20.0, token_ms=0.1, vision_ms=100.0)
    fixed.settle([ASK])
    assert fixed.spec == bundle.manifest.image
    manifest = resizable(bundle.manifest)
    free = learnt(manifest, 40.0, token_ms=0.1, vision_ms=100.0)
    free.settle([ASK])
    assert (free.spec.height, free.spec.width) == (64, 32)
    assert free.encoded(64, 30.0) == (Cut("", "resolution", 128, 64),)
    enough = learnt(manifest, 200.0, token_ms=0.1, vision_ms=100.0)
    enough.settle([ASK])
    assert enough.spec == manifest.image


@given(left=st.floats(-50, 2000), token_ms=st.floats(0.01, 20), limit=st.integers(1, 200), beams=st.integers(1, 5))
def test_a_plan_never_asks_for_more_than_the_task_and_never_for_less_than_the_floor(
    bundle: Bundle, left: float, token_ms: float, limit: int, beams: int
) -> None:
    budget = learnt(bundle.manifest, 100.0, token_ms=token_ms)
    options, cuts = budget.plan(replace(ASK, search=SearchOptions(beams=beams, max_new_tokens=limit)), left)
    config = bundle.manifest.search.over(options)
    assert min(LEAST_TOKENS, limit) <= config.max_new_tokens <= limit
    assert config.beams in (1, beams)
    assert {cut.what for cut in cuts} == {
        what for what, less in (("tokens", config.max_new_tokens < limit), ("beams", config.beams < beams)) if less
    }
    if config.beams < beams:
        assert left < (min(LEAST_TOKENS, limit) + 1) * token_ms  # beams only when not even the shortest answer fits
    if left >= limit * token_ms * 1.001:
        assert cuts == ()


class PricedBackend(FakeBackend):
    """Searches take a millisecond per token and beam."""

    def _answer(self, prompt_ids: Int64Array, brightness: float, options: SearchOptions | None) -> Hypothesis:
        hypothesis = super()._answer(prompt_ids, brightness, options)
        time.sleep(0.001 * len(hypothesis.ids) * SearchConfig().over(options).beams)
        return hypothesis


def test_a_stream_is_brought_under_its_budget_and_says_how(bundle: Bundle) -> None:
    model = Florence(bundle, PricedBackend(bundle, lambda task, given, light: LONG))
    with watch(model, Recording("a", 8), ["caption"], options=StreamOptions(budget_ms=80.0)) as events:
        seen = list(events)
    first, last = seen[0].spending, seen[-1].spending
    assert first is not None
    assert last is not None
    assert (first.cuts, first.kept) == ((), False)
    assert last.took_ms < 0.7 * first.took_ms
    # The first answer costs more than the budget at any price, so the second is cut; what is cut later is up to prices.
    second = seen[1].spending
    assert second is not None
    assert any(cut.what == "tokens" and cut.after < cut.before for cut in second.cuts)
    assert seen[1].results["caption"].finish == "length"
    assert seen[1].to_dict()["spending"]["limit_ms"] == 80.0
    assert seen[1].outcome()["cuts"]


def test_smaller_pictures_are_really_sent(bundle: Bundle) -> None:
    small = Bundle(bundle.folder, resizable(bundle.manifest))
    sides: list[tuple[int, ...]] = []

    class Noting(SlowBackend):
        def encode_image(self, pixels):  # type: ignore[no-untyped-def]  # as the class above
            sides.append(pixels.shape[-2:])
            return super().encode_image(pixels)

    model = Florence(small, Noting(small, vision_s=0.02))
    with watch(model, Recording("a", 10), [Ask("caption")], options=StreamOptions(budget_ms=25.0)) as events:
        seen = list(events)
    assert sides[0] == (128, 96)
    assert sides[-1] == (64, 32)
    assert seen[-1].spending is not None
    assert Cut("", "resolution", 128, 64) in seen[-1].spending.cuts
    assert np.allclose(seen[-1].results["caption"].size, (48, 32))


def test_two_tasks_share_what_is_left(bundle: Bundle, tmp_path: Path) -> None:
    model = Florence(bundle, PricedBackend(bundle, lambda task, given, light: LONG))
    options = StreamOptions(budget_ms=400.0)
    with watch(model, Recording("a", 6), ["caption", "read"], options=options) as events:
        seen = list(events)
    tokens = [result.tokens for result in seen[-1].results.values()]
    assert min(tokens) >= LEAST_TOKENS
    assert max(tokens) < 150


def test_one_slow_picture_does_not_cost_the_full_size_for_ever(bundle: Bundle) -> None:
    manifest = resizable(bundle.manifest)
    budget = learnt(manifest, 40.0, token_ms=0.1, vision_ms=20.0)
    budget.encoded(128, 500.0)
    budget.settle([ASK])
    assert budget.spec.height == 64
    for _ in range(100):
        budget.encoded(budget.spec.height, 20.0 * (budget.spec.height / 128) ** 2)
        budget.settle([ASK])
    assert budget.spec == manifest.image
