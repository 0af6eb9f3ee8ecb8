"""What to measure and for how long; equal settings are what makes two results comparable."""

from __future__ import annotations

from dataclasses import dataclass

from florence_edge.errors import InputError, listing
from florence_edge.options import SearchOptions

SCENARIOS = ("single", "multi", "offline", "server")
GROWTHS = ("tokens", "beams", "batch", "pixels")


@dataclass(frozen=True)
class Settings:
    """How a bundle is measured.

    `task` and `input` are what is asked. Every answer is made exactly `tokens` tokens long, so that latencies compare;
    how long answers are by themselves is measured beside it. `beams` None is the bundle's own setting. `seconds` is how
    long each measurement runs, after `warmup_seconds` whose runs do not count, but never for fewer than `runs`.
    `backend`, `threads` and `providers` are as in `Florence.load`. `scenarios` are MLPerf's, `camera_rates`
    frames a second, `server_bound_ms` the server's latency bound (None: twice the median latency). `growth` names what
    is varied, `cold_starts` the number of fresh processes. `seed` draws arrivals and resamples.
    """

    task: str = "<CAPTION>"
    input: str | tuple[str, ...] | None = None
    tokens: int = 32
    beams: int | None = None
    backend: str = "onnx"
    threads: int | None = None
    providers: tuple[str, ...] | None = None
    warmup_seconds: float = 1.0
    seconds: float = 10.0
    runs: int = 10
    scenarios: tuple[str, ...] = SCENARIOS
    camera_rates: tuple[float, ...] = (10.0, 30.0)
    server_bound_ms: float | None = None
    growth: tuple[str, ...] = ()
    cold_starts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [text for wrong, text in self._checks() if wrong]
        if faults:
            raise InputError(listing("these settings cannot be measured with:", faults))

    def _checks(self) -> list[tuple[bool, str]]:
        unknown = [name for name in self.scenarios if name not in SCENARIOS]
        growths = [name for name in self.growth if name not in GROWTHS]
        return [
            (self.tokens < 4, f"tokens is {self.tokens}; at least 4 are needed to tell the first from the others"),
            (self.beams is not None and self.beams < 1, f"beams is {self.beams}; it must be 1 or more"),
            (self.threads is not None and self.threads < 1, f"threads is {self.threads}; it must be 1 or more"),
            (self.warmup_seconds < 0, f"warmup_seconds is {self.warmup_seconds}; it must be 0 or more"),
            (self.seconds <= 0, f"seconds is {self.seconds}; it must be above 0"),
            (self.runs < 2, f"runs is {self.runs}; at least 2 are needed for a spread"),
            (bool(unknown), f"scenarios has {unknown}; allowed are {', '.join(SCENARIOS)}"),
            (bool(growths), f"growth has {growths}; allowed are {', '.join(GROWTHS)}"),
            (any(rate <= 0 for rate in self.camera_rates), f"camera_rates is {self.camera_rates}; all must be above 0"),
            (
                self.server_bound_ms is not None and self.server_bound_ms <= 0,
                f"server_bound_ms is {self.server_bound_ms}; it must be above 0",
            ),
            (self.cold_starts < 0, f"cold_starts is {self.cold_starts}; it must be 0 or more"),
        ]

    def fixed(self, tokens: int | None = None, beams: int | None = None) -> SearchOptions:
        """Search options for an answer of exactly so many tokens."""
        count = self.tokens if tokens is None else tokens
        return SearchOptions(beams=beams or self.beams, max_new_tokens=count, min_new_tokens=count)


@dataclass(frozen=True)
class Rival:
    """Something to race against: a kind (see `contenders.KINDS`) and the folder of its weights."""

    kind: str
    folder: str


@dataclass(frozen=True)
class RaceSettings:
    """How rivals are raced.

    Contenders take turns, a `round` being one answer of each to every workload; at least two rounds are run, then more
    as long as the next is likely to end within `seconds` of the first contender's start, `rounds` at most. One that
    takes longer than `patience` seconds to open or to answer (compiling for the first time, say) is left out. `tasks`
    are asked together in the workload of several questions about one image.
    """

    rivals: tuple[Rival, ...] = ()
    rounds: int = 5
    seconds: float = 480.0
    patience: float = 300.0
    tasks: tuple[str, ...] = ("<CAPTION>", "<OD>", "<OCR>")

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise InputError(f"rounds is {self.rounds}; at least 2 are needed for a spread")
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}; it must be above 0")
        if self.patience <= 0:
            raise InputError(f"patience is {self.patience}; it must be above 0")
