"""Noun phrases and relations that point at objects of a scene, and whether they point at one alone.

A phrase names attributes and says nothing of the others: "red cube" fits a striped red cube as well. Left and right
compare the centres of visible boxes, front and back the depth rows; where two centres are closer than `SETTLED`
widths of the picture, neither is left of the other and no phrase relies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .scene import Scene, SceneObject
from .vocabulary import TEXTURES

SETTLED = 0.03
"""Least distance of two centres, as a share of the picture's width, for one to be left of the other."""

RELATIONS: tuple[str, ...] = ("left of", "right of", "behind", "in front of")
"""How one object can lie to another."""


@dataclass(frozen=True)
class Description:
    """A kind with some of its attributes; None leaves an attribute open."""

    kind: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    @property
    def text(self) -> str:
        """The words, without an article: "large striped red cube"."""
        words = (self.size, TEXTURES[self.texture] if self.texture else None, self.colour, self.kind)
        return " ".join(word for word in words if word)

    def fits(self, thing: SceneObject) -> bool:
        """Whether an object has every attribute named."""
        return self.kind == thing.kind and all(
            wanted is None or wanted == had
            for wanted, had in (
                (self.colour, thing.colour),
                (self.texture, thing.texture),
                (self.size, thing.size),
            )
        )


@dataclass(frozen=True)
class Reference:
    """A phrase for one object: `head` alone, or `head` with a `relation` to what `anchor` describes."""

    head: Description
    relation: str | None = None
    anchor: Description | None = None
    target: int = 0
    anchor_index: int = -1

    @property
    def text(self) -> str:
        """The words with definite articles: "the red cube left of the ball"."""
        if self.relation is None or self.anchor is None:
            return f"the {self.head.text}"
        return f"the {self.head.text} {self.relation} the {self.anchor.text}"


def full(thing: SceneObject) -> Description:
    """Everything there is to say of an object."""
    return Description(thing.kind, thing.colour, thing.texture if TEXTURES[thing.texture] else None, thing.size)


def short(thing: SceneObject) -> Description:
    """Colour and kind."""
    return Description(thing.kind, thing.colour)


def with_article(words: str) -> str:
    """The words behind "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def descriptions(thing: SceneObject) -> Iterator[Description]:
    """Every description that fits an object, those with fewest attributes first."""
    whole = full(thing)
    options = [
        Description(thing.kind, colour, texture, size)
        for colour, texture, size in product((None, whole.colour), {None: 0, whole.texture: 0}, (None, whole.size))
    ]
    yield from sorted(options, key=lambda d: sum(a is not None for a in (d.colour, d.texture, d.size)))


def matches(scene: Scene, description: Description) -> tuple[int, ...]:
    """Indices of the objects that a description fits."""
    return tuple(i for i, thing in enumerate(scene.objects) if description.fits(thing))


def holds(scene: Scene, first: int, relation: str, second: int) -> bool | None:
    """Whether `first` lies so to `second`; None where the picture does not settle it."""
    a, b = scene.objects[first], scene.objects[second]
    if relation in ("behind", "in front of"):
        return a.row > b.row if relation == "behind" else a.row < b.row
    shift = a.centre[0] - b.centre[0]
    if abs(shift) < SETTLED * scene.size.width:
        return None
    return shift < 0 if relation == "left of" else shift > 0


def unique(scene: Scene, index: int) -> list[Description]:
    """Descriptions that fit one object alone, those with fewest attributes first."""
    return [d for d in descriptions(scene.objects[index]) if matches(scene, d) == (index,)]


def related(scene: Scene, index: int) -> list[Reference]:
    """References to one object that need their relation: the head alone fits others too, the whole fits one."""
    found = []
    anchors = [(j, unique(scene, j)[:2]) for j in range(len(scene.objects)) if j != index]
    for head in descriptions(scene.objects[index]):
        rivals = [i for i in matches(scene, head) if i != index]
        if not rivals:
            continue
        for relation, (j, names) in product(RELATIONS, anchors):
            if j in rivals or holds(scene, index, relation, j) is not True:
                continue
            if all(holds(scene, rival, relation, j) is False for rival in rivals):
                found += [Reference(head, relation, name, index, j) for name in names]
    return found


def references(scene: Scene, index: int) -> list[Reference]:
    """All phrases that mean this object alone: by attributes, and by relation where attributes do not suffice."""
    return [Reference(d, target=index) for d in unique(scene, index)] + related(scene, index)
