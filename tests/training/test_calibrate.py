from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from florence_edge.bundle import Bundle, seal
from florence_edge.calibration import Calibration, log_odds
from florence_edge.cli.main import main
from florence_edge.errors import InputError
from florence_edge.geometry import Int64Array
from florence_edge.manifest import REVISION
from florence_edge.model import Florence
from florence_train.data import Dataset, tabletop
from florence_train.evaluate import EvalOptions, evaluate
from florence_train.evaluate.calibrate import (
    LEAST_ITEMS,
    LEAST_SLOPE,
    Outcome,
    _held_out,
    calibrate,
    fit,
    keep,
    outcome_of,
)
from florence_train.evaluate.calibration import calibration_error
from florence_train.evaluate.resampling import Float64Array
from florence_train.evaluate.section import Scored
from florence_train.tabletop import TabletopConfig
from support.fake_backend import FakeBackend, make_bundle

TASKS = ("<OD>", "<DENSE_REGION_CAPTION>")


def drawn(count: int, seed: int) -> tuple[Float64Array, Float64Array]:
    """Scores that lie far below the chance of being right, as those of boxes do."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.02, 0.08, count)
    chance = 1 / (1 + np.exp(-3.0 * (log_odds(scores) + 3.2)))
    return scores, (rng.random(count) < chance).astype(np.float64)


def error(scores: Float64Array, right: Float64Array) -> float:
    return calibration_error(scores, right, np.arange(len(scores)))(np.ones(len(scores)))


def scored(scores: Float64Array, right: Float64Array) -> Scored:
    return Scored(scores, right, np.arange(len(scores)))


def test_the_error_of_other_items_falls() -> None:
    curve = Calibration(*fit(*drawn(400, 0)), 400, 0.0, 0.0)
    scores, right = drawn(2000, 1)
    assert error(scores, right) > 0.3
    assert error(curve(scores).astype(np.float64), right) < 0.05


@given(st.integers(0, 2**32 - 1), st.integers(10, 200), st.floats(0.05, 0.95))
def test_the_fit_is_the_likeliest_one(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    scores, right = rng.uniform(0.01, 0.99, count), (rng.random(count) < share).astype(np.float64)
    hits = right.sum()
    target = np.where(right > 0, (hits + 1) / (hits + 2), 1 / (count - hits + 2))

    def loss(weights: Float64Array) -> float:
        odds = weights[0] * log_odds(scores) + weights[1]
        return float((np.logaddexp(0, odds) - target * odds).sum())

    slope, offset = fit(scores, right)
    best = minimize(loss, np.zeros(2), bounds=[(LEAST_SLOPE, None), (None, None)])
    assert loss(np.array([slope, offset])) <= best.fun + 1e-4 * count


def test_groups_of_equal_scores_get_platts_targets() -> None:
    """With one score per outcome the likeliest curve goes through (n + 1) / (n + 2) and 1 / (n + 2)."""
    scores, right = np.array([0.1, 0.9, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    curve = Calibration(*fit(scores, right), 4, 0.0, 0.0)
    np.testing.assert_allclose(curve([0.1, 0.9]), [1 / 3, 4 / 5], rtol=1e-6)
    same = Calibration(*fit(np.full(4, 0.3), right), 4, 0.0, 0.0)
    np.testing.assert_allclose(same([0.3]), (1 / 3 + 3 * 4 / 5) / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("right", "chance"),
    [
        (np.tile([0.0, 1.0], 50), 0.5),
        (np.r_[np.ones(50), np.zeros(50)], 0.5),
        (np.tile([0.0, 1.0, 1.0, 1.0], 25), 0.75),
    ],
)
def test_scores_that_tell_nothing_become_the_share_of_right_answers(right: Float64Array, chance: float) -> None:
    scores = np.repeat(np.linspace(0.1, 0.9, 25), 4)
    slope, offset = fit(scores, right)
    assert slope >= LEAST_SLOPE
    if slope == LEAST_SLOPE:
        np.testing.assert_allclose(Calibration(slope, offset, 0, 0, 0)(scores), chance, atol=0.02)


def test_no_item_is_judged_by_a_curve_that_has_seen_its_image() -> None:
    scores, right = drawn(200, 0)
    images = np.repeat(np.arange(50), 4)
    before = _held_out(scored(scores, right), images)
    for image in range(50):
        mine = images == image
        after = _held_out(scored(scores, np.where(mine, 1 - right, right)), images)
        np.testing.assert_array_equal(after[mine], before[mine])
        assert (after != before).mean() > 0.5, "most others' curves have"


def test_tasks_that_cannot_be_calibrated_keep_their_scores_and_say_why() -> None:
    images = np.arange(100)
    few = outcome_of("<OCR>", scored(*drawn(LEAST_ITEMS - 1, 0)), images[: LEAST_ITEMS - 1])
    assert (few.curve, "too few" in few.reason) == (None, True)
    assert outcome_of("<OCR>", scored(*drawn(LEAST_ITEMS, 0)), images[:LEAST_ITEMS]).reason == ""
    for right, word in ((np.zeros(100), "wrong"), (np.ones(100), "right")):
        same = outcome_of("<OCR>", scored(np.full(100, 0.1), right), images)
        assert (same.curve, same.reason) == (None, f"every answer is {word}")
    half = outcome_of("<OCR>", scored(np.full(100, 0.5), np.tile([0.0, 1.0], 50)), images)
    assert (half.curve, half.reason.split(":")[0]) == (None, "a curve would not help")
    # All of one image: no fold is left to fit on.
    one = outcome_of("<OCR>", scored(np.full(100, 0.9), np.arange(100) % 10 == 0), np.zeros(100, np.int64))
    assert (one.curve, one.reason.split(":")[0]) == (None, "a curve would not help")
    rng = np.random.default_rng(0)
    honest = rng.random(2000)
    good = outcome_of("<OCR>", scored(honest, (rng.random(2000) < honest).astype(np.float64)), np.arange(2000))
    assert good.curve is None or good.curve.error_after < good.curve.error_before < 0.05


def test_a_curve_tells_the_error_before_and_that_of_items_it_has_not_seen() -> None:
    scores, right = drawn(400, 3)
    images = np.repeat(np.arange(100), 4)
    curve = outcome_of("<OD>", scored(scores, right), images).curve
    assert curve
    assert curve.items == 400
    assert curve.error_before == pytest.approx(error(scores, right))
    assert curve.error_after == pytest.approx(error(_held_out(scored(scores, right), images), right))


def test_every_box_belongs_to_the_image_it_was_found_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted, seen = make_bundle(tmp_path / "bundle"), list[list[int]]()

    def note(task: str, items: Scored, images: Int64Array) -> Outcome:
        seen.append(images.tolist())
        return Outcome(task, len(images), None)

    monkeypatch.setattr("florence_train.evaluate.calibrate.outcome_of", note)
    scenes = tabletop("val", 3, config=TabletopConfig(height=64, width=64, supersample=1))
    with Florence(scripted, FakeBackend(scripted)) as model:
        calibrate(model, scenes, options=EvalOptions(tasks=("<OD>",), resamples=0))
    assert list(map(sorted, seen)) == [[0, 0, 1, 1, 2, 2]], "two boxes in each image"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with its scores as they come."""
    folder = tmp_path_factory.mktemp("plain") / "bundle"
    shutil.copytree(Bundle.open("tabletop").folder, folder)
    seal(folder, replace(Bundle.open(folder).manifest, calibration={}))
    return folder


