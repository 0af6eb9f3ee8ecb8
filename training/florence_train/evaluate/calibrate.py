"""Fits the curves that turn a model's scores into chances of being right, and keeps them in its bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from florence_edge.bundle import MANIFEST, Bundle
from florence_edge.calibration import Calibration, log_odds
from florence_edge.errors import InputError
from florence_edge.files import write
from florence_edge.geometry import Int64Array
from florence_edge.manifest import REVISION
from florence_edge.model import Florence
from florence_train.data import Dataset, Record

from .calibration import calibration_error
from .resampling import Float64Array
from .run import WITHOUT_INTERVALS, EvalOptions, answered, measured
from .section import Scored

LEAST_ITEMS = 40
"""Scored items that a curve is fitted on at least."""

FOLDS = 5
LEAST_SLOPE = 1e-3
"""For scores that tell nothing, or the contrary: all chances nearly the same, their order kept."""


@dataclass(frozen=True)
class Outcome:
    """What was done about the scores of one task: a curve, or none and the reason."""

    task: str
    items: int
    curve: Calibration | None
    reason: str = ""


def uncalibrated(bundle: Bundle) -> Bundle:
    """The bundle as if it had never been calibrated: its scores are mean token probabilities."""
    return Bundle(bundle.folder, replace(bundle.manifest, calibration={}))


def calibrate(
    model: Florence,
    data: Dataset | Iterable[Record],
    *,
    options: EvalOptions = WITHOUT_INTERVALS,
    on_image: Callable[[], Any] = lambda: None,
) -> tuple[Outcome, ...]:
    """Fits a curve for every task of the data whose answers are right or wrong.

    The data must be other than what the model was trained on. A task keeps its scores where fewer than `LEAST_ITEMS` of
    them are known, where all answers are right or all wrong, and where curves fitted on four fifths of the images make
    the calibration error of the last fifth no smaller. Raises `InputError` for a model that is calibrated already: open
    `uncalibrated(bundle)`.
    """
    if model.bundle.manifest.calibration:
        raise InputError("the model's scores are calibrated already; load uncalibrated(bundle) to fit anew")
    answers = answered(model, data, options=options, on_image=on_image)
    outcomes = []
    for section in measured(answers):
        if section.scored is not None:
            images = np.array([answer.image for answer in section.answers], np.int64)
            outcomes.append(outcome_of(section.task, section.scored, images[section.scored.answers]))
    return tuple(outcomes)


def keep(bundle: Bundle, outcomes: Sequence[Outcome]) -> Bundle:
    """Writes the curves into the bundle's manifest in one step, in place of those of the same tasks, and reopens it."""
    curves = {outcome.task: outcome.curve for outcome in outcomes if outcome.curve is not None}
    asked = {outcome.task for outcome in outcomes}
    others = {task: curve for task, curve in bundle.manifest.calibration.items() if task not in asked}
    manifest = replace(
        bundle.manifest, calibration={**others, **curves}, revision=max(REVISION, bundle.manifest.revision)
    )
    write(bundle.folder / MANIFEST, manifest.to_json().encode("utf-8"))
    return Bundle.open(bundle.folder)


def fit(scores: Float64Array, right: Float64Array) -> tuple[float, float]:
    """Slope and offset of the likeliest curve for scores [M] of items that are right [M] (1) or wrong (0).

    Platt's targets stand in for 1 and 0, so that a few items cannot make it certain. Newton's method, damped: the
    likelihood has one maximum.
    """
    odds, hits = log_odds(scores), float(right.sum())
    target = np.where(right > 0, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))
    middle, spread, ones = float(odds.mean()), float(odds.std()) or 1.0, np.ones((1, len(odds)))
    steep, level = _newton(np.concatenate([(odds[None] - middle) / spread, ones]), target)
    slope = float(steep) / spread
    if slope < LEAST_SLOPE:
        slope = LEAST_SLOPE
        (level,) = _newton(ones, target, known=slope * (odds - middle))
    return slope, float(level) - slope * middle


def _newton(inputs: Float64Array, target: Float64Array, known: Float64Array | float = 0.0) -> Float64Array:
    """Weights [K] of a logistic regression on inputs [K, M], `known` [M] being added to the log-odds."""
    weights: Float64Array = np.zeros(len(inputs))

    def loss(candidate: Float64Array) -> float:
        odds = candidate @ inputs + known
        return float((np.logaddexp(0, odds) - target * odds).sum())

    for _ in range(100):
        chance = 0.5 * (1 + np.tanh((weights @ inputs + known) / 2))
        gradient = inputs @ (chance - target)
        curvature = (inputs * (chance * (1 - chance))) @ inputs.T + 1e-9 * np.eye(len(inputs))
        step: Float64Array = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while scale > 1e-6 and loss(weights - scale * step) > loss(weights):
            scale /= 2
        weights = weights - scale * step
        if float(np.abs(scale * step).max()) < 1e-10:
            break
    return weights


def outcome_of(task: str, scored: Scored, images: Int64Array) -> Outcome:
    """What can be done about the scores of one task; `images` [M] numbers the image of every item."""
    count, hits = len(scored.scores), int(scored.right.sum())
    if count < LEAST_ITEMS:
        return Outcome(task, count, None, f"{count} scored items are too few; {LEAST_ITEMS} are needed")
    if hits in (0, count):
        return Outcome(task, count, None, f"every answer is {'right' if hits else 'wrong'}")
    before = _error(scored.scores, scored.right)
    after = _error(_held_out(scored, images), scored.right)
    if after >= before:
        return Outcome(task, count, None, f"a curve would not help: error {before:.3f} without, {after:.3f} with one")
    slope, offset = fit(scored.scores, scored.right)
    return Outcome(task, count, Calibration(slope, offset, count, before, after))


def _held_out(scored: Scored, images: Int64Array) -> Float64Array:
    """The chance [M] of each item by a curve fitted on the images of the other folds."""
    fold = np.random.default_rng(0).permutation(int(images.max()) + 1)[images] % FOLDS
    chances: Float64Array = scored.scores.copy()
    for number in range(FOLDS):
        mine = fold == number
        if mine.any() and not mine.all():
            slope, offset = fit(scored.scores[~mine], scored.right[~mine])
            chances[mine] = Calibration(slope, offset, 0, 0.0, 0.0)(scored.scores[mine])
    return chances


def _error(scores: Float64Array, right: Float64Array) -> float:
    rows = np.arange(len(scores))
    return calibration_error(scores, right, rows)(np.ones(len(scores)))
