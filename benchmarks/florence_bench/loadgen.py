"""MLPerf's own LoadGen at the wheel: it decides what is asked and when, and writes its own logs and verdict.

For whoever needs LoadGen's word instead of `scenarios`'; the one module that imports `mlperf_loadgen`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from queue import Queue
from typing import Any

from florence_edge.errors import InputError, missing

from .scenarios import MULTI_STREAM, OFFLINE, SERVER, SINGLE_STREAM, STREAMS, Rules, Serve

SUMMARY = "mlperf_log_summary.txt"


def drive(serve: Serve, scenario: str, rules: Rules, logs: Path, *, rate: float = 1.0, bound_ms: float = 1e3) -> str:
    """Runs a scenario (by its name in `scenarios`) and returns LoadGen's summary; its log files lie in `logs`.

    `rate` is the server's or the expected offline rate in samples a second, `bound_ms` the server's latency bound.
    Raises `DependencyError` without mlcommons-loadgen.
    """
    try:
        import mlperf_loadgen as loadgen  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise missing("mlcommons-loadgen", extra="loadgen", needed_for="MLPerf's own scenarios") from error
    if scenario not in (SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER):
        raise InputError(f"{scenario!r} is no scenario of MLPerf inference")
    logs.mkdir(parents=True, exist_ok=True)
    engine = _Engine(serve, loadgen)
    system = loadgen.ConstructSUT(engine.queue.put, lambda: None)
    library = loadgen.ConstructQSL(rules.samples, rules.samples, len, len)  # samples are in memory: nothing to load
    try:
        loadgen.StartTestWithLogSettings(
            system, library, _settings(loadgen, scenario, rules, rate, bound_ms), _log_settings(loadgen, logs)
        )
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        engine.stop()
    return (logs / SUMMARY).read_text(encoding="utf-8")


class _Engine:
    """Answers queries in a thread of its own, since LoadGen goes on issuing while the server works."""

    def __init__(self, serve: Serve, loadgen: Any) -> None:
        self.queue: Queue[list[Any] | None] = Queue()
        self._serve, self._loadgen = serve, loadgen
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread when all queries are answered."""
        self.queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (queries := self.queue.get()) is not None:
            self._serve([query.index for query in queries])
            self._loadgen.QuerySamplesComplete([self._loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])


def _settings(loadgen: Any, scenario: str, rules: Rules, rate: float, bound_ms: float) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = round(rules.seconds * 1e3), rules.queries
    settings.multi_stream_samples_per_query = STREAMS
    settings.server_target_qps = settings.offline_expected_qps = rate
    settings.server_target_latency_ns = round(bound_ms * 1e6)
    return settings


def _log_settings(loadgen: Any, logs: Path) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(logs), False
    settings = loadgen.LogSettings()
    settings.log_output = output
    return settings
