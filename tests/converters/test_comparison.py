"""The comparison of two models, over one whose graphs are sums that the test can do itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from florence_convert.comparison import (
    CaseOptions,
    Cases,
    count_identical,
    draw_cases,
    graph_errors,
    identical_ids,
    max_error,
    search_answers,
    table_differences,
)
from florence_convert.parity import TOLERANCE, compare, parity_faults
from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.geometry import AnyArray, Int64Array
from florence_edge.manifest import Graph, Graphs, Limits, Parity, Tensor
from florence_edge.options import SearchOptions
from florence_edge.preprocess import ImageSpec
from support.fake_backend import FakeBackend, make_bundle
from support.vocabularies import small_tokens

Arrays = dict[str, AnyArray]
SPEC, LIMITS = ImageSpec(height=32, width=48), Limits(prompt_tokens=200, new_tokens=50)
TABLES = Graphs(
    Graph(
        "vision.onnx", (Tensor("pixels", "float32", ("B", 3, 32, 48)),), (Tensor("features", "float32", ("B", 2, 3)),)
    ),
    Graph("encoder.onnx", (Tensor("features", "float32", ("P", 2, 3)),), (Tensor("cross_mask", "bool", ("P", "S")),)),
    Graph("decoder.onnx", (Tensor("self_key_0", "float32", ("B", "K", "L", 3)),), (Tensor("logits", "float32", ()),)),
)


@dataclass(eq=False)
class Sums:
    """A model of a few sums, whose `spoil` may change what a graph gives; it keeps the inputs it was given."""

    name: str = "sums"
    spoil: Callable[[str, Arrays, Arrays], None] = lambda graph, inputs, outputs: None
    finer: Sums | None = None
    make_backend: Callable[[], FakeBackend] | None = None
    tables: Graphs = TABLES
    given: list[tuple[str, Mapping[str, AnyArray]]] = field(default_factory=list)

    def run(self, graph: str, inputs: Mapping[str, AnyArray]) -> Arrays:
        self.given.append((graph, inputs))
        graphs: dict[str, Callable[..., Arrays]] = {
            "vision": self._vision,
            "encoder": self._encoder,
            "decoder": self._decoder,
        }
        outputs = graphs[graph](**inputs)
        self.spoil(graph, dict(inputs), outputs)
        return outputs

    def inputs(self, graph: str) -> list[Mapping[str, AnyArray]]:
        return [inputs for name, inputs in self.given if name == graph]

    def _vision(self, pixels: AnyArray) -> Arrays:
        return {"features": pixels.reshape(len(pixels), -1)[:, :6].reshape(-1, 2, 3).copy()}

    def _encoder(self, features: AnyArray, prompt_ids: AnyArray, prompt_mask: AnyArray) -> Arrays:
        key = np.concatenate([features, np.repeat(prompt_ids[..., None], 3, axis=2).astype(np.float32)], axis=1)
        seen = np.concatenate([np.ones(features.shape[:2], np.bool_), prompt_mask], axis=1)
        return {"cross_key_0": key[:, None], "cross_mask": seen}

    def _decoder(self, token_ids: AnyArray, position: AnyArray, **others: AnyArray) -> Arrays:
        rows = np.repeat(token_ids[..., None], 3, axis=2).astype(np.float32)
        return {"logits": rows + float(position), "new_key_0": 2 * rows}

    def backend(self) -> FakeBackend:
        assert self.make_backend
        return self.make_backend()

    def exact(self) -> Sums | None:
        return self.finer


def cases_of(pairs: int = 5, images: int = 2, **changes: int) -> Cases:
    return draw_cases(SPEC, small_tokens(), LIMITS, CaseOptions(pairs=pairs, images=images, **changes))


def errors_of(candidate: Sums) -> dict[str, float]:
    return graph_errors(Sums(), candidate, cases_of(), small_tokens())


def test_cases_are_those_of_their_seed() -> None:
    first, again, other = cases_of(), cases_of(), cases_of(seed=1)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert [ids.tolist() for ids in first.prompts] == [ids.tolist() for ids in again.prompts]
    assert not np.array_equal(first.pixels, other.pixels)


def test_cases_are_pictures_and_prompts_of_all_kinds() -> None:
    cases = cases_of(pairs=15, images=3)
    assert cases.pixels.shape == (3, 3, 32, 48)
    assert cases.pixels.dtype == np.float32
    colours = cases.pixels * np.reshape(SPEC.std, (3, 1, 1)) + np.reshape(SPEC.mean, (3, 1, 1))
    assert colours.min() >= -1e-6
    assert colours.max() <= 1 + 1e-6
    assert colours.std() > 0.1
    assert not np.array_equal(cases.pixels[0], cases.pixels[1])
    assert cases.image_of == (0, 1, 2) * 5
    assert len({tuple(ids.tolist()) for ids in cases.prompts}) == 15, "one of every task"
    few = cases_of(pairs=3)
    assert len({tuple(ids.tolist()) for ids in few.prompts}) == 3
    assert len(cases_of(pairs=40).prompts) == 40


def test_cases_keep_the_limits_of_the_model() -> None:
    longest = max(len(ids) for ids in cases_of(pairs=15).prompts)
    for limit in (longest, longest - 1):
        limits = Limits(prompt_tokens=limit, new_tokens=50)
        cases = draw_cases(SPEC, small_tokens(), limits, CaseOptions(pairs=15, new_tokens=80))
        assert (max(len(ids) for ids in cases.prompts) == longest) == (limit == longest)
        assert all(len(ids) <= limit for ids in cases.prompts)
        assert cases.new_tokens == 50
    assert cases_of(new_tokens=7).new_tokens == 7


@pytest.mark.parametrize("name", ["pairs", "images", "new_tokens"])
def test_nothing_cannot_be_compared(name: str) -> None:
    assert getattr(CaseOptions(**{name: 1}), name) == 1
    with pytest.raises(InputError, match=f"{name} is 0; it must be 1 or more"):
        CaseOptions(**{name: 0})


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ({"a": [1.0, 2.0], "b": [3.0]}, 0.0),
        ({"a": [1.5, 2.0], "b": [3.0]}, 0.5),
        ({"a": [1.0, 1.25], "b": [3.0]}, 0.75),
        ({"a": [1.0, 1.25], "b": [2.0]}, 1.0),
        ({"a": [1.0, np.nan], "b": [2.0]}, np.inf),
        ({"a": [1.0, 2.0], "b": [-np.inf]}, np.inf),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # infinity less infinity
def test_an_error_is_the_largest_difference_of_any_output(found: dict[str, list[float]], error: float) -> None:
    wanted = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([3.0], np.float32)}
    assert max_error(wanted, {name: np.array(values, np.float32) for name, values in found.items()}) == error
    assert max_error({"a": np.array([np.inf])}, {"a": np.array([np.inf])}) == np.inf, "not finite is never right"
    assert max_error({"a": np.zeros((0, 3))}, {"a": np.zeros((0, 3))}) == 0.0


def test_equal_models_do_not_differ() -> None:
    assert errors_of(Sums()) == {"vision": 0.0, "encoder": 0.0, "decoder": 0.0}


def test_an_error_belongs_to_the_graph_where_it_arises() -> None:
    def spoil(graph: str, inputs: Arrays, outputs: Arrays, *, where: str) -> None:
        if graph == where == "vision":
            outputs["features"][1, 1, 2] -= 4.0  # the last number of the last image
        if graph == where == "encoder":
            outputs["cross_key_0"][-1, 0, 0, 0] += 4.0
        if graph == where == "decoder" and inputs["position"] == 2:  # neither the first step nor the last
            outputs["new_key_0"] = outputs["new_key_0"] + np.float32(4.0)

    for where in ("vision", "encoder", "decoder"):
        found = errors_of(Sums(spoil=partial(spoil, where=where)))
        assert found == {graph: pytest.approx(4.0 * (graph == where), rel=1e-5) for graph in found}


def test_what_padding_produced_does_not_count_but_where_it_is_does() -> None:
    def scrawl(graph: str, inputs: Arrays, outputs: Arrays) -> None:
        if graph == "encoder":
            outputs["cross_key_0"][~outputs["cross_mask"][:, None]] = 99.0

    def shift(graph: str, inputs: Arrays, outputs: Arrays) -> None:
        if graph == "encoder":
            outputs["cross_mask"] = np.ones_like(outputs["cross_mask"])

    assert errors_of(Sums(spoil=scrawl))["encoder"] == 0.0
    assert errors_of(Sums(spoil=shift))["encoder"] >= 1.0


def test_both_sides_get_prompts_side_by_side_and_beams_that_change_their_histories() -> None:
    reference, candidate, cases = Sums(), Sums(), cases_of()
    graph_errors(reference, candidate, cases, small_tokens())
    (encoded,) = candidate.inputs("encoder")
    assert encoded is reference.inputs("encoder")[0]
    for row, (ids, image) in enumerate(zip(cases.prompts, cases.image_of, strict=True)):
        np.testing.assert_array_equal(encoded["features"][row].reshape(-1), cases.pixels[image].reshape(-1)[:6])
        np.testing.assert_array_equal(encoded["prompt_ids"][row, : len(ids)], ids)
        assert (encoded["prompt_ids"][row, len(ids) :] == small_tokens().vocabulary.pad).all()
        assert encoded["prompt_mask"][row].sum() == len(ids)
    steps = candidate.inputs("decoder")
    assert [int(step["position"]) for step in steps] == [0, 1, 2, 3]
    for position, step in enumerate(steps):
        assert step["ancestors"].shape[:2] == step["token_ids"].shape == (5, 3)
        history = step["ancestors"][:, :, :position]
        assert position == 0 or set(np.unique(history)) == {0, 1, 2}
        assert (step["ancestors"][:, :, position:] == -1).all()
        for earlier in range(position):
            rows = np.repeat(2.0 * steps[earlier]["token_ids"][..., None], 3, axis=2)
            np.testing.assert_array_equal(step["self_key_0"][:, :, earlier], rows)
        assert not step["self_key_0"][:, :, position:].any()
        assert step["cross_mask"].shape == (5, 2 + encoded["prompt_ids"].shape[1])
    assert len({step["token_ids"].tobytes() for step in steps}) == 4


def test_answers_are_compared_token_by_token() -> None:
    wanted = {"greedy": [np.array([0, 5, 2]), np.array([0, 2])], "beams_3": [np.array([0, 7, 2])]}
    found = {"greedy": [np.array([0, 6, 2]), np.array([0, 2])], "beams_3": [np.array([0, 7, 2, 2])]}
    assert count_identical(wanted, wanted) == {"greedy": 2, "beams_3": 1}
    assert count_identical(wanted, found) == {"greedy": 1, "beams_3": 0}


class Noting(FakeBackend):
    """Notes which images it was asked about, and turns the first answer round where it searches with `odd` beams."""

    rows: tuple[int, ...] = ()
    odd = 0

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        self.rows = tuple(image_of or ())
        found = super().generate(features, prompt_ids, options, image_of)
        if options and options.beams == self.odd:
            found[0] = replace(found[0], ids=found[0].ids[::-1])
        return found


def test_both_searches_ask_every_pair_and_the_backend_is_closed(tmp_path: Path) -> None:
    bundle, cases = make_bundle(tmp_path / "bundle"), cases_of(pairs=4, new_tokens=6)
    backend = Noting(bundle)
    answers = search_answers(backend, cases)
    assert {name: len(found) for name, found in answers.items()} == {"greedy": 4, "beams_3": 4}
    asked = [(prompts, options.beams, options.max_new_tokens) for prompts, options in backend.searches]
    assert asked == [(4, 1, 6), (4, 3, 6)]
    assert (backend.encoded, backend.rows, backend.closed) == ([2], cases.image_of, True)
    broken = FakeBackend(bundle)
    with pytest.raises(ValueError, match="shorter"):
        search_answers(broken, replace(cases, image_of=(0,)))
    assert broken.closed


def test_tables_that_differ_are_listed_from_both_sides() -> None:
    decoder = replace(TABLES.decoder, outputs=(Tensor("scores", "float32", ("B",)),))
    other = Graphs(TABLES.vision, TABLES.encoder, decoder)
    assert table_differences(TABLES, TABLES) == []
    assert table_differences(TABLES, other) == [
        "decoder: logits is absent here and float32 [] in the reference",
        "decoder: scores is float32 [B] here and absent in the reference",
    ]


def off(amount: float, names: Sequence[str], graph: str, inputs: Arrays, outputs: Arrays) -> None:
    """Outputs of these names are off by an amount."""
    for name in outputs.keys() & names:
        outputs[name] = outputs[name] + np.float32(amount)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("comparison") / "bundle", new_tokens=10)


@pytest.mark.parametrize(
    ("candidate", "rounding", "allowed"),
    [
        (0.4, 0.4, 0.5),  # within tolerance: what the reference rounds is not asked
        (0.6, 0.1, 0.5),  # more than rounding explains
        (0.6, 0.4, 0.8),  # twice the reference's own error
        (0.6, None, 0.5),  # a reference that cannot be more exact
        (np.nan, 0.4, 0.8),
    ],
)
def test_a_graph_may_be_off_by_twice_what_its_reference_rounds(
    bundle: Bundle, candidate: float, rounding: float | None, allowed: float
) -> None:
    def side(amount: float, finer: Sums | None = None, names: Sequence[str] = ("features",)) -> Sums:
        return Sums("sums", partial(off, amount, names), finer, lambda: FakeBackend(bundle))

    # The encoder's and the decoder's exact twin is off too, but they need no allowance.
    finer = None if rounding is None else side(-rounding, names=("features", "cross_key_0", "logits"))
    options = CaseOptions(pairs=3, images=1, seed=4)
    tolerance = {"vision": 0.5, "encoder": 0.1, "decoder": 0.2}
    found = compare(side(0.0, finer), side(candidate), bundle, options, tolerance=tolerance)
    assert found.tolerance == {**tolerance, "vision": pytest.approx(allowed, rel=1e-5)}
    assert (found.reference, found.seed, found.pairs, found.new_tokens) == ("sums", 4, 3, 10)
    assert found.identical == {"greedy": 3, "beams_3": 3}
    wrong = not candidate <= allowed
    assert found.max_abs_error["vision"] == (pytest.approx(candidate, rel=1e-5) if candidate == candidate else np.inf)
    assert [fault.split(":")[0] for fault in parity_faults(found)] == ["vision"] * wrong


def test_answers_that_differ_are_counted_for_each_search(bundle: Bundle) -> None:
    def odd() -> FakeBackend:
        backend = Noting(bundle)
        backend.odd = 3
        return backend

    reference, candidate = Sums(make_backend=lambda: FakeBackend(bundle)), Sums(make_backend=odd)
    assert identical_ids(reference, candidate, cases_of(new_tokens=10)) == {"greedy": 5, "beams_3": 4}


def test_fp32_graphs_are_held_to_these_errors() -> None:
    assert TOLERANCE == {"vision": 1e-4, "encoder": 1e-3, "decoder": 1e-3}


def test_what_is_over_tolerance_is_said_and_what_is_at_it_is_not() -> None:
    parity = Parity("r", 0, 4, 8, {"vision": 0.1, "encoder": 0.3}, {"vision": 0.1, "encoder": 0.2}, {"greedy": 4})
    assert parity_faults(parity) == ["encoder: the largest error is 0.3, allowed is 0.2"]
    infinite = replace(parity, max_abs_error={"vision": np.inf}, tolerance={"vision": np.inf}, identical={"greedy": 3})
    assert parity_faults(infinite) == [
        "vision: the largest error is inf, allowed is inf",
        "greedy: 3 of 4 answers have the same token ids",
    ]
