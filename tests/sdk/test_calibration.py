from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from florence_edge.bundle import Bundle
from florence_edge.calibration import Calibration, log_odds
from florence_edge.errors import BundleError, InputError
from florence_edge.manifest import REVISION, Manifest
from florence_edge.model import Florence
from support.fake_backend import FakeBackend, make_bundle
from support.manifests import manifest

CURVE = Calibration(slope=2.0, offset=1.5, items=100, error_before=0.5, error_after=0.05)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20),
    st.floats(1e-3, 20),
    st.floats(-30, 30),
)
def test_no_ranking_is_ever_turned_round(scores: list[float], slope: float, offset: float) -> None:
    order = np.sort(np.asarray(scores, np.float32))
    chances = Calibration(slope, offset, 0, 0.0, 0.0)(order)
    assert chances.dtype == np.float32
    assert (np.diff(chances) >= 0).all()
    assert ((chances >= 0) & (chances <= 1)).all()


def test_the_curve_is_the_one_of_the_docstring_and_unknown_stays_unknown() -> None:
    scores = np.array([0.01, 0.3, 0.9, np.nan], np.float32)
    expected = expit(2.0 * logit(scores.astype(np.float64)) + 1.5)
    np.testing.assert_allclose(CURVE(scores), expected, rtol=1e-6)
    np.testing.assert_allclose(log_odds(scores[:3]), logit(scores[:3].astype(np.float64)), rtol=1e-12)
    assert CURVE([]).shape == (0,)
    assert np.isfinite(log_odds([0.0, 1.0])).all()


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan")])
def test_a_curve_that_does_not_rise_is_refused(slope: float) -> None:
    with pytest.raises(InputError, match="slope"):
        replace(CURVE, slope=slope)


def test_a_manifest_keeps_curves_and_older_ones_have_none() -> None:
    whole = Manifest.from_json(replace(_listed(manifest()), calibration={"<OD>": CURVE}).to_json())
    assert whole.calibration == {"<OD>": CURVE}
    values = _listed(manifest()).to_dict()
    del values["calibration"]
    assert Manifest.from_dict({**values, "revision": 0}).calibration == {}
    with pytest.raises(BundleError, match="missing key calibration"):
        Manifest.from_dict({**values, "revision": REVISION})
    bad = {**whole.to_dict(), "calibration": {"<OD>": {**vars(CURVE), "slope": -1.0}}}
    with pytest.raises(BundleError, match="slope"):
        Manifest.from_dict(bad)


def test_only_scores_of_calibrated_tasks_change(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    curved = Bundle(bundle.folder, replace(bundle.manifest, calibration={"<OD>": CURVE}))
    image = np.zeros((32, 48, 3), np.uint8)
    plain, other = (Florence(one, FakeBackend(one)) for one in (bundle, curved))
    before, after = plain.detect(image), other.detect(image)
    np.testing.assert_array_equal(after.scores, CURVE(before.scores))
    np.testing.assert_array_equal(after.boxes, before.boxes)
    assert other.caption(image).score == plain.caption(image).score
    many = other.run_many([(image, "detect"), (image, "propose")])
    np.testing.assert_array_equal(many[0].scores, after.scores)
    assert "calibration" in json.loads(json.dumps(other.info()))


def _listed(incomplete: Manifest) -> Manifest:
    record = {"sha256": "a" * 64, "bytes": 3}
    values = {**incomplete.to_dict(), "files": dict.fromkeys(incomplete.used_files(), record)}
    return Manifest.from_dict(values)
