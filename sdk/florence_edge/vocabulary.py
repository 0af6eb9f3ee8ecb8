"""The 1,024 task and location tokens that Florence-2 adds to a text vocabulary, and where they begin.

The order is that of the published processor. In the published checkpoints the text vocabulary is BART's, so the first
added token has id 50265; a model trained from scratch may bring a smaller text vocabulary, with the same tokens behind
it.
"""

from __future__ import annotations

from dataclasses import dataclass

LOCATION_BINS = 1000
"""Bins per image axis; `<loc_i>` is bin `i` of this many."""

SPECIAL_TOKENS: tuple[str, ...] = (
    "<od>",
    "</od>",
    "<ocr>",
    "</ocr>",
    *(f"<loc_{i}>" for i in range(LOCATION_BINS)),
    "<cap>",
    "</cap>",
    "<ncap>",
    "</ncap>",
    "<dcap>",
    "</dcap>",
    "<grounding>",
    "</grounding>",
    "<seg>",
    "</seg>",
    "<sep>",
    "<region_cap>",
    "</region_cap>",
    "<region_to_desciption>",  # the published spelling
    "</region_to_desciption>",
    "<proposal>",
    "</proposal>",
    "<poly>",
    "</poly>",
    "<and>",
)
"""The added tokens in the published order; their ids are consecutive."""

PUBLISHED_TEXT_VOCABULARY = 50265
"""Entries of the BART vocabulary of the published checkpoints."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the tokens that the output grammar knows; everything else is label text.

    `first` is the id of the first entry of `SPECIAL_TOKENS`. `size` counts the ids that may be generated.
    """

    first: int = PUBLISHED_TEXT_VOCABULARY
    bos: int = 0
    pad: int = 1
    eos: int = 2

    @property
    def size(self) -> int:
        """Number of ids, text and added tokens together."""
        return self.first + len(SPECIAL_TOKENS)

    @property
    def first_location(self) -> int:
        """Id of `<loc_0>`."""
        return self.id_of("<loc_0>")

    @property
    def separator(self) -> int:
        """Id of `<sep>`, between the polygons of one instance."""
        return self.id_of("<sep>")

    @property
    def polygon_open(self) -> int:
        """Id of `<poly>`, before the polygons of one instance."""
        return self.id_of("<poly>")

    @property
    def polygon_close(self) -> int:
        """Id of `</poly>`, behind the polygons of one instance."""
        return self.id_of("</poly>")

    def id_of(self, token: str) -> int:
        """Id of an added token; `KeyError` for a string that is none."""
        return self.first + _OFFSETS[token]

    def bin_of(self, token_id: int) -> int | None:
        """Location bin 0..999 of an id, or None when the id is no location token."""
        offset = token_id - self.first_location
        return offset if 0 <= offset < LOCATION_BINS else None


_OFFSETS = {token: offset for offset, token in enumerate(SPECIAL_TOKENS)}
