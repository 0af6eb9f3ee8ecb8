"""The forms of an answer with locations: pieces in, labelled regions in bins out, one reader per grammar.

Readers are total: what does not fit the form is left out and counted, never raised. A reader knows neither pixels nor
results; `grammar.py` makes those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ._pieces import Locations, Marker, Piece, Text
from .tasks import NOTHING, Grammar

BOX, QUAD, POINT, SMALLEST_RING = 4, 8, 2, 6
"""Location tokens of a box, of a quadrilateral, of a point, and of a polygon with the fewest points (three)."""

_SEPARATOR, _OPEN, _CLOSE = "<sep>", "<poly>", "</poly>"
_STRUCTURE = frozenset((_SEPARATOR, _OPEN, _CLOSE))
_NO_LABEL = Text("", 0.0, 0)


class Region(NamedTuple):
    """A label and the location tokens that are its own: one part for a box or quadrilateral, one per ring of a mask."""

    label: Text
    parts: Sequence[Locations]
    is_polygon: bool = False

    def logprob(self) -> float:
        """Mean log-probability of the tokens that spell the region, NaN when unknown."""
        total = self.label.logprob + sum(sum(part.logprobs) for part in self.parts)
        return total / (self.label.tokens + sum(len(part.bins) for part in self.parts))


class Reading(NamedTuple):
    """Regions in the order of the answer, and how many malformed spans were left out."""

    regions: list[Region]
    dropped: int


class _Span(NamedTuple):
    """A label (empty when there is none) and the locations and structure markers directly behind it."""

    label: Text
    body: list[Piece]

    def runs(self) -> list[Locations]:
        return [piece for piece in self.body if isinstance(piece, Locations)]

    def leading(self, size: int) -> Locations | None:
        """The location run directly behind the label where it holds `size` tokens or more."""
        first = self.body[0] if self.body and self.label.text else None
        return first if isinstance(first, Locations) and len(first.bins) >= size else None

    def faults(self) -> int:
        """Malformed spans when nothing of this one can be used: a label takes its first run with it."""
        if self.label.text in ("", NOTHING):
            return len(self.runs())
        return max(1, len(self.runs()))


def read(grammar: Grammar, pieces: list[Piece]) -> Reading:
    """Regions of an answer in one of the grammars with locations; text of white space alone must be left out before."""
    reader = READERS[grammar]
    regions: list[Region] = []
    dropped = 0
    for span in _spans(pieces):
        found, faults = reader(span)
        regions.extend(found)
        dropped += faults
    return Reading(regions, dropped)


def _spans(pieces: list[Piece]) -> list[_Span]:
    """Cuts before every text run; a marker that belongs to no grammar ends its span."""
    spans = [_Span(_NO_LABEL, [])]
    for piece in pieces:
        if isinstance(piece, Text):
            spans.append(_Span(piece._replace(text=piece.text.strip()), []))
        elif isinstance(piece, Locations) or piece.token in _STRUCTURE:
            spans[-1].body.append(piece)
        else:
            spans.append(_Span(_NO_LABEL, []))
    return spans


def _labelled_boxes(span: _Span) -> Reading:
    run = span.leading(BOX)
    if run is None:
        return Reading([], span.faults())
    return Reading(_boxes_of(span.label, run), bool(len(run.bins) % BOX) + len(span.runs()) - 1)


def _bare_boxes(span: _Span) -> Reading:
    regions: list[Region] = []
    dropped = int(span.label.text not in ("", NOTHING))
    for run in span.runs():
        regions.extend(_boxes_of(_NO_LABEL, run))
        dropped += bool(len(run.bins) % BOX)
    return Reading(regions, dropped)


def _boxes_of(label: Text, run: Locations) -> list[Region]:
    """A box for every four locations; a tail of fewer is left out."""
    whole = len(run.bins) // BOX * BOX
    return [Region(label, (run.part(start, start + BOX),)) for start in range(0, whole, BOX)]


def _quads(span: _Span) -> Reading:
    run = span.leading(QUAD)
    if run is None:
        return Reading([], span.faults())
    region = Region(span.label, (run.part(0, QUAD),))
    return Reading([region], int(len(run.bins) > QUAD) + len(span.runs()) - 1)


def _polygons(span: _Span) -> Reading:
    instances, dropped = _instances(span.body)
    regions: list[Region] = []
    for instance in instances:
        rings, faults = _rings(instance)
        dropped += faults
        if rings:
            regions.append(Region(span.label, rings, is_polygon=True))
    return Reading(regions, dropped if regions else max(dropped, span.faults()))


def _boxes_or_polygons(span: _Span) -> Reading:
    if not span.label.text or Marker(_OPEN) not in span.body:
        return _labelled_boxes(span)
    return _polygons(span)


def _instances(body: list[Piece]) -> tuple[list[list[Piece]], int]:
    """What lies between each `<poly>` and the next `</poly>`, and the number of location runs elsewhere.

    A body without such a pair is one instance: the answer for a single mask needs no markers, and that of a truncated
    one lacks the last.
    """
    if Marker(_OPEN) not in body or Marker(_CLOSE) not in body:
        return [body], 0
    instances: list[list[Piece]] = []
    outside: list[Piece] = []
    current: list[Piece] | None = None
    for piece in body:
        if current is None:
            if piece == Marker(_OPEN):
                current = []
            else:
                outside.append(piece)
        elif piece == Marker(_CLOSE):
            instances.append(current)
            current = None
        else:
            current.append(piece)
    return instances, sum(isinstance(piece, Locations) for piece in [*outside, *(current or [])])


def _rings(instance: list[Piece]) -> tuple[list[Locations], int]:
    """The location runs that end at a `<sep>` or at the end, as rings, and the number of faults.

    An odd location at a ring's end is left out, and so is a ring of fewer than three points.
    """
    rings: list[Locations] = []
    dropped = 0
    for piece, following in zip(instance, [*instance, Marker(_SEPARATOR)][1:], strict=True):
        if not isinstance(piece, Locations):
            continue
        whole = len(piece.bins) // POINT * POINT
        if following == Marker(_SEPARATOR) and whole >= SMALLEST_RING:
            rings.append(piece.part(0, whole))
            dropped += len(piece.bins) - whole
        else:
            dropped += 1
    return rings, dropped


READERS: dict[Grammar, Callable[[_Span], Reading]] = {
    Grammar.LABELLED_BOXES: _labelled_boxes,
    Grammar.BOXES: _bare_boxes,
    Grammar.PHRASE_BOXES: _labelled_boxes,
    Grammar.QUADS: _quads,
    Grammar.POLYGONS: _polygons,
    Grammar.LABELLED_BOXES_OR_POLYGONS: _boxes_or_polygons,
}
"""Every grammar but `TEXT`."""
