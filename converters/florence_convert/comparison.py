"""The comparison of two models on the same seeded images and prompts: graph by graph, then end to end.

Graph by graph, both sides get the reference's own inputs, so that an error belongs to the graph where it arises. What
is measured is the largest absolute difference; a non-finite output counts as an infinite one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from florence_edge.backends import Backend
from florence_edge.backends.request import padded
from florence_edge.errors import InputError
from florence_edge.geometry import AnyArray, Float32Array, ImageSize, Int64Array
from florence_edge.manifest import Graphs, Limits
from florence_edge.options import SearchOptions
from florence_edge.preprocess import ImageSpec
from florence_edge.prompts import prompt_for
from florence_edge.tasks import TASKS, InputKind
from florence_edge.tokens import Tokens

from .names import DECODER, ENCODER, VISION

if TYPE_CHECKING:
    from .sides import Side  # which imports torch

SEARCHES: Mapping[str, SearchOptions] = {"greedy": SearchOptions(beams=1), "beams_3": SearchOptions(beams=3)}
"""The settings whose token ids are compared."""

Answers = Mapping[str, Sequence[Int64Array]]
"""Token ids of every pair, per search setting."""

_DECODER_STEPS = 4
_BEAMS = 3
_TILES = 6
_INPUTS = {InputKind.NONE: None, InputKind.PHRASE: "a red cube", InputKind.CLASSES: ["cup", "ball"]}


@dataclass(frozen=True)
class CaseOptions:
    """How many image/prompt pairs are drawn, from which seed, and how long their answers may get."""

    pairs: int = 4
    images: int = 2
    seed: int = 0
    new_tokens: int = 16

    def __post_init__(self) -> None:
        for name in ("pairs", "images", "new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, eq=False)
class Cases:
    """Images [I, 3, H, W] and, per pair, a prompt's token ids and the row of the image it asks about."""

    pixels: Float32Array
    prompts: tuple[Int64Array, ...]
    image_of: tuple[int, ...]
    new_tokens: int
    seed: int


