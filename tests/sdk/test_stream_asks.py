"""Which frames are looked at, and by which tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.stream import Ask, Frame
from florence_edge.stream.asks import Schedule, as_asks

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frames(times_s: npt.ArrayLike) -> list[Frame]:
    return [Frame(IMAGE, round(time * 1e9), index, "camera") for index, time in enumerate(np.asarray(times_s).tolist())]


def run(schedule: Schedule, shots: Sequence[Frame]) -> list[tuple[int, tuple[str, ...]]]:
    done = []
    for frame in shots:
        asks = schedule.due(frame)
        if asks:
            schedule.take(frame)
            done.append((frame.index, tuple(ask.name for ask in asks)))
    return done


def test_every_and_hz_are_counted_in_frames_and_in_capture_time() -> None:
    asks = as_asks([Ask("detect", every=3), Ask("caption", hz=2.0), Ask("read")])
    done = dict(run(Schedule(asks), frames(np.arange(20) / 10)))
    assert [index for index, names in done.items() if "detect" in names] == [0, 3, 6, 9, 12, 15, 18]
    assert [index for index, names in done.items() if "caption" in names] == [0, 5, 10, 15]
    assert len(done) == 20


def test_frames_that_no_task_is_due_on_are_left_out() -> None:
    assert [index for index, _ in run(Schedule(as_asks([Ask("detect", every=4)])), frames(np.arange(9)))] == [0, 4, 8]


@pytest.mark.parametrize("step_ms", [33, 1000 / 30, 33.4])
def test_the_rate_of_the_source_itself_keeps_every_frame_however_a_container_rounds(step_ms: float) -> None:
    times = [round(index * 1000 / 30) / 1000 if step_ms == 33 else index / 30 for index in range(300)]
    assert len(run(Schedule(as_asks(["detect"]), fps=30), frames(times))) == 300


def test_fps_thins_by_capture_time() -> None:
    done = run(Schedule(as_asks(["detect"]), fps=10), frames(np.arange(90) / 30))
    assert [index for index, _ in done] == list(range(0, 90, 3))


@given(
    steps=st.lists(st.floats(0.0, 0.4), min_size=2, max_size=40),
    fps=st.none() | st.floats(1, 20),
    every=st.integers(1, 5),
    hz=st.floats(0.5, 8),
    cut=st.integers(1, 39),
)
def test_a_run_resumed_from_its_last_frame_decides_as_an_unbroken_one(
    steps: list[float], fps: float | None, every: int, hz: float, cut: int
) -> None:
    shots = frames(np.cumsum(steps))
    asks = as_asks([Ask("detect", every=every), Ask("caption", hz=hz)])
    whole = run(Schedule(asks, fps=fps), shots)
    first = run(Schedule(asks, fps=fps), shots[:cut])
    position = first[-1][0] + 1
    later = Schedule(asks, fps=fps)
    later.take(shots[position - 1])
    assert first + run(later, shots[position:]) == whole


@given(fps=st.floats(1, 60), rate=st.floats(1, 60))
def test_no_second_has_more_frames_than_asked_for(fps: float, rate: float) -> None:
    done = run(Schedule(as_asks(["detect"]), fps=fps), frames(np.arange(200) / rate))
    seconds = np.array([index for index, _ in done]) / rate
    for start in seconds:
        assert ((seconds >= start) & (seconds < start + 1.0 - 0.2 / fps)).sum() <= np.ceil(fps) + 1


def test_tasks_may_be_names_pairs_and_asks_and_get_unique_names() -> None:
    asks = as_asks(["<OD>", ("detect", "red cube"), ("detect", ["ball", "cup"]), Ask("caption", name="scene")])
    assert [ask.name for ask in asks] == ["od", "detect", "detect-2", "scene"]
    assert [ask.row.token for ask in asks][:2] == ["<OD>", "<OPEN_VOCABULARY_DETECTION>"]
    assert asks[2].labels() == ("ball", "cup")


def test_all_bad_tasks_are_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        as_asks(["detekt", ("ground", None), ("caption", "x")])
    assert all(word in str(error.value) for word in ("detekt", "a phrase", "takes no input"))
    with pytest.raises(InputError, match="no task is given"):
        as_asks([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0"),
        ({"hz": 0.0}, "hz is 0.0"),
        ({"hz": float("nan")}, "hz is nan"),
        ({"hz": 2.0, "every": 2}, "give one of them"),
    ],
)
def test_rates_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ask("detect", **options)  # type: ignore[arg-type]  # the wrong values are the point
