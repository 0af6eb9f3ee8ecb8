"""Labels of people and of a model in one file: what people said of an image stands, a model fills in the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import InputError, listing
from florence_edge.files import write
from florence_edge.prompts import ANY_SIZE
from florence_train.data.jsonl import KEYS, fields_of
from florence_train.data.turns import read_prefix

ORIGIN = "origin"
"""The key that says whether a turn is "clean" or a model's ("machine"); training leaves it alone."""


@dataclass(frozen=True)
class Merged:
    """Turns written: people's, the model's, and those of the model that people had answered already."""

    clean: int
    machine: int
    superseded: int


def merge(clean: str | Path, machine: str | Path, *, out: str | Path) -> Merged:
    """Writes the turns of two JSONL files into a third, in one step; other keys of a line are kept.

    Whoever labelled an image for a task said all there is to say: a model's turns about that image and task are left
    out. Image names are written relative to the new file where they lie below its folder. Raises `InputError` that
    lists every line that cannot be read.
    """
    target = Path(out)
    faults: list[str] = []
    firm = list(_read(Path(clean), faults))
    soft = list(_read(Path(machine), faults))
    if faults:
        raise InputError(listing("these lines cannot be merged:", faults))
    known = {key for key, _ in firm}
    new = [line for key, line in soft if key not in known]
    lines = [{**line, ORIGIN: "clean"} for _, line in firm] + [{**line, ORIGIN: "machine"} for line in new]
    folder = target.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({**line, "image": _named(line, folder)}, ensure_ascii=False) + "\n" for line in lines)
    write(target, text.encode("utf-8"))
    return Merged(len(firm), len(new), len(soft) - len(new))


Key = tuple[str, str]
"""The path of an image and the task asked about it."""


def _read(path: Path, faults: list[str]) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The lines of a file with the path of their image spelled out, and the key of each."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        faults.append(f"{path} cannot be read: {error}")
        return
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            faults.append(f"{path}: line {number}: not valid JSON: {error}")
            continue
        fields, wrong = fields_of(line, KEYS)
        faults += [f"{path}: line {number}: {fault}" for fault in wrong]
        if wrong:
            continue
        try:
            task, _ = read_prefix(fields["prefix"], ANY_SIZE)
        except InputError as error:
            faults.append(f"{path}: line {number}: {error}")
            continue
        image = os.path.realpath(path.resolve().parent / fields["image"])
        yield (image, task.token), {**line, "image": image}


def _named(line: dict[str, Any], folder: Path) -> str:
    image = Path(line["image"])
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image)
