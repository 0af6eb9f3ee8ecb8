"""A form (`forms`) at work in a search: rules out, beam by beam, what would leave an answer malformed or unfinished."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ._pieces import Speller
from .forms import Form, Kind, State, is_solid
from .geometry import Float32Array, Int64Array
from .vocabulary import LOCATION_BINS


class Guide:
    """The form of one answer while it is searched for; `limit` is the number of tokens that it may have."""

    def __init__(self, form: Form, limit: int) -> None:
        self._form, self._limit = form, limit
        self._known: dict[bytes, State] = {}
        vocabulary = form.speller.vocabulary
        first = vocabulary.first_location
        self._ids = {
            Kind.LOCATION: (first, first + LOCATION_BINS),
            Kind.SEPARATOR: (vocabulary.separator, vocabulary.separator + 1),
            Kind.OPEN: (vocabulary.polygon_open, vocabulary.polygon_open + 1),
            Kind.CLOSE: (vocabulary.polygon_close, vocabulary.polygon_close + 1),
            Kind.END: (vocabulary.eos, vocabulary.eos + 1),
        }

    def restrict(self, scores: Float32Array, history: Int64Array) -> None:
        """Sets the scores [K, V] of all tokens that may not follow to -inf.

        `history` [K, C] holds the tokens so far, the start token included. In every row something is left.
        """
        known: dict[bytes, State] = {}
        for row, tokens in zip(scores, history, strict=True):
            state = self._state(tokens)
            known[tokens.tobytes()] = state
            self._restrict(row, state, self._limit - len(tokens) - 1)
        self._known = known

    def _state(self, tokens: Int64Array) -> State:
        """The state behind a history: one token further than one of the last step, where that is known."""
        before = self._known.get(tokens[:-1].tobytes())
        if before is not None:
            return self._form.after(before, int(tokens[-1]))
        state = State()
        for token in tokens[1:].tolist():
            state = self._form.after(state, token)
        return state

    def _restrict(self, row: Float32Array, state: State, room: int) -> None:
        """`room` is how many tokens may still come behind the next one, `</s>` not counted."""
        form, first = self._form, self._form.speller.vocabulary.first
        kept, barred = [], None
        for kind in form.following(state):
            if kind is Kind.TEXT:
                barred = self._barred(state, room)
                continue
            start, stop = (kind, kind + 1) if isinstance(kind, int) else self._ids[kind]
            if kind is Kind.END or form.left(form.after(state, start)) <= room:
                kept.append((slice(start, stop), row[start:stop].copy()))
        row[first if barred is not None else 0 :] = -np.inf
        if barred is not None:
            row[barred] = -np.inf
        for place, values in kept:
            row[place] = values

    def _barred(self, state: State, room: int) -> Int64Array | None:
        """The text tokens that may not come next; None where no text may."""
        form = self._form
        text, solid, example = text_tokens(form.speller)
        needed = form.left(form.after(state, example))
        if needed + (not form.is_solid(state.label)) <= room:
            return text
        return solid if needed <= room else None


@lru_cache(maxsize=4)
def text_tokens(speller: Speller) -> tuple[Int64Array, Int64Array, int]:
    """Ids below the added tokens that may not stand in text, those and all that spell no more than white space by
    themselves, and an id that is neither.

    Tokens with a `<` may not: with it, text could spell an added token.
    """
    vocabulary = speller.vocabulary
    spelled = [speller.decode_text(np.asarray([index], np.int64)) for index in range(vocabulary.first)]
    barred = np.asarray(["<" in token for token in spelled])
    barred[[vocabulary.bos, vocabulary.pad, vocabulary.eos]] = True
    blank = barred | [not is_solid(token) for token in spelled]
    return np.flatnonzero(barred), np.flatnonzero(blank), int(np.flatnonzero(~blank)[0])
