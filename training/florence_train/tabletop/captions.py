"""Captions of a scene in three lengths: each is a function of the picture, with one way to say everything.

Objects are always named from left to right, by the centre of their visible boxes. Brief captions give colour and kind
of the outermost objects; detailed ones of all, each with its place in depth relative to the one before; paragraphs
add size, texture, place and printed text.
"""

from __future__ import annotations

from .phrases import full, short, with_article
from .scene import Scene, SceneObject
from .vocabulary import COLUMNS, NUMBERS, ROWS, TABLES, WALLS


def brief(scene: Scene) -> str:
    """The outermost objects: "A red cube left of a blue ball."

    One object is named with the table; of three or more, the count and the two outermost.
    """
    named = [with_article(short(thing).text) for thing in scene.objects]
    if not named:
        return f"{_first_upper(with_article(TABLES[scene.table]))} with nothing on it."
    if len(named) == 1:
        return f"{_first_upper(named[0])} on {with_article(TABLES[scene.table])}."
    if len(named) == 2:
        return f"{_first_upper(named[0])} left of {named[1]}."
    return f"{_first_upper(NUMBERS[len(named)])} objects, from {named[0]} on the left to {named[-1]} on the right."


def detailed(scene: Scene) -> str:
    """All objects: "A wooden table with two objects from left to right: a red cube and a blue ball behind it."

    "it" is the object named just before; "beside it" means the same depth row.
    """
    table = _first_upper(with_article(TABLES[scene.table]))
    if not scene.objects:
        return f"{table} with nothing on it."
    named = [with_article(short(scene.objects[0]).text)]
    for before, thing in zip(scene.objects, scene.objects[1:], strict=False):
        named.append(f"{with_article(short(thing).text)} {_depth_word(before, thing)} it")
    if len(named) == 1:
        return f"{table} with one object: {named[0]}."
    return f"{table} with {NUMBERS[len(named)]} objects from left to right: {', '.join(named[:-1])} and {named[-1]}."


def paragraph(scene: Scene) -> str:
    """Table, wall, and one sentence per object: "On the left at the back is a large striped red cube."

    A carrier of text ends with "that reads" and its text.
    """
    setting = f"The picture shows {with_article(TABLES[scene.table])}"
    if scene.wall is not None:
        setting += f" in front of {with_article(WALLS[scene.wall])}"
    printed = {label.carrier: label.text for label in scene.labels}
    sentences = [f"{setting}, with {NUMBERS[len(scene.objects)]} object{'' if len(scene.objects) == 1 else 's'} on it."]
    for index, thing in enumerate(scene.objects):
        text = f" that reads {printed[index]}" if index in printed else ""
        sentences.append(
            f"{_first_upper(column(scene, thing))} {ROWS[thing.row]} is {with_article(full(thing).text)}{text}."
        )
    return " ".join(sentences)


def column(scene: Scene, thing: SceneObject) -> str:
    """Which third of the picture an object's centre lies in: "on the left", "in the centre", "on the right"."""
    name = COLUMNS[min(2, int(3 * thing.centre[0] / scene.size.width))]
    return f"{'in' if name == 'centre' else 'on'} the {name}"


def _depth_word(before: SceneObject, thing: SceneObject) -> str:
    if thing.row == before.row:
        return "beside"
    return "behind" if thing.row > before.row else "in front of"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
