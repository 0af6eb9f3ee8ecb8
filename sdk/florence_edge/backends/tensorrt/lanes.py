"""Who may use which lane: calls one after the other, streams that are being read each on its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from florence_edge.errors import BackendError

from .decoding import Decoder
from .stages import Lane


class Lanes:
    """Lanes, made when needed.

    One lane serves all calls, which take turns. A stream keeps its lane until it is read to its end, and a call must
    not wait for that, least of all one by the reader itself; so where streams hold every lane, one more is made.
    """

    def __init__(self, make: Callable[[], Lane]) -> None:
        self._make = make
        self._free: list[OpenLane] = []
        self._every: list[OpenLane] = []
        self._reading = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def take(self, *, reading: bool = False) -> Iterator[OpenLane]:
        """A lane for one call, or with `reading` for one stream; `BackendError` after `close`."""
        lane = self._acquire(reading)
        try:
            yield lane
        except BaseException:
            lane.settle()
            raise
        finally:
            self._release(lane, reading)

    def _acquire(self, reading: bool) -> OpenLane:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free or self._reading == len(self._every))
            self.check_open()
            if not self._free:
                self._free.append(OpenLane(self._make()))
                self._every.append(self._free[-1])
            self._reading += reading
            return self._free.pop()

    def _release(self, lane: OpenLane, reading: bool) -> None:
        with self._changed:
            self._reading -= reading
            if not self._closed or not reading:
                self._free.append(lane)
            self._changed.notify_all()

    def check_open(self) -> None:
        """Raises `BackendError` after `close`."""
        if self._closed:
            raise BackendError("the backend was closed; open the bundle again")

    def close(self) -> bool:
        """Waits for calls, gives up on streams and frees the lanes; whether this was the first time.

        The device must be active, here and for `take`.
        """
        with self._changed:
            if self._closed:
                return False
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) + self._reading >= len(self._every))
            for lane in self._every:
                lane.close()
            self._every.clear()
            self._free.clear()
            return True


class OpenLane:
    """A lane and its decoders."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._decoders: dict[tuple[int, int, int], Decoder] = {}

    def decoder(self, batch: int, beams: int, prompt: int) -> Decoder:
        """The decoder for these sizes."""
        key = (batch, beams, prompt)
        if key not in self._decoders:
            self._decoders[key] = Decoder(self.lane, *key)
        return self._decoders[key]

    def settle(self) -> None:
        """After a failure: waits until nothing runs that still uses the lane's memory."""
        with suppress(BackendError), self.lane.device.active():
            self.lane.stream.synchronize()

    def close(self) -> None:
        """Frees everything, once nothing runs."""
        self.lane.stream.synchronize()
        for decoder in self._decoders.values():
            decoder.close()
        self._decoders.clear()
        self.lane.close()
