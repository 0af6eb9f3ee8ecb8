"""The answer to one prompt while it is being searched for: `Greedy` follows one beam, `Beams` several.

Both see one step's logits at a time and know nothing of engines or of other prompts, so an answer cannot depend on what
else is in its batch. Semantics are those of `transformers` 4.50 and later (`GenerationMixin._sample` without sampling,
`_beam_search`); float32 throughout, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ._guide import Guide
from ._logits import largest, log_normaliser, log_softmax, repeating
from .backends import Finish, Hypothesis
from .errors import BackendError
from .geometry import AnyArray, BoolArray, Float32Array, Int32Array, Int64Array
from .options import FormedConfig, SearchConfig

NEVER = np.float32(-1e9)
"""Score of what cannot win but may fill a slot; added to a score, it bars the beam. The value is transformers' own."""


class Answer(Protocol):
    """What the search loop asks of an answer; K beams, p tokens already in the decoder's cache."""

    @property
    def done(self) -> bool:
        """Whether the hypothesis is decided."""
        ...

    @property
    def tokens(self) -> Int64Array:
        """The last token of every beam [K], to be fed next."""
        ...

    @property
    def ancestors(self) -> Int32Array:
        """The cache slot [K, p] that holds each earlier position of each beam."""
        ...

    def advance(self, logits: Float32Array) -> None:
        """Takes the next token from logits [K, V], which are overwritten."""
        ...

    def force(self, token: int) -> None:
        """Takes this token next, at no cost."""
        ...

    def certain(self) -> Int64Array:
        """The tokens [n] with which the hypothesis is sure to begin, without the start token."""
        ...

    def hypothesis(self) -> Hypothesis:
        """The best answer; `BackendError` when everything it could have been was banned."""
        ...


def begin(config: SearchConfig) -> Answer:
    """An answer that holds nothing but the start token."""
    return Greedy(config) if config.beams == 1 else Beams(config)


class _Running:
    """The running beams: their ids behind the start token, and the log-probabilities of those ids."""

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        beams, limit = config.beams, config.max_new_tokens
        self._ids = np.full((beams, limit + 1), config.decoder_start, np.int64)
        self._logprobs = np.zeros((beams, limit), np.float32)
        self._length = 1
        self._scratch: Float32Array | None = None
        self._guide = guide_of(config)
        self.done = False

    @property
    def tokens(self) -> Int64Array:
        return self._ids[:, self._length - 1]


class Greedy(_Running):
    """Takes the likeliest allowed token, every time."""

    @property
    def ancestors(self) -> Int32Array:
        return np.zeros((1, self._length - 1), np.int32)

    def advance(self, logits: Float32Array) -> None:
        self._scratch = _like(logits, self._scratch)
        peak, log_sum = log_normaliser(logits, self._scratch)
        ban(logits, self._ids[:, : self._length], self._config, self._guide)
        token = int(logits[0].argmax())
        if np.isneginf(logits[0, token]):
            raise _dead_end(self._length)
        self._take(token, logits[0, token] - peak[0, 0] - log_sum[0, 0])

    def force(self, token: int) -> None:
        self._take(token, 0.0)

    def _take(self, token: int, logprob: float | np.float32) -> None:
        self._logprobs[0, self._length - 1] = logprob
        self._ids[0, self._length] = token
        self._length += 1
        self.done = token == self._config.eos or self._length > self._config.max_new_tokens

    def certain(self) -> Int64Array:
        certain: Int64Array = self._ids[0, 1 : self._length].copy()
        return certain

    def hypothesis(self) -> Hypothesis:
        ids, logprobs = self.certain(), self._logprobs[0, : self._length - 1].copy()
        score = float(logprobs.sum(dtype=np.float64)) / len(ids) ** self._config.length_penalty
        return Hypothesis(ids, score, logprobs, finish(ids, self._config))


@dataclass(frozen=True, eq=False)
class _Ended:
    """A finished hypothesis."""

    score: float
    ids: Int64Array
    logprobs: Float32Array


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Continuations, best first [M]: the beam each continues, with what, the sum and this token's log-probability."""

    parents: Int64Array
    tokens: Int64Array
    totals: Float32Array
    logprobs: Float32Array

    def __getitem__(self, chosen: Int64Array) -> _Candidates:
        return _Candidates(self.parents[chosen], self.tokens[chosen], self.totals[chosen], self.logprobs[chosen])


