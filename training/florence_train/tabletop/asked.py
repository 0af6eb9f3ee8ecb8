"""Questions that come with words: captions to ground, expressions to segment, classes to find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence_edge.results import Result

from .answers import NOTHING, Example, detections, polygons, text
from .phrases import RELATIONS, Description, holds, matches, references, related, short, unique, with_article
from .regions import some
from .scene import Scene
from .vocabulary import COLOURS, KINDS, TEXTURES

ABSENT = 0.3
"""Chance that a class of an open-vocabulary question is not in the picture."""


def ground(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    """Captions whose every noun phrase has its box."""
    return [
        Example(task, caption, detections(scene, task, indices, labels))
        for caption, indices, labels in (_grounded_caption(scene, rng) for _ in range(per_task))
        if caption
    ]


def _grounded_caption(scene: Scene, rng: np.random.Generator) -> tuple[str, list[int], list[str]]:
    """A caption whose every noun phrase means one object, those objects, and the phrases as written."""
    named = {i: names for i in range(len(scene.objects)) if (names := unique(scene, i))}
    tied = [reference for i in range(len(scene.objects)) for reference in related(scene, i)]
    style = rng.random()
    if tied and style < 0.4:
        chosen = tied[int(rng.integers(len(tied)))]
        if chosen.anchor is not None:
            phrases = [f"the {chosen.head.text}", f"the {chosen.anchor.text}"]
            return chosen.text, [chosen.target, chosen.anchor_index], phrases
    if not named:
        return "", [], []
    order = [int(i) for i in rng.permutation(list(named))]
    if len(order) > 1 and style < 0.75:
        first, second = order[:2]
        relations = [r for r in RELATIONS if holds(scene, first, r, second)]
        if relations:
            relation = relations[int(rng.integers(len(relations)))]
            subject, anchor = (with_article(_any(rng, named[i]).text) for i in (first, second))
            subject = subject[0].upper() + subject[1:]
            return f"{subject} {relation} {anchor}.", [first, second], [subject, anchor]
    count = int(rng.integers(1, min(3, len(order)) + 1))
    phrases = [f"the {_any(rng, named[i]).text}" for i in order[:count]]
    return _list(phrases), order[:count], phrases


def _any(rng: np.random.Generator, names: list[Description]) -> Description:
    return names[int(rng.integers(len(names)))]


def _list(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def refer(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    """Expressions that mean one object, with its mask."""
    made = []
    for index in some(rng, scene, per_task):
        options = references(scene, index)
        if not options:
            continue
        tied = [reference for reference in options if reference.relation is not None]
        pool = tied if tied and rng.random() < 0.5 else options
        chosen = pool[int(rng.integers(len(pool)))]
        made.append(Example(task, chosen.text, polygons(scene, task, index)))
    return made


def open_vocabulary(scene: Scene, rng: np.random.Generator, task: str, per_task: int) -> list[Example]:
    """Class names, some of them absent, with the boxes of those that are there."""
    made = []
    for _ in range(per_task):
        classes: dict[str, tuple[int, ...]] = {}
        for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))):
            wanted = _class(scene, rng, absent=not scene.objects or rng.random() < ABSENT)
            hits = matches(scene, wanted)
            if not {i for taken in classes.values() for i in taken} & set(hits):
                classes.setdefault(wanted.text, hits)
        label_of = {i: name for name, hits in classes.items() for i in hits}
        target: Result = text(scene, task, NOTHING)
        if label_of:
            target = detections(scene, task, sorted(label_of), [label_of[i] for i in sorted(label_of)])
        made.append(Example(task, tuple(classes), target))
    return made


def _class(scene: Scene, rng: np.random.Generator, *, absent: bool) -> Description:
    """A class that is in the picture, or one that is not but nearly is: another colour, kind or texture."""
    if scene.objects:
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        options = [Description(thing.kind), short(thing)]
        if TEXTURES[thing.texture]:
            options.append(Description(thing.kind, texture=thing.texture))
        present = options[int(rng.integers(len(options)))]
        if not absent:
            return present
        for _ in range(8):
            kind, colour = str(rng.choice(KINDS)), str(rng.choice(list(COLOURS)))
            near = (Description(kind), Description(thing.kind, colour), Description(kind, thing.colour))
            other = near[int(rng.integers(3))]
            if not matches(scene, other):
                return other
        return present
    return Description(str(rng.choice(KINDS)))
