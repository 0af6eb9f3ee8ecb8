"""What the tests of the tensorrt backend ask, and when two answers are the same."""

from __future__ import annotations

import numpy as np
import pytest

from florence_edge.backends import Hypothesis
from florence_edge.options import SearchOptions

GREEDY = SearchOptions(beams=1, max_new_tokens=12)
CAPACITY = 64
"""Positions of the decoder's caches in the engines."""


def assert_same(found: Hypothesis, wanted: Hypothesis) -> None:
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.ids.dtype == np.int64
    assert found.token_logprobs.dtype == np.float32
    assert found.finish == wanted.finish
    assert found.score == pytest.approx(wanted.score, abs=1e-4)
    np.testing.assert_allclose(found.token_logprobs, wanted.token_logprobs, atol=1e-4)
