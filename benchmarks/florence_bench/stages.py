"""Where the time of an answer goes, seen from outside: a model is asked, and what it asked of its engine is repeated.

`timings_ms` of a result tell decoding the image, preprocessing, vision, search and parsing. Inside the search, the
encoder and a token are told apart by repeating the same search with other token limits: as the last token at the limit
and a first one that is forced need no decoder step, a limit of one token costs the encoder alone. See `decoder_steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from florence_edge.backends import Backend, StreamingBackend
from florence_edge.model import Florence
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.results import Result

from .clock import Clock, milliseconds
from .errors import BenchmarkError
from .recorder import Recorder
from .repeat import repeat
from .series import Series
from .settings import Settings

STAGES = ("load", "preprocess", "vision", "encoder", "decode", "parse")
"""What an answer passes through, in order; their sum is `total` less what the SDK spends in between."""


@dataclass(frozen=True)
class Observed:
    """How long answers are when nothing fixes their length, and how long they take."""

    tokens: Series
    total_ms: Series
    cut_short: int


@dataclass(frozen=True)
class Streaming:
    """What a reader of a stream waits for, one beam: the first free token, then each further one.

    `inter_token_ms` are single gaps; with several beams tokens become certain in bunches, which says nothing of speed.
    """

    time_to_first_token_ms: Series
    inter_token_ms: Series


@dataclass(frozen=True)
class Stages:
    """Milliseconds of one answer of exactly `tokens` tokens.

    `stages` has the entries of `STAGES`; `encoder` also holds setting up the search, `decode` all decoder steps with
    the choice of tokens. `first_token` runs from features to the first token that the model is free to choose,
    `time_to_first_token` from the image handed in; `per_token` is `decode` over the decoder steps of a run.
    """

    tokens: int
    beams: int
    stages: Mapping[str, Series]
    total_ms: Series
    first_token_ms: Series
    time_to_first_token_ms: Series
    per_token_ms: Series
    answers_per_second: float
    tokens_per_second: float
    streaming: Streaming | None
    observed: Observed


def decoder_steps(config: SearchConfig, tokens: int) -> int:
    """Decoder steps of an answer that ends at its limit of `tokens`: a forced token at the limit needs none."""
    forced_at_limit = config.forced_eos is not None or (tokens == 1 and config.forced_bos is not None)
    return tokens - 1 if forced_at_limit else tokens


def first_free(config: SearchConfig) -> int:
    """The token limit whose last decoder step is the one that chooses the first free token."""
    steps = 1 if config.forced_bos is None else 2
    return steps + 1 if config.forced_eos is not None else steps


class StageMeter:
    """Measures the stages of one question about one image after the other."""

    def __init__(self, model: Florence, recorder: Recorder, settings: Settings, clock: Clock) -> None:
        self._model, self._recorder, self._settings, self._clock = model, recorder, settings, clock
        self._options = settings.fixed()
        self._config = model.bundle.manifest.search.over(self._options)
        self._samples: dict[str, list[float]] = {}
        self._encoder_steps = decoder_steps(self._config, 1)
        self._steps = decoder_steps(self._config, settings.tokens) - self._encoder_steps

    def measure(self, images: Sequence[bytes], backend: Backend) -> Stages:
        """Runs everything; `images` are the bytes of image files."""
        repeat(lambda number: self._once(images[number % len(images)], keep=number >= 0), self._settings, self._clock)
        taken = {name: Series.of(samples) for name, samples in self._samples.items()}
        total = taken.pop("total")
        return Stages(
            tokens=self._settings.tokens,
            beams=self._config.beams,
            stages={name: taken[name] for name in STAGES},
            total_ms=total,
            first_token_ms=taken["first_token"],
            time_to_first_token_ms=taken["time_to_first_token"],
            per_token_ms=taken["per_token"],
            answers_per_second=1e3 / total.summary.mean,
            tokens_per_second=self._settings.tokens * 1e3 / total.summary.mean,
            streaming=self._stream(images[0], backend),
            observed=self._observe(images),
        )

    def _once(self, image: bytes, *, keep: bool) -> None:
        start = self._clock.now()
        result = self._ask(image, self._options)
        total = milliseconds(self._clock.now() - start)
        made = len(self._recorder.answered[0])
        if made != self._settings.tokens:
            raise BenchmarkError(
                f"an answer of exactly {self._settings.tokens} tokens was asked for, {made} came back; the "
                "backend does not keep min_new_tokens and max_new_tokens, so latencies would not compare"
            )
        encoder, first = self._probe(1), self._probe(first_free(self._config))
        spent = dict(result.timings_ms)
        search = spent.pop("search")
        per_token = (search - encoder) / self._steps
        spent["encoder"] = encoder - self._encoder_steps * per_token
        spent["decode"] = search - spent["encoder"]
        before = sum(spent[name] for name in ("load", "preprocess", "vision"))
        extra = {"total": total, "first_token": first, "time_to_first_token": before + first, "per_token": per_token}
        if keep:
            for name, value in {**spent, **extra}.items():
                self._samples.setdefault(name, []).append(value)

    def _ask(self, image: bytes, options: SearchOptions | None) -> Result:
        given = self._settings.input
        return self._model.run(
            self._settings.task, image, list(given) if isinstance(given, tuple) else given, search=options
        )

    def _probe(self, tokens: int) -> float:
        """Milliseconds of the last search again, with another limit."""
        if self._recorder.question is None:
            raise BenchmarkError("nothing was asked of the engine yet, so nothing can be asked again")
        features, prompt = self._recorder.question
        options = SearchOptions(beams=self._settings.beams, max_new_tokens=tokens, min_new_tokens=0)
        start = self._clock.now()
        self._recorder.generate(features, [prompt], options)
        return milliseconds(self._clock.now() - start)

    def _stream(self, image: bytes, backend: Backend) -> Streaming | None:
        """Streams with one beam; None where the backend cannot stream."""
        if not isinstance(backend, StreamingBackend) or self._recorder.question is None:
            return None
        prompt, options = self._recorder.question[1], self._settings.fixed(beams=1)
        forced = int(self._config.forced_bos is not None)
        waits, gaps = list[float](), list[float]()

        def once(number: int) -> None:
            view = self._model.encode(image)
            begun = self._clock.now()
            instants = []
            for ids in backend.stream(view.features, prompt, options):
                instants += [self._clock.now()] * len(ids)
            if number >= 0:
                waits.append(sum(view.timings_ms.values()) + milliseconds(instants[forced] - begun))
                gaps.extend(milliseconds(later - earlier) for earlier, later in pairwise(instants[forced:]))

        repeat(once, self._settings, self._clock)
        return Streaming(Series.of(waits), Series.of(gaps))

    def _observe(self, images: Sequence[bytes]) -> Observed:
        """Answers as long as the model makes them, within the task's own limit."""
        tokens, totals, cut = list[float](), list[float](), list[bool]()
        options = SearchOptions(beams=self._settings.beams)

        def once(number: int) -> None:
            start = self._clock.now()
            result = self._ask(images[number % len(images)], options)
            if number >= 0:
                totals.append(milliseconds(self._clock.now() - start))
                tokens.append(len(self._recorder.answered[0]))
                cut.append(result.finish == "length")

        repeat(once, self._settings, self._clock, runs=len(images))
        return Observed(Series.of(tokens), Series.of(totals), sum(cut))
