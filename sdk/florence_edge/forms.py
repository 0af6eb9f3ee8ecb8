"""What may follow in a well-formed answer: one automaton over tokens for all grammars, one row of a table for each.

The forms are those that `_regions` reads without leaving anything out. This module knows which tokens may come next and
how many it takes to end well; which of them is best is for the search, how they are masked for `_guide`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from ._pieces import Speller
from ._regions import BOX, POINT, QUAD, SMALLEST_RING
from .tasks import NOTHING, Grammar

Ids = tuple[int, ...]


class Shape(NamedTuple):
    """How the regions of a grammar are written."""

    labelled: bool = False
    run: int = 0
    """Location tokens of a box or quadrilateral, 0 where there is none."""
    shared: bool = False
    """Whether several of these may stand behind one label."""
    rings: bool = False
    """Whether an answer may be the rings of one mask without markers."""
    masks: bool = False
    """Whether masks may stand between `<poly>` and `</poly>`."""


SHAPES: Mapping[Grammar, Shape] = {
    Grammar.LABELLED_BOXES: Shape(labelled=True, run=BOX, shared=True),
    Grammar.PHRASE_BOXES: Shape(labelled=True, run=BOX, shared=True),
    Grammar.BOXES: Shape(run=BOX, shared=True),
    Grammar.QUADS: Shape(labelled=True, run=QUAD),
    Grammar.POLYGONS: Shape(rings=True, masks=True),
    Grammar.LABELLED_BOXES_OR_POLYGONS: Shape(labelled=True, run=BOX, shared=True, masks=True),
}
"""Every grammar but `TEXT`, in which any text may follow any other."""


class Kind(Enum):
    """Kinds of tokens that may come next."""

    TEXT = "any text"
    LOCATION = "a location"
    SEPARATOR = "<sep>"
    OPEN = "<poly>"
    CLOSE = "</poly>"
    END = "</s>"


class Place(Enum):
    """Where in an answer a token leads."""

    START = "nothing was written yet"
    LABEL = "in a label"
    RUN = "in the locations of boxes or quadrilaterals"
    RING = "in a ring, or before it"
    MASK = "behind </poly>"


class State(NamedTuple):
    """A place, the locations written there, the label written there, and whether its ring stands in `<poly>`."""

    place: Place = Place.START
    locations: int = 0
    label: Ids = ()
    wrapped: bool = False
    first: bool = True
    """Whether there is no region yet."""


@dataclass(frozen=True)
class Form:
    """The form of the answers to one question.

    `labels` are the token ids of the labels that are allowed, nothing for any text. `nothing` are those of the sentence
    that says there is nothing. `speller` says what text tokens spell.
    """

    grammar: Grammar
    speller: Speller
    labels: tuple[Ids, ...] = ()
    nothing: Ids = ()

    def after(self, state: State, token: int) -> State:
        """The state behind one more token; control tokens leave no trace."""
        vocabulary = self.speller.vocabulary
        if token in (vocabulary.bos, vocabulary.pad, vocabulary.eos):
            return state
        if vocabulary.bin_of(token) is not None:
            place = Place.RING if self._in_rings(state) else Place.RUN
            locations = state.locations + 1 if state.place is place else 1
            return State(place, locations, wrapped=state.wrapped, first=False)
        if token == vocabulary.separator:
            return State(Place.RING, wrapped=state.wrapped, first=False)
        if token == vocabulary.polygon_open:
            return State(Place.RING, wrapped=True, first=False)
        if token == vocabulary.polygon_close:
            return State(Place.MASK, first=False)
        label = state.label if state.place is Place.LABEL else ()
        return State(Place.LABEL, label=(*label, token), first=state.first)

    def following(self, state: State) -> Iterator[Kind | int]:
        """What may come next: kinds of tokens, or single tokens where a label is one of a few."""
        shape = SHAPES.get(self.grammar)
        if shape is None:
            yield from (Kind.TEXT, Kind.END)
        elif state.place is Place.LABEL:
            yield from self._in_label(state, shape)
        elif state.place is Place.RING:
            yield Kind.LOCATION
            if state.locations >= SMALLEST_RING and state.locations % POINT == 0:
                yield Kind.SEPARATOR
                yield Kind.CLOSE if state.wrapped else Kind.END
        elif state.place is Place.RUN and state.locations % shape.run:
            yield Kind.LOCATION
        else:
            yield from self._between(state, shape)

    def left(self, state: State) -> int:
        """The fewest tokens with which the answer can end well from here, `</s>` not counted."""
        shape = SHAPES.get(self.grammar)
        if shape is None:
            return 0
        if state.place is Place.LABEL:
            return self._left_in_label(state, shape)
        if state.place is Place.RING:
            missing = max(SMALLEST_RING - state.locations, state.locations % POINT)
            return missing + state.wrapped
        return -state.locations % shape.run if state.place is Place.RUN else 0

    def is_solid(self, label: Ids) -> bool:
        """Whether tokens spell more than white space, which is no label.

        Bytes that are no character yet do not count: they may become a wide space.
        """
        return is_solid(self._text(label))

    def _in_rings(self, state: State) -> bool:
        shape = SHAPES.get(self.grammar, Shape())
        return state.place is Place.RING or (state.place is Place.START and shape.rings)

    def _between(self, state: State, shape: Shape) -> Iterator[Kind | int]:
        """Behind whole regions, or before the first."""
        yield Kind.END
        starts = state.place is Place.START
        if not shape.labelled if starts else state.place is Place.RUN and shape.shared:
            yield Kind.LOCATION
        if state.place is Place.MASK or (starts and shape.masks and not shape.labelled):
            yield Kind.OPEN
        if shape.labelled and not self.labels:
            yield Kind.TEXT
        else:
            yield from self._next_in_label((), first=state.first)

    def _in_label(self, state: State, shape: Shape) -> Iterator[Kind | int]:
        if shape.labelled and not self.labels:
            yield Kind.TEXT
            whole = self.is_solid(state.label)
            ends = state.first and self._text(state.label).strip() == NOTHING
        else:
            yield from self._next_in_label(state.label, first=state.first)
            whole, ends = state.label in self.labels, state.first and state.label == self.nothing
        if whole and shape.run:
            yield Kind.LOCATION
        if whole and shape.masks:
            yield Kind.OPEN
        if ends:
            yield Kind.END

    def _left_in_label(self, state: State, shape: Shape) -> int:
        if shape.labelled and not self.labels:
            return shape.run + (not self.is_solid(state.label))
        size = len(state.label)
        ways = [len(label) - size + shape.run for label in self.labels if label[:size] == state.label]
        if state.first and self.nothing[:size] == state.label:
            ways.append(len(self.nothing) - size)
        return min(ways, default=0)

    def _next_in_label(self, written: Ids, *, first: bool) -> Iterator[int]:
        """The tokens with which one of a few labels goes on."""
        size = len(written)
        ways = (*self.labels, self.nothing) if first else self.labels
        yield from {label[size] for label in ways if len(label) > size and label[:size] == written}

    def _text(self, label: Ids) -> str:
        return self.speller.decode_text(np.asarray(label, np.int64))


def is_solid(text: str) -> bool:
    """Whether there is more than white space and incomplete characters in a text."""
    return bool(text.replace("\N{REPLACEMENT CHARACTER}", "").strip())
