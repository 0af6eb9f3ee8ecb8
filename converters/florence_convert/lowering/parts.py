"""The three graphs that engines are built from: their inputs and outputs as tables, their profiles, and where they lie.

Knows sizes and types, nothing of ONNX. The letters are those of docs/engines.md: B images, K beams, R = B * K rows, N
image tokens, P prompt tokens, S = N + P, L cache positions in W = L / 4 words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from florence_edge.backends.kernel_library import MAX_BEAMS
from florence_edge.errors import InputError, listing
from florence_edge.manifest import DType, Graph, Manifest, Tensor

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PartName = Literal["vision", "encoder", "decoder"]
PARTS: tuple[PartName, ...] = ("vision", "encoder", "decoder")

ELEMENT: Mapping[Precision, DType] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "float16"}
"""What a part computes in, but for what is quantised."""

SLOTS_PER_WORD = 4


@dataclass(frozen=True)
class Buckets:
    """The sizes that engines are built for: an image batch, beams, padded prompt lengths, positions of the cache.

    `capacity` counts the start token, as the search's `max_length` does.
    """

    batches: tuple[int, ...]
    beams: tuple[int, ...]
    prompts: tuple[int, ...]
    capacity: int

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {sizes}; give different sizes of 1 or more, in ascending order"
            for name, sizes in (("batches", self.batches), ("beams", self.beams), ("prompts", self.prompts))
            if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1
        ]
        if not faults and self.beams[-1] > MAX_BEAMS:
            faults.append(f"beams is {self.beams}; the kernels take at most {MAX_BEAMS}")
        if self.capacity < SLOTS_PER_WORD or self.capacity % SLOTS_PER_WORD:
            faults.append(f"capacity is {self.capacity}; it must be a multiple of {SLOTS_PER_WORD}")
        if faults:
            raise InputError(listing("engines cannot be built for these sizes:", faults))

    @classmethod
    def of(cls, manifest: Manifest, *, batches: Sequence[int] = (1,), beams: Sequence[int] | None = None) -> Buckets:
        """What a bundle needs: greedy and its own beams, short prompts and its longest, its longest answer."""
        limit, positions = manifest.limits.prompt_tokens, manifest.search.max_new_tokens + 1
        return cls(
            batches=tuple(sorted(set(batches))),
            beams=tuple(sorted(set(beams or (1, manifest.search.beams)))),
            prompts=tuple(sorted({min(_SHORT_PROMPT, limit), limit})),
            capacity=-(-positions // SLOTS_PER_WORD) * SLOTS_PER_WORD,
        )


_SHORT_PROMPT = 32
"""Room for the longest prompt sentence of the task table and a short phrase."""


@dataclass(frozen=True)
class Profile:
    """One optimisation profile: per input, in order, the smallest, the usual and the largest shape."""

    name: str
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class LoweredPart:
    """One part: the graph that ONNX Runtime runs, the same for TensorRT, and what the parsed network must hold."""

    name: PartName
    precision: Precision
    runnable: Path
    tensorrt: Path
    plugins: Mapping[str, int]
    """How many layers of each plugin there are; 0 layers are left out."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    image_tokens: int

    def profiles(self, buckets: Buckets) -> tuple[Profile, ...]:
        """The profiles an engine of this part needs, in the order in which it gets them."""
        return tuple(
            Profile(name, {tensor.name: _shapes(tensor, sizes) for tensor in self.inputs})
            for name, sizes in _buckets_of(self.name, buckets, self.image_tokens)
        )


@dataclass(frozen=True)
class Lowered:
    """A folder of graphs that share one weight file, made from the bundle with this manifest."""

    folder: Path
    manifest: Manifest
    vision: LoweredPart
    encoder: LoweredPart
    decoder: LoweredPart

    @property
    def parts(self) -> tuple[LoweredPart, LoweredPart, LoweredPart]:
        """In the order they run."""
        return self.vision, self.encoder, self.decoder


_Range = tuple[int, int, int]


def _buckets_of(part: PartName, buckets: Buckets, image_tokens: int) -> list[tuple[str, dict[str, _Range]]]:
    """Names and sizes of a part's profiles, letter by letter as (smallest, usual, largest)."""
    fixed = {"L": buckets.capacity, "W": buckets.capacity // SLOTS_PER_WORD}
    axes = {
        "vision": {"B": buckets.batches},
        "encoder": {"B": buckets.batches, "P": buckets.prompts},
        "decoder": {"B": buckets.batches, "K": buckets.beams},
    }[part]
    source = (image_tokens + buckets.prompts[0], image_tokens + buckets.prompts[0], image_tokens + buckets.prompts[-1])
    found = []
    for sizes in product(*axes.values()):
        chosen = dict(zip(axes, sizes, strict=True))
        every = {**chosen, **fixed}
        ranges = {letter: (size, size, size) for letter, size in every.items()}
        found.append((" ".join(f"{letter}={size}" for letter, size in chosen.items()), {**ranges, "S": source}))
    return found


def _shapes(tensor: Tensor, sizes: Mapping[str, _Range]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    least, usual, most = (
        tuple(sizes[dim][i] if isinstance(dim, str) else dim for dim in tensor.shape) for i in range(3)
    )
    return least, usual, most


def part_tables(manifest: Manifest, element: DType) -> dict[PartName, Graph]:
    """Inputs and outputs of the three graphs; `element` is what the decoder computes in and its caches hold."""
    given = manifest.graphs
    features = given.vision.outputs[0]
    cache = next(tensor for tensor in given.decoder.inputs if tensor.name.startswith("self_key_"))
    heads, head_dim = cache.shape[1], cache.shape[4]
    layers = sum(tensor.name.startswith("self_key_") for tensor in given.decoder.inputs)

    def per_layer(kind: str, *shape: int | str) -> tuple[Tensor, ...]:
        return tuple(Tensor(f"{kind}_{what}_{i}", element, shape) for i in range(layers) for what in ("key", "value"))

    cross = per_layer("cross", "B", heads, "S", head_dim)
    lengths = Tensor("lengths", "int32", ("B",))
    state = (
        Tensor("token_ids", "int32", ("B", "K")),
        Tensor("position", "int32", (1,)),
        Tensor("indirection", "int32", ("B", "K", "W")),
        lengths,
        Tensor("image_done", "int32", ("B",)),
    )
    return {
        "vision": Graph("vision.onnx", given.vision.inputs, (features,)),
        "encoder": Graph("encoder.onnx", (features, Tensor("prompt_ids", "int32", ("B", "P")), lengths), cross),
        "decoder": Graph(
            "decoder.onnx",
            (*state, *per_layer("self", "B", "K", heads, "L", head_dim), *cross),
            (
                Tensor("logits", "float32", ("R", given.decoder.outputs[0].shape[-1])),
                *per_layer("new", "R", heads, head_dim),
            ),
        ),
    }
