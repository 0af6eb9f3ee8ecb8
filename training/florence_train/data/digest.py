"""A digest of annotated data, to be kept with what was trained on it."""

from __future__ import annotations

import hashlib
import json

from .jsonl import turns
from .record import Dataset


def digest(dataset: Dataset) -> str:
    """SHA-256 over every turn with the name and size of its image, in order; pixels are not read."""
    found = hashlib.sha256()
    for record in dataset.records:
        for turn in turns(record, record.name):
            found.update(json.dumps([*record.size, *turn.values()]).encode() + b"\n")
    return found.hexdigest()
