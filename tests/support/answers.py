"""Answers as a model may give them, well formed and not: seeded random texts for each grammar."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from florence_edge.tasks import Grammar
from florence_edge.vocabulary import SPECIAL_TOKENS

SIZES = ((640, 480), (1, 1), (1000, 1000), (1920, 1080), (37, 2011), (4000, 3000))

_LABELS = (
    "car", "door handle", " a green car", "a person ", "the left wheel", "STOP", "no. 7", "it", "the image", "a", "It",
    "café", "naïve façade", "汽车", "bus 🚌", "x = {y}", "No object detected.", "a man, a woman & a dog's tail",
)  # fmt: skip
_ODD_LABELS = (
    "",
    " ",
    "\t",
    "two\nlines",
    "\n",
    "a < b",
    "<",
    "x<y>z",
    "<unk>",
    "<ground>car",
    "<loc_",
    "<box>",
    "loc_5>",
)
_MARKERS = tuple(token for token in SPECIAL_TOKENS if not token.startswith("<loc_"))
_ODD_LOCATIONS = ("<loc_1000>", "<loc_1001>", "<loc_1234567>", "<loc_007>", "<loc_12345678901>", "<loc_>", "<loc_-1>")
_TAILS = ("</s>", "</s><pad><pad>", "", " ", "<pad>", "</s></s>")


def answers(grammar: Grammar, count: int, *, seed: int = 0) -> Iterator[str]:
    """`count` answers in one grammar; about half of them are malformed in one way or several."""
    rng = random.Random(f"{grammar.name} {seed}")
    for _ in range(count):
        tokens = [token for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5))) for token in _ITEMS[grammar](rng)]
        if rng.random() < 0.5:
            for _ in range(rng.choice((1, 1, 2, 4))):
                rng.choice(_FAULTS)(rng, tokens)
        text = rng.choice(("</s><s>", "<s>", "")) + "".join(tokens) + rng.choice(_TAILS)
        yield text[: rng.randrange(len(text) + 1)] if rng.random() < 0.05 else text


def _label(rng: random.Random) -> str:
    return rng.choice(_LABELS)


def _locations(rng: random.Random, count: int) -> list[str]:
    return [f"<loc_{rng.randrange(1000)}>" for _ in range(count)]


def _boxes(rng: random.Random) -> list[str]:
    return _locations(rng, 4 * rng.choice((1, 1, 1, 2, 3)))


def _rings(rng: random.Random) -> list[str]:
    tokens = _locations(rng, 2 * rng.randrange(3, 8))
    for _ in range(rng.choice((0, 0, 1, 2))):
        tokens += ["<sep>", *_locations(rng, 2 * rng.randrange(3, 8))]
    return tokens


def _masks(rng: random.Random) -> list[str]:
    return [token for _ in range(rng.choice((1, 1, 2))) for token in ("<poly>", *_rings(rng), "</poly>")]


def _labelled_shape(rng: random.Random) -> list[str]:
    return [_label(rng), *(_masks(rng) if rng.random() < 0.5 else _boxes(rng))]


def _sentence(rng: random.Random) -> list[str]:
    words = [_label(rng), " ", _label(rng), rng.choice((".", "\n", ""))]
    return words + _locations(rng, rng.choice((0, 0, 0, 4)))


_ITEMS: dict[Grammar, Callable[[random.Random], list[str]]] = {
    Grammar.TEXT: _sentence,
    Grammar.LABELLED_BOXES: lambda rng: [_label(rng), *_boxes(rng)],
    Grammar.BOXES: _boxes,
    Grammar.PHRASE_BOXES: lambda rng: [_label(rng), *_boxes(rng)],
    Grammar.QUADS: lambda rng: [_label(rng), *_locations(rng, 8)],
    Grammar.POLYGONS: lambda rng: _masks(rng) if rng.random() < 0.3 else _rings(rng),
    Grammar.LABELLED_BOXES_OR_POLYGONS: _labelled_shape,
}


def _insert(choices: Callable[[random.Random], list[str]]) -> Callable[[random.Random, list[str]], None]:
    def fault(rng: random.Random, tokens: list[str]) -> None:
        place = rng.randrange(len(tokens) + 1)
        tokens[place:place] = choices(rng)

    return fault


def _lose(rng: random.Random, tokens: list[str]) -> None:
    """A few tokens in a row are missing, at the end or elsewhere."""
    start = rng.choice((max(0, len(tokens) - rng.randrange(1, 6)), rng.randrange(len(tokens) + 1)))
    del tokens[start : start + rng.randrange(1, 6)]


def _swap(rng: random.Random, tokens: list[str]) -> None:
    """Two tokens have changed places."""
    if tokens:
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        tokens[i], tokens[j] = tokens[j], tokens[i]


_FAULTS: tuple[Callable[[random.Random, list[str]], None], ...] = (
    _lose,
    _lose,
    _swap,
    _insert(lambda rng: [rng.choice(_ODD_LABELS)]),
    _insert(lambda rng: [_label(rng)]),
    _insert(lambda rng: [rng.choice(_MARKERS)]),
    _insert(lambda rng: [rng.choice(("<sep>", "<poly>", "</poly>"))]),
    _insert(lambda rng: [rng.choice(("<s>", "</s>", "<pad>"))]),
    _insert(lambda rng: [rng.choice(_ODD_LOCATIONS)]),
    _insert(lambda rng: _locations(rng, rng.randrange(1, 10))),
    _insert(lambda rng: [*_label(rng), *_locations(rng, rng.randrange(4))]),
)
