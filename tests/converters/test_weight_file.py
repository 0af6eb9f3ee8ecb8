"""The shared weight file: contents come back as they were, equal ones are written once, large ones begin on a page."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from florence_convert.weights import PAGE, PAGED_FROM, WeightFile

sizes = st.one_of(st.integers(1, 300), st.integers(PAGED_FROM // 4 - 2, PAGED_FROM // 4 + 2))


@given(st.lists(st.tuples(sizes, st.integers(0, 3)), max_size=12))
def test_contents_come_back_and_are_shared(drawn: list[tuple[int, int]]) -> None:
    stream = io.BytesIO()
    weights = WeightFile(stream)
    arrays = [np.full(size, value, np.float32) for size, value in drawn]
    places = [weights.add(ir.tensor(array)) for array in arrays]
    content = stream.getvalue()
    for array, (offset, length) in zip(arrays, places, strict=True):
        assert content[offset : offset + length] == array.tobytes()
        assert offset % (PAGE if length >= PAGED_FROM else 64) == 0
    assert len(set(places)) == len(set(drawn))


def test_the_same_bytes_are_shared_between_types_and_shapes() -> None:
    weights = WeightFile(io.BytesIO())
    first = weights.add(ir.tensor(np.ones((4, 100), np.float32)))
    assert weights.add(ir.tensor(np.ones((100, 4), np.float32))) == first
    assert weights.add(ir.tensor(np.ones(400, np.float32).view(np.int32))) == first