def draw_cases(spec: ImageSpec, tokens: Tokens, limits: Limits, options: CaseOptions) -> Cases:
    """Images of random tiles with noise, and prompts from all over the task table; the same options draw the same."""
    rng = np.random.default_rng(options.seed)
    pixels = np.concatenate([_image(rng, spec) for _ in range(options.images)])
    size = ImageSize(spec.width, spec.height)
    box = [0.1 * size.width, 0.2 * size.height, 0.7 * size.width, 0.9 * size.height]
    sentences = [prompt_for(task, {**_INPUTS, InputKind.BOX: box}[task.input], size) for task in TASKS]
    prompts = [ids for ids in map(tokens.encode, sentences) if len(ids) <= limits.prompt_tokens]
    return Cases(
        pixels,
        prompts=tuple(prompts[i * len(prompts) // options.pairs % len(prompts)] for i in range(options.pairs)),
        image_of=tuple(i % options.images for i in range(options.pairs)),
        new_tokens=min(options.new_tokens, limits.new_tokens),
        seed=options.seed,
    )


def _image(rng: np.random.Generator, spec: ImageSpec) -> Float32Array:
    """One image [1, 3, H, W], normalised: coloured tiles, so that regions differ, under noise."""
    tile = (-(-spec.height // _TILES), -(-spec.width // _TILES))
    tiles = np.kron(rng.uniform(0.1, 0.9, (3, _TILES, _TILES)), np.ones(tile))[:, : spec.height, : spec.width]
    image = np.clip(tiles + rng.normal(0, 0.05, tiles.shape), 0, 1)
    mean, std = (np.asarray(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    normalised: Float32Array = ((image - mean) / std).astype(np.float32)
    return normalised[None]


def graph_errors(reference: Side, candidate: Side, cases: Cases, tokens: Tokens) -> dict[str, float]:
    """The largest absolute difference of every graph's outputs."""
    inputs: dict[str, AnyArray] = {"pixels": cases.pixels}
    features = reference.run(VISION, inputs)
    errors = {VISION: max_error(features, candidate.run(VISION, inputs))}
    ids, mask = padded(cases.prompts, tokens.vocabulary.pad)
    inputs = {"features": features["features"][list(cases.image_of)], "prompt_ids": ids, "prompt_mask": mask}
    cross = reference.run(ENCODER, inputs)
    errors[ENCODER] = max_error(_unpadded(cross), _unpadded(candidate.run(ENCODER, inputs)))
    errors[DECODER] = max(
        max_error(wanted, candidate.run(DECODER, inputs)) for inputs, wanted in _steps(reference, cross, cases, tokens)
    )
    return errors


def max_error(wanted: Mapping[str, AnyArray], found: Mapping[str, AnyArray]) -> float:
    """The largest absolute difference over all outputs."""
    worst = 0.0
    for name, array in wanted.items():
        difference = np.abs(array.astype(np.float64) - found[name].astype(np.float64))
        worst = max(worst, float(difference.max(initial=0.0)) if np.isfinite(difference).all() else np.inf)
    return worst


def _unpadded(cross: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Cross-attention keys and values with what padding produced set to zero; nobody may look at it."""
    mask = cross["cross_mask"]
    seen = mask[:, None, :, None]
    return {name: array if name == "cross_mask" else np.where(seen, array, 0) for name, array in cross.items()}


def _steps(
    reference: Side, cross: Mapping[str, AnyArray], cases: Cases, tokens: Tokens
) -> Iterator[tuple[dict[str, AnyArray], dict[str, AnyArray]]]:
    """Inputs and the reference's outputs of a few steps with random tokens and beams that change their histories."""
    rng = np.random.default_rng(cases.seed + 1)
    batch, capacity = len(cases.prompts), _DECODER_STEPS + 2
    cache = empty_cache(reference.tables, {"B": batch, "K": _BEAMS, "L": capacity})
    ancestors = np.full((batch, _BEAMS, capacity), -1, np.int32)
    for position in range(_DECODER_STEPS):
        ancestors[:, :, :position] = rng.integers(0, _BEAMS, (batch, _BEAMS, position))
        token_ids = rng.integers(0, tokens.vocabulary.size, (batch, _BEAMS), np.int64)
        inputs = {"token_ids": token_ids, "position": np.asarray(position, np.int64), "ancestors": ancestors.copy()}
        inputs.update({name: array.copy() for name, array in cache.items()})
        inputs.update(cross)
        outputs = reference.run(DECODER, inputs)
        yield inputs, outputs
        for name, array in cache.items():
            array[:, :, position] = outputs[name.replace("self_", "new_")]


def empty_cache(tables: Graphs, sizes: Mapping[str, int]) -> dict[str, Float32Array]:
    """The self-attention cache of every layer before the first step, for B prompts, K beams and L positions."""
    return {
        tensor.name: np.zeros([sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape], np.float32)
        for tensor in tables.decoder.inputs
        if tensor.name.startswith("self_")
    }


def identical_ids(reference: Side, candidate: Side, cases: Cases) -> dict[str, int]:
    """For every search setting, the number of pairs that both sides answer with the same token ids."""
    wanted, found = (search_answers(side.backend(), cases) for side in (reference, candidate))
    return count_identical(wanted, found)


def count_identical(wanted: Answers, found: Answers) -> dict[str, int]:
    """Per search setting, how many answers have the same token ids."""
    return {
        name: sum(np.array_equal(a, b) for a, b in zip(answers, found[name], strict=True))
        for name, answers in wanted.items()
    }


def search_answers(backend: Backend, cases: Cases, searches: Mapping[str, SearchOptions] = SEARCHES) -> Answers:
    """Token ids of every pair, per search setting; closes the backend."""
    try:
        features = backend.encode_image(cases.pixels)
        return {
            name: [
                hypothesis.ids
                for hypothesis in backend.generate(
                    features,
                    cases.prompts,
                    SearchOptions(beams=options.beams, max_new_tokens=cases.new_tokens),
                    cases.image_of,
                )
            ]
            for name, options in searches.items()
        }
    finally:
        backend.close()


def table_differences(reference: Graphs, candidate: Graphs) -> list[str]:
    """Inputs and outputs that two models do not share; with any, they cannot be compared on the same arrays."""
    found, wanted = _described(candidate), _described(reference)
    return [
        f"{name} is {found.get(name, 'absent')} here and {wanted.get(name, 'absent')} in the reference"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _described(graphs: Graphs) -> dict[str, str]:
    """Type and shape of every input and output, by graph and name."""
    return {
        f"{name}: {tensor.name}": str(tensor)
        for name, graph in graphs.items()
        for tensor in (*graph.inputs, *graph.outputs)
    }
