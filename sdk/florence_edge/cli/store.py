"""Answers on disk: a JSON document and an annotated picture each, written so that a kill leaves nothing half done."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from florence_edge.drawing.asked import annotated
from florence_edge.files import write
from florence_edge.options import SearchOptions
from florence_edge.prompts import TaskInput
from florence_edge.results import Result
from florence_edge.tasks import Task

_STEM_BYTES = 180
"""What is kept of an image's name: file systems take names of 255 bytes, and the task, a key and suffixes follow."""


@dataclass(frozen=True)
class Store:
    """A folder of answers to one question (`task`, `given`, `search`) by one bundle (its identity) about many images.

    A document is found again by the image's path, size and time of change and by the question. It is written last, so
    where there is a document its picture is complete.
    """

    folder: Path
    task: Task
    given: TaskInput
    search: SearchOptions
    bundle: str

    def document(self, image: Path, result: Result) -> dict[str, Any]:
        """What is written about an answer."""
        return {
            "image": str(image),
            "task": self.task.token,
            "input": self.given,
            "bundle": self.bundle,
            "result": result.to_dict(),
        }

    def find(self, image: Path) -> dict[str, Any] | None:
        """The document of an earlier run, or None."""
        try:
            document: dict[str, Any] = json.loads(self._path(image).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document

    def save(self, image: Path, result: Result) -> Path:
        """Writes the picture, then the document; returns the document's path."""
        path, picture = self._path(image), BytesIO()
        annotated(image, self.task, self.given, result).save(picture, format="JPEG", quality=92)
        self.folder.mkdir(parents=True, exist_ok=True)
        write(path.with_suffix(".jpg"), picture.getvalue())
        write(
            path,
            json.dumps(self.document(image, result), ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"),
        )
        return path

    def _path(self, image: Path) -> Path:
        """Where an image's document belongs; raises `OSError` when the image is gone."""
        state = image.stat()
        identity = [str(image.resolve()), state.st_size, state.st_mtime_ns, self.bundle]
        asked = [self.task.token, self.given, asdict(self.search)]
        key = hashlib.sha256(json.dumps([identity, asked]).encode("utf-8")).hexdigest()[:12]
        stem = os.fsdecode(os.fsencode(image.stem)[:_STEM_BYTES])
        return self.folder / f"{stem}.{self.task.name}.{key}.json"
