"""What quantisation costs: every task's metric where there is annotated data, else how many tokens stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from florence_convert.comparison import CaseOptions, Cases, draw_cases, empty_cache
from florence_convert.names import DECODER, ENCODER, VISION
from florence_convert.sides import OnnxSide
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.request import padded
from florence_edge.bundle import Bundle
from florence_edge.card import identity
from florence_edge.errors import InputError
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.images import load_image
from florence_edge.loss import Loss, MetricLoss
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.preprocess import to_pixels
from florence_edge.tokens import Tokens
from florence_train.evaluate import EvalOptions, Report, evaluate
from florence_train.evaluate.asked import Asked

_CIDER, _CIDER_RANGE = "CIDEr", 10.0
_PAIRS_PER_IMAGE = 3
_PATTERNS = 4

MAX_LOSS = {True: 0.02, False: 0.1}
"""What may be lost where nothing is said: of metrics on annotated data, and of tokens without.

Single tokens differ more easily than answers get worse: on the bundled model 5 % of tokens went with 0.1 points of 100.
"""


@dataclass(frozen=True)
class Measure:
    """What to measure on.

    `data` is annotated data as `florence-edge eval` takes it (`tabletop:test` for the bundled model); `pictures` are
    image files that need no annotation; with neither, patterns are drawn. `limit` images are looked at.
    """

    data: str | None = None
    pictures: Sequence[str] = ()
    limit: int = 40

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"limit is {self.limit}; it must be 1 or more")
        if self.data and self.pictures:
            raise InputError("the loss is measured on annotated data or on pictures without; give one of them")


def measure(reference: Bundle, candidate: Bundle, wanted: Measure, *, allowed: float) -> Loss:
    """What the candidate loses against the reference."""
    if wanted.data:
        with Florence.load(reference) as before, Florence.load(candidate) as after:
            return measure_tasks(before, after, wanted.data, limit=wanted.limit, allowed=allowed)
    cases = _cases(reference, wanted)
    same, tokens = agreement(reference, candidate, cases)
    what = "pictures given" if wanted.pictures else "drawn patterns"
    return Loss(_name(reference), what, len(cases.pixels), allowed, agreement=same, tokens=tokens)


def measure_tasks(reference: Florence, candidate: Florence, data: str, *, limit: int, allowed: float) -> Loss:
    """What the candidate loses of each task's metric, on the first `limit` images of annotated data."""
    reports = [_report(model, data, limit) for model in (reference, candidate)]
    return Loss(_name(reference.bundle), data, reports[0].images, allowed, metric_losses(*reports))


def _name(reference: Bundle) -> str:
    return f"fp32 {identity(reference)[:12]}"


def metric_losses(reference: Report, candidate: Report) -> tuple[MetricLoss, ...]:
    """The first metric of every task that is defined for both."""
    first = {metric.task: metric for metric in reversed(reference.metrics)}
    losses = []
    for metric in (first[task] for task in dict.fromkeys(metric.task for metric in reference.metrics)):
        values = metric.value, candidate.metric(metric.task, metric.name).value
        if values[0] is None or values[1] is None:
            continue
        before, after = (_as_quality(value, metric.name, metric.better) for value in values if value is not None)
        losses.append(MetricLoss(metric.task, metric.name, before, after, metric.count))
    if not losses:
        raise InputError("the data gives no metric that can be compared; give data with answers to a task")
    return tuple(losses)


def agreement(reference: Bundle, candidate: Bundle, cases: Cases) -> tuple[float, int]:
    """The share of tokens for which both find the same one likeliest, given the reference's answer so far; how many.

    Both are fed the same greedy answers, so that one difference does not make all that follows it different.
    """
    backend = OnnxBackend(reference)
    try:
        options = SearchOptions(beams=1, max_new_tokens=cases.new_tokens)
        found = backend.generate(backend.encode_image(cases.pixels), cases.prompts, options, cases.image_of)
    finally:
        backend.close()
    answers, real = padded([hypothesis.ids for hypothesis in found], 0)
    start = np.full((len(answers), 1), reference.manifest.search.decoder_start, np.int64)
    fed = np.concatenate([start, answers[:, :-1]], axis=1)
    ours, theirs = (_likeliest(OnnxSide(bundle), cases, fed) for bundle in (reference, candidate))
    # The first token is forced, whatever the model thinks.
    same = (ours == theirs)[:, 1:][real[:, 1:]]
    return float(same.mean()) if same.size else 1.0, same.size


def _likeliest(side: OnnxSide, cases: Cases, fed: Int64Array) -> Int64Array:
    """The likeliest token [B, T] behind each token of `fed` [B, T] and those before it."""
    # One image at a time, as the backend does it: the scale of a quantised image must not depend on its neighbours.
    features = np.concatenate([side.run(VISION, {"pixels": image[None]})["features"] for image in cases.pixels])
    ids, mask = padded(cases.prompts, 0)
    cross = side.run(ENCODER, {"features": features[list(cases.image_of)], "prompt_ids": ids, "prompt_mask": mask})
    batch, length = fed.shape
    cache = empty_cache(side.tables, {"B": batch, "K": 1, "L": length})
    ancestors = np.full((batch, 1, length), -1, np.int32)
    found = np.zeros_like(fed)
    for position in range(length):
        step = {"token_ids": fed[:, position : position + 1], "position": np.asarray(position, np.int64)}
        outputs = side.run(DECODER, {**step, "ancestors": ancestors, **cache, **cross})
        found[:, position] = outputs["logits"][:, 0].argmax(axis=-1)
        ancestors[:, :, position] = 0
        for name, array in cache.items():
            array[:, :, position] = outputs[name.replace("self_", "new_")]
    return found


def _report(model: Florence, data: str, limit: int) -> Report:
    """The evaluation of a model, without intervals."""
    records, _ = Asked(data, limit=limit).records(model.bundle.manifest.image)
    return evaluate(model, records, options=EvalOptions(limit=limit, resamples=0, worst=0), name=data)


def _as_quality(value: float, name: str, better: str) -> float:
    """A metric's value as 0..1 with more being better."""
    scaled = value / _CIDER_RANGE if name == _CIDER else value
    return scaled if better == "higher" else 1.0 - scaled


def _cases(bundle: Bundle, wanted: Measure) -> Cases:
    """Pictures and prompts, `_PAIRS_PER_IMAGE` per picture."""
    manifest = bundle.manifest
    pictures = list(wanted.pictures)[: wanted.limit]
    count = len(pictures) or min(wanted.limit, _PATTERNS)
    options = CaseOptions(pairs=_PAIRS_PER_IMAGE * count, images=1 if pictures else count, new_tokens=32)
    cases = draw_cases(manifest.image, Tokens.load(bundle.tokenizer), manifest.limits, options)
    if not pictures:
        return cases
    rows: list[Float32Array] = [to_pixels(load_image(path), manifest.image) for path in pictures]
    return replace(cases, pixels=np.concatenate(rows), image_of=tuple(i % count for i in range(options.pairs)))
