"""A receiver on the network: every event is POSTed to it as JSON."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable

from .events import Event, document
from .protocols import Run, SinkError
from .uris import Uri

ATTEMPTS = 6
FIRST_WAIT_S, LONGEST_WAIT_S, TIMEOUT_S = 0.25, 8.0, 5.0
"""Waits between attempts double; a receiver that names a time itself (`Retry-After`) gets it, up to the longest."""

_PASSING = (408, 425, 429)
"""Refusals that may pass, beside all of the receiver's own faults (5xx)."""


def open_sink(uri: Uri) -> Receiver:
    """The receiver at an address."""
    return Receiver(uri.target)


class Receiver:
    """A `Sink` that answers each event with 2xx once it has it.

    An event whose acknowledgement was lost is sent again; `Idempotency-Key` (run, source, frame) lets the receiver see
    that. A redirection is a refusal: following it would lose the event's body. After six attempts the run ends; once it
    is broken off, after the next one. `pause` waits so many seconds, by default until the run is broken off.
    """

    def __init__(self, address: str, *, pause: Callable[[float], object] | None = None) -> None:
        self._address, self._pause = address, pause
        self._opener = urllib.request.build_opener(_Stay)

    def open(self, run: Run) -> None:
        """As in `Sink`: what a receiver has kept is its own affair."""
        self._run = run

    def write(self, event: Event) -> None:
        """As in `Sink`."""
        body = json.dumps(document(event, self._run), ensure_ascii=False, allow_nan=False).encode("utf-8")
        key = f"{self._run.key}-{event.frame.tag}-{event.frame.index}"
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        request = urllib.request.Request(self._address, data=body, headers=headers, method="POST")
        pause, ending = self._pause or self._run.ending.wait, self._run.ending
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or ending.is_set()
            fault, wait = self._send(request, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))
            if fault is None:
                return
            if wait is None:
                raise SinkError(f"{self._address} refused frame {event.frame.index}: {fault}")
            if last:
                break
            pause(wait)
        tries = f"{attempt} attempt{'s' * (attempt > 1)}"
        ended = "; the run was ended; what follows was not sent" if ending.is_set() else ""
        raise SinkError(f"{self._address} did not take frame {event.frame.index} in {tries}: {fault}{ended}")

    def close(self) -> None:
        """As in `Sink`: nothing is kept open."""

    def _send(self, request: urllib.request.Request, wait_s: float) -> tuple[str | None, float | None]:
        """One attempt: what went wrong, and how long to wait before the next, None when there is no use in one."""
        try:
            with self._opener.open(request, timeout=TIMEOUT_S):
                return None, None
        except urllib.error.HTTPError as error:
            with error:
                told, elsewhere = error.headers.get("Retry-After", ""), error.headers.get("Location")
            if elsewhere is not None:
                return f"{error.code} {error.reason}; give the address that it names: {elsewhere}", None
            if error.code < 500 and error.code not in _PASSING:
                return f"{error.code} {error.reason}", None
            return f"{error.code} {error.reason}", min(LONGEST_WAIT_S, float(told)) if told.isdecimal() else wait_s
        except (OSError, http.client.HTTPException) as error:  # refused and reset connections, timeouts, half an answer
            return str(error) or type(error).__name__, wait_s


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: of a POST that was moved, `urllib` makes a GET without a body."""

    def redirect_request(self, *given: object) -> None:
        """Declines, so that the answer is an `HTTPError`."""
