"""The parity gate: an engine must be as exact as its precision allows, or it is not used.

Every engine gets the inputs that the fp32 graphs give on the same seeded images and prompts: an error belongs to
the engine where it arises. Allowed is twice what the same graph loses in ONNX Runtime, and never less than the floor of
its precision: what rounding costs is no fault of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from florence_convert.comparison import Cases, max_error
from florence_convert.lowering import Buckets, Lowered, LoweredPart
from florence_edge.backends.tensorrt.sidecar import Gate
from florence_edge.geometry import AnyArray
from florence_edge.manifest import Precision

from .runner import EngineRunner, GraphRunner

FLOOR: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 2e-3, "bf16": 1.6e-2, "int8": 5e-2}
"""Error that is always allowed, as a share of the largest value: some units in the last place of the type."""

ROUNDING = 2.0
_STEPS = 4


@dataclass(frozen=True, eq=False)
class Sample:
    """Inputs of one run, the sizes of its letters, and the fp32 graph's outputs."""

    inputs: Mapping[str, AnyArray]
    sizes: Mapping[str, int]
    wanted: Mapping[str, AnyArray]


def draw_samples(exact: Lowered, buckets: Buckets, cases: Cases) -> dict[str, list[Sample]]:
    """Per part, runs of the fp32 graphs in the smallest batch with the most beams, a decoder of some steps."""
    batch, prompt = buckets.batches[0], buckets.prompts[-1]
    pixels = np.resize(cases.pixels, (batch, *cases.pixels.shape[1:]))
    vision = GraphRunner(exact.vision.runnable).run({"pixels": pixels})
    image_tokens = vision["features"].shape[1]
    chosen = [cases.prompts[index % len(cases.prompts)] for index in range(batch)]
    ids = np.zeros((batch, prompt), np.int32)
    for row, tokens in enumerate(chosen):
        ids[row, : len(tokens)] = tokens
    lengths = np.asarray([len(tokens) + image_tokens for tokens in chosen], np.int32)
    inputs = {"features": vision["features"], "prompt_ids": ids, "lengths": lengths}
    cross = GraphRunner(exact.encoder.runnable).run(inputs)
    sizes = {"B": batch, "P": prompt, "S": image_tokens + prompt}
    return {
        "vision": [Sample({"pixels": pixels}, sizes, vision)],
        "encoder": [Sample(inputs, sizes, cross)],
        "decoder": list(_decoder_samples(exact.decoder, buckets, {**cross, "lengths": lengths}, sizes, cases.seed)),
    }


def _decoder_samples(
    part: LoweredPart, buckets: Buckets, given: Mapping[str, AnyArray], sizes: Mapping[str, int], seed: int
) -> Iterator[Sample]:
    """Steps with random tokens, whose beams change their histories."""
    rng, runner = np.random.default_rng(seed), GraphRunner(part.runnable)
    batch, beams, capacity = sizes["B"], buckets.beams[-1], buckets.capacity
    every = {**sizes, "K": beams, "R": batch * beams, "L": capacity, "W": capacity // 4}
    caches = {
        tensor.name: np.zeros([every[size] if isinstance(size, str) else size for size in tensor.shape], np.float32)
        for tensor in part.inputs
        if tensor.name.startswith("self_")
    }
    vocabulary = int(part.outputs[0].shape[-1])
    slots = np.zeros((batch, beams, capacity), np.uint8)
    for position in range(_STEPS):
        slots[:, :, :position] = rng.integers(0, beams, (batch, beams, position))
        inputs = {
            **given,
            **{name: cache.copy() for name, cache in caches.items()},
            "token_ids": rng.integers(0, vocabulary, (batch, beams)).astype(np.int32),
            "position": np.asarray([position], np.int32),
            "indirection": slots.copy().view(np.int32),
            "image_done": np.zeros(batch, np.int32),
        }
        outputs = runner.run(inputs)
        yield Sample(inputs, every, outputs)
        for name, cache in caches.items():
            new = outputs[name.replace("self_", "new_")]
            cache[:, :, :, position] = new.reshape(batch, beams, *new.shape[1:])


def measure(part: LoweredPart, runner: EngineRunner, samples: list[Sample]) -> Gate:
    """The engine's error over all samples, and what is allowed.

    Padding beyond a prompt's length holds arbitrary values, in every output of the encoder, and is left out.
    """
    error = max(_error(sample, runner.run(sample.inputs, sample.sizes)) for sample in samples)
    scale = max(float(np.abs(array).max()) for sample in samples for array in _seen(sample, sample.wanted).values())
    rounding = _rounding(part, samples)
    return Gate(
        error=min(error, float(np.finfo(np.float32).max)),
        tolerance=max(FLOOR[part.precision] * scale, ROUNDING * rounding),
        rounding=rounding,
    )


def _rounding(part: LoweredPart, samples: list[Sample]) -> float:
    """The error of the part's own graph in ONNX Runtime; 0 for bf16, which that cannot run on a CPU."""
    if part.precision == "bf16":
        return 0.0
    runner = GraphRunner(part.runnable)
    return max(_error(sample, runner.run(sample.inputs)) for sample in samples)


def _error(sample: Sample, found: Mapping[str, AnyArray]) -> float:
    return max_error(_seen(sample, sample.wanted), _seen(sample, found))


def _seen(sample: Sample, outputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Outputs with the padding of prompts set to zero."""
    if "prompt_ids" not in sample.inputs:
        return dict(outputs)
    inside = np.arange(sample.sizes["S"]) < sample.inputs["lengths"][:, None]
    return {name: np.where(inside[:, None, :, None], array, 0) for name, array in outputs.items()}
