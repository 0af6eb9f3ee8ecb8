"""Texts compared: the edit distance of what is read, and forms in which alike ones are equal."""

from __future__ import annotations


def edit_distance(a: str, b: str) -> int:
    """Fewest characters to insert, delete or replace to make one string of the other (Levenshtein, 1966)."""
    row = list(range(len(b) + 1))
    for place, character in enumerate(a, 1):
        diagonal, row[0] = row[0], place
        for index, other in enumerate(b, 1):
            kept = diagonal + (character != other)
            diagonal, row[index] = row[index], min(kept, row[index] + 1, row[index - 1] + 1)
    return row[-1]


def normalised(text: str) -> str:
    """A text with case, outer white space, runs of white space and a final full stop made equal."""
    return " ".join(text.casefold().split()).rstrip(".").rstrip()


def bare(phrase: str) -> str:
    """A phrase as `normalised`, without a leading article."""
    words = normalised(phrase).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)