@pytest.fixture(scope="module")
def bundle(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "bundle"
    shutil.copytree(plain, folder)
    assert (
        main(["calibrate", str(folder), "tabletop:val", "--limit", "20", "--beams", "1", "--threads", "1", *asked()])
        == 0
    )
    return folder


def asked() -> list[str]:
    return [part for task in TASKS for part in ("--task", task)]


def test_the_bundled_model_gets_honest_scores_and_keeps_its_precision(plain: Path, bundle: Path) -> None:
    curves = Bundle.open(bundle).manifest.calibration
    assert set(curves) == set(TASKS)
    config = TabletopConfig(height=240, width=240)
    scenes = Dataset(tuple(tabletop("test", 12, config=config)))
    options = EvalOptions(tasks=TASKS, resamples=0, worst=0)
    reports = []
    for source in (plain, bundle):
        with Florence.load(source, threads=1) as model:
            reports.append(evaluate(model, scenes, options=options))
    before, after = reports
    for task, name in (("<OD>", "mAP"), ("<OD>", "AP gain over constant scores"), ("<DENSE_REGION_CAPTION>", "AP")):
        assert after.metric(task, name).value == pytest.approx(before.metric(task, name).value, abs=1e-6)
    for task in TASKS:
        old, new = (report.metric(task, "ECE at IoU 0.5").value for report in reports)
        assert old is not None
        assert new is not None
        assert new < old / 2


def test_a_calibrated_model_is_not_fitted_again_by_mistake(bundle: Path) -> None:
    with Florence.load(bundle, threads=1) as model, pytest.raises(InputError, match="calibrated already"):
        calibrate(model, Dataset(()))


def test_curves_of_other_tasks_stay(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    opened = Bundle.open(tmp_path / "copy")
    older = Bundle(opened.folder, replace(opened.manifest, revision=1))
    kept = keep(older, [Outcome("<OD>", 3, None, "too few")])
    assert kept.manifest.revision == REVISION
    assert kept.manifest.calibration == {TASKS[1]: opened.manifest.calibration[TASKS[1]]}


def test_a_dry_run_tells_and_leaves_the_bundle_alone(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (bundle / "manifest.json").read_bytes()
    arguments = ["calibrate", str(bundle), "tabletop:val", "--limit", "2", "--dry-run", "--json", "--task", "<OD>"]
    assert main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["task"], row["curve"]) == ("<OD>", None)
    assert (bundle / "manifest.json").read_bytes() == before
