"""A loaded model as the scenarios and the camera see it: samples by their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from florence_edge.model import Florence

from . import scenarios
from .camera import Camera, peak_rate, watch
from .clock import Clock
from .power.meter import Energy, metered
from .scenarios import Rules, Scenario
from .settings import Settings

_BOUND_OF_MEDIANS = 2.0
"""The server's latency bound where none is given, in median latencies: one query may wait for one other."""
_BATCH = 8
_LEAST_WIDE_QUERIES = 2


class Live:
    """Runs the scenarios that the settings name; `service_ms` are recorded latencies of single answers."""

    def __init__(self, model: Florence, images: Sequence[bytes], settings: Settings, clock: Clock) -> None:
        self._model, self._images, self._settings, self._clock = model, images, settings, clock
        self._options = settings.fixed()
        self._given = list(settings.input) if isinstance(settings.input, tuple) else settings.input
        self._rules = Rules(settings.seconds, settings.runs, len(images), settings.seed)

    def serve(self, numbers: Sequence[int]) -> None:
        """Answers one image, or many as batches. A copy of its bytes keeps an image from being encoded once for all."""
        if len(numbers) == 1:
            self._model.run(self._settings.task, self._images[numbers[0]], self._given, search=self._options)
            return
        copies = [bytes(bytearray(self._images[number])) for number in numbers]
        items = [(copy, self._settings.task, self._given) for copy in copies]
        self._model.run_many(items, search=self._options, batch_size=_BATCH)

    def scenarios(self, service_ms: Sequence[float]) -> tuple[tuple[Scenario, ...], Energy | None]:
        """MLPerf's scenarios, and the energy of the answers of SingleStream where the board tells it."""
        found, energy = list[Scenario](), None
        wide = Rules(self._settings.seconds, _LEAST_WIDE_QUERIES, len(self._images), self._settings.seed)
        for name in self._settings.scenarios:
            if name == "single":
                with metered() as account:
                    found.append(scenarios.single_stream(self.serve, self._rules, self._clock))
                    account.answers = found[-1].samples
                energy = account.energy
            elif name == "multi":
                found.append(scenarios.multi_stream(self.serve, wide, self._clock))
            elif name == "offline":
                found.append(scenarios.offline(self.serve, wide, self._clock, count=self._batch_size(service_ms)))
            else:
                found.append(self._server(service_ms))
        return tuple(found), energy

    def camera(self, service_ms: Sequence[float]) -> Camera | None:
        """The rates asked for, then the highest that replaying promises, live."""
        if not self._settings.camera_rates:
            return None
        peak = peak_rate([spent / 1e3 for spent in service_ms], seed=self._settings.seed)
        *runs, confirmed = (
            watch(self.serve, self._clock, rate=rate, seconds_long=self._settings.seconds, images=len(self._images))
            for rate in (*self._settings.camera_rates, peak)
        )
        return Camera(tuple(runs), peak, confirmed)

    def _server(self, service_ms: Sequence[float]) -> Scenario:
        """The rate is what replaying promises; without any, half of what back-to-back answers would give."""
        ordered = sorted(service_ms)
        bound = self._settings.server_bound_ms or _BOUND_OF_MEDIANS * ordered[len(ordered) // 2]
        service = [spent / 1e3 for spent in service_ms]
        promised = scenarios.server_rate(service, bound, seed=self._settings.seed)
        rate = promised or 0.5 * len(service) / sum(service)
        rules = Rules(self._settings.seconds, _LEAST_WIDE_QUERIES, len(self._images), self._settings.seed)
        return scenarios.server(self.serve, rules, self._clock, rate=rate, bound_ms=bound)

    def _batch_size(self, service_ms: Sequence[float]) -> int:
        """About as many samples as take as long as the other measurements."""
        mean = sum(service_ms) / len(service_ms)
        return max(_BATCH, math.ceil(self._settings.seconds * 1e3 / mean))