class Beams(_Running):
    """Follows the K likeliest beginnings and keeps the K best finished hypotheses."""

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(config)
        self._slots = np.zeros((config.beams, config.max_new_tokens), np.int32)
        # All beams begin alike; barring all but one keeps the first step from choosing the same token for each.
        self._totals = np.where(np.arange(config.beams) == 0, np.float32(0), NEVER)
        self._ended: list[_Ended] = []

    @property
    def ancestors(self) -> Int32Array:
        return self._slots[:, : self._length - 1]

    def advance(self, logits: Float32Array) -> None:
        self._scratch = _like(logits, self._scratch)
        logprobs = log_softmax(logits, self._scratch)
        ban(logprobs, self._ids[:, : self._length], self._config, self._guide)
        totals = np.add(logprobs, self._totals[:, None], out=self._scratch).reshape(-1)
        # Twice the beams: each of them may end with one of these, and as many as there are beams must go on.
        best = largest(totals, 2 * self._config.beams)
        parents, tokens = np.divmod(best, logits.shape[1])
        self._extend(_Candidates(parents, tokens, totals[best], logprobs[parents, tokens]))

    def force(self, token: int) -> None:
        beams = self._config.beams
        zeros = np.zeros(beams, np.float32)
        self._extend(_Candidates(np.arange(beams), np.full(beams, token), self._totals, zeros))

    def _extend(self, candidates: _Candidates) -> None:
        """Ends the candidates that are complete, goes on with the best others, and sees whether that can help."""
        config = self._config
        ends = (candidates.tokens == config.eos) | (self._length == config.max_new_tokens)
        # Only the first K may end a hypothesis; the others are there to go on.
        for index in np.flatnonzero(ends[: config.beams]):
            self._end(candidates, int(index))
        totals = candidates.totals + ends * NEVER
        order = np.argsort(-totals, kind="stable")[: config.beams]
        self._follow(candidates[order])
        self._totals = totals[order]
        full = len(self._ended) == config.beams
        enough = full and config.early_stopping is True
        decided = bool(self._ended) and not self._contenders().any()
        self.done = enough or decided or bool(ends.all()) or not self._improvable(full)

    def _end(self, candidates: _Candidates, index: int) -> None:
        """Adds a hypothesis to the finished ones, if it is among the K best; of equal ones the earlier stays ahead."""
        length, parent = self._length, candidates.parents[index]
        score = candidates.totals[index] / np.float32(length**self._config.length_penalty)
        if score <= NEVER:
            return
        ids = np.append(self._ids[parent, 1:length], candidates.tokens[index])
        logprobs = np.append(self._logprobs[parent, : length - 1], candidates.logprobs[index])
        self._ended.append(_Ended(float(score), ids, logprobs))
        self._ended.sort(key=lambda ended: -ended.score)
        del self._ended[self._config.beams :]

    def _follow(self, chosen: _Candidates) -> None:
        """Makes the chosen candidates the running beams; cache entries stay in their slots, which are remembered."""
        length, parents = self._length, chosen.parents
        for table, end, column in (
            (self._ids, length, chosen.tokens),
            (self._logprobs, length - 1, chosen.logprobs),
            (self._slots, length - 1, parents),
        ):
            _reorder(table, parents, end, column)
        self._length += 1

    def _improvable(self, full: bool) -> bool:
        """transformers' rule: whether the best running beam, at a hopeful length, beats the worst finished one."""
        config = self._config
        longest = config.early_stopping == "never" and config.length_penalty > 0
        length = config.max_new_tokens if longest else self._length - 1
        best = self._totals[0] / np.float32(length**config.length_penalty)
        return bool(best > (self._ended[-1].score if full else NEVER))

    def _contenders(self) -> BoolArray:
        """Which running beams [K] may still become the answer: those that no finished hypothesis is sure to beat.

        Log-probabilities only fall, so a beam's score is at most its present sum at the length that divides it best.
        """
        config = self._config
        length = config.max_new_tokens if config.length_penalty > 0 else self._length
        bounds = self._totals / np.float32(length**config.length_penalty)
        rivals: BoolArray = bounds > (self._ended[0].score if self._ended else NEVER)
        return rivals

    def certain(self) -> Int64Array:
        rivals = [*self._ids[self._contenders(), 1 : self._length]]
        if self.done or not rivals:
            return self._ended[0].ids if self._ended else np.empty(0, np.int64)
        rivals += [ended.ids for ended in self._ended[:1]]
        shortest = min(len(ids) for ids in rivals)
        agree = (np.stack([ids[:shortest] for ids in rivals]) == rivals[0][:shortest]).all(axis=0)
        common: Int64Array = rivals[0][: shortest if agree.all() else int(agree.argmin())].copy()
        return common

    def hypothesis(self) -> Hypothesis:
        if not self._ended:
            raise _dead_end(self._length)
        best = self._ended[0]
        return Hypothesis(best.ids, best.score, best.logprobs, finish(best.ids, self._config))


def ban(scores: Float32Array, history: Int64Array, config: SearchConfig, guide: Guide | None) -> None:
    """Sets the scores [K, V] of forbidden tokens to -inf: repeated n-grams, the end before its time, what has no form.

    Where that leaves nothing, only the form counts.
    """
    if guide is not None:
        guide.restrict(scores, history)
        formed = scores.copy()
    rows, tokens = repeating(history, config.no_repeat_ngram)
    scores[rows, tokens] = -np.inf
    if history.shape[1] - 1 < config.min_new_tokens:
        scores[:, config.eos] = -np.inf
    if guide is not None:
        stuck = np.isneginf(scores.max(axis=-1))
        scores[stuck] = formed[stuck]


def guide_of(config: SearchConfig) -> Guide | None:
    """What keeps the answer well formed, where that is asked for."""
    form = config.form if isinstance(config, FormedConfig) else None
    return None if form is None else Guide(form, config.max_new_tokens)


def finish(ids: Int64Array, config: SearchConfig) -> Finish:
    """At the limit, a forced `</s>` is the limit's doing and not the model's."""
    forced = len(ids) == config.max_new_tokens and config.forced_eos is not None
    return "eos" if ids[-1] == config.eos and not forced else "length"


def _reorder(table: AnyArray, parents: Int64Array, end: int, column: AnyArray) -> None:
    """Gives every row of a table the first `end` entries of its parent's row, and one more."""
    table[:, :end] = table[parents, :end]
    table[:, end] = column


def _like(logits: Float32Array, scratch: Float32Array | None) -> Float32Array:
    """Working memory in the shape of the logits, kept from step to step."""
    return np.empty_like(logits) if scratch is None else scratch


def _dead_end(length: int) -> BackendError:
    return BackendError(
        f"no token may follow after {length - 1} new tokens: n-gram ban and min_new_tokens forbid all of them; "
        "lower min_new_tokens or no_repeat_ngram"
    )
