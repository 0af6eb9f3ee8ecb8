"""An answer as pieces (text runs, location runs, marker tokens), the same from raw text and from token ids.

`<s>`, `<pad>` and `</s>` are no part of an answer and leave no piece; neighbours of one kind are joined across them.
What the pieces mean is for `_regions.py` to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from .geometry import Float32Array, Int64Array
from .locations import spell as spell_locations
from .vocabulary import LOCATION_BINS, SPECIAL_TOKENS, Vocabulary

CONTROL_TOKENS = ("<s>", "<pad>", "</s>")
"""Tokens around an answer, in the order of the published ids."""

_LOCATION = r"<loc_[0-9]{1,9}>"
_MARKERS = [token for token in SPECIAL_TOKENS if not token.startswith("<loc_")]
_TOKENS = re.compile(
    f"(?P<locations>(?:{_LOCATION})+)|(?P<control>{'|'.join(CONTROL_TOKENS)})|(?P<marker>{'|'.join(_MARKERS)})"
)
_RESERVED = re.compile("|".join([_LOCATION, *CONTROL_TOKENS, *_MARKERS, "<unk>", "<mask>", "<image>"]))

TEXT, LOCATIONS, MARKERS, CONTROL = range(4)
"""Kinds of `segments`."""


class Text(NamedTuple):
    """A text run, the sum of its tokens' log-probabilities (NaN when unknown) and their number."""

    text: str
    logprob: float
    tokens: int


class Locations(NamedTuple):
    """A run of location tokens: bin and log-probability (NaN when unknown) of each."""

    bins: list[int]
    logprobs: list[float]

    def part(self, start: int, stop: int) -> Locations:
        """The tokens `start` to `stop` of the run."""
        return Locations(self.bins[start:stop], self.logprobs[start:stop])


class Marker(NamedTuple):
    """Any other added token, by name."""

    token: str


Piece = Text | Locations | Marker


def from_text(text: str) -> list[Piece]:
    """Pieces of an answer as another runtime spelled it, added tokens included."""
    pieces: list[Piece] = []
    position = 0
    for match in _TOKENS.finditer(text):
        if match.start() > position:
            _append(pieces, Text(text[position : match.start()], math.nan, 1))
        position = match.end()
        if match.lastgroup == "locations":
            bins = [int(digits) for digits in match.group()[len("<loc_") : -1].split("><loc_")]
            _append(pieces, Locations(bins, [math.nan] * len(bins)))
        elif match.lastgroup == "marker":
            pieces.append(Marker(match.group()))
    if position < len(text):
        _append(pieces, Text(text[position:], math.nan, 1))
    return pieces


class Speller(Protocol):
    """What reading token ids needs of a tokenizer; `Tokens` is one."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that are not text."""
        ...

    def decode_text(self, ids: Int64Array) -> str:
        """The text of a run of text tokens [n]."""
        ...

    def __hash__(self) -> int: ...


def from_ids(ids: Int64Array, logprobs: Float32Array, speller: Speller) -> list[Piece]:
    """Pieces of token ids [T] with log-probabilities [T]."""
    pieces: list[Piece] = []
    vocabulary = speller.vocabulary
    for kind, start, stop in segments(ids, vocabulary):
        if kind == TEXT:
            text = speller.decode_text(ids[start:stop])
            _append(pieces, Text(text, float(logprobs[start:stop].sum()), stop - start))
        elif kind == LOCATIONS:
            bins = (ids[start:stop] - vocabulary.first_location).tolist()
            _append(pieces, Locations(bins, logprobs[start:stop].tolist()))
        elif kind == MARKERS:
            pieces.extend(Marker(SPECIAL_TOKENS[index - vocabulary.first]) for index in ids[start:stop].tolist())
    return pieces


def segments(ids: Int64Array, vocabulary: Vocabulary) -> Iterator[tuple[int, int, int]]:
    """Maximal runs of token ids of one kind, as (kind, start, stop).

    Whatever is neither an added token nor one of `<s>`, `<pad>`, `</s>` counts as text, ids outside the vocabulary
    included: the tokenizer spells those as nothing.
    """
    if not len(ids):
        return
    kinds = np.full(len(ids), TEXT, np.int8)
    kinds[(ids >= vocabulary.first) & (ids < vocabulary.size)] = MARKERS
    bins = ids - vocabulary.first_location
    kinds[(bins >= 0) & (bins < LOCATION_BINS)] = LOCATIONS
    kinds[(ids == vocabulary.bos) | (ids == vocabulary.pad) | (ids == vocabulary.eos)] = CONTROL
    bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(ids)]
    for start, stop in pairwise(bounds):
        yield int(kinds[start]), start, stop


def without_blanks(pieces: list[Piece]) -> list[Piece]:
    """The pieces less text runs of white space alone, which some runtimes write between added tokens."""
    kept: list[Piece] = []
    for piece in pieces:
        if not (isinstance(piece, Text) and not piece.text.strip()):
            _append(kept, piece)
    return kept


def spelled(pieces: list[Piece]) -> str:
    """The pieces as one string, added tokens included."""
    return "".join([spell_locations(piece.bins) if isinstance(piece, Locations) else piece[0] for piece in pieces])


def reserved_in(text: str) -> list[str]:
    """The strings in `text` that a tokenizer would read as added tokens."""
    return _RESERVED.findall(text)


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Appends a piece, or joins it to the last one where both are text or both are locations."""
    last = pieces[-1] if pieces else None
    if isinstance(piece, Text) and isinstance(last, Text):
        pieces[-1] = Text(last.text + piece.text, last.logprob + piece.logprob, last.tokens + piece.tokens)
    elif isinstance(piece, Locations) and isinstance(last, Locations):
        pieces[-1] = Locations(last.bins + piece.bins, last.logprobs + piece.logprobs)
    else:
        pieces.append(piece)
