"""Labelled pictures to train a detector on: `yolo://DIR` and `coco://DIR`.

Every frame that was answered becomes a picture under `images/`, as the model saw it. A frame that could not be read, on
which a task failed, or on which no task with regions ran is left out: without its labels it would teach that nothing is
there. A frame on which nothing was found is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast, get_args

from PIL import Image

from florence_edge.annotations import Region, YoloKind, coco_annotation, regions, yolo_line, yolo_names, yolo_yaml
from florence_edge.errors import InputError
from florence_edge.files import write
from florence_edge.geometry import ImageSize
from florence_edge.results import Detections, Polygons, Quads
from florence_edge.selection import Selection

from .events import Event
from .folders import newest, stem
from .jsonl import JsonLines, other_run
from .protocols import Frame, Run, SinkError
from .uris import Uri

_REGIONS = (Detections, Polygons, Quads)
_QUALITY = 95
"""Of the JPEG pictures; 4:4:4, so that coloured edges stay where the labels say."""


def open_sink(uri: Uri) -> Yolo | Coco:
    """`yolo://DIR?min_score=0.3&kind=segment`, `coco://DIR?min_score=0.3`; both options may be left out."""
    options = uri.only(*(("min_score", "kind") if uri.scheme == "yolo" else ("min_score",)))
    kind, least = options.get("kind", "detect"), options.get("min_score")
    if kind not in get_args(YoloKind):
        raise InputError(f"{uri.text}: kind is {kind!r}; it must be one of {', '.join(get_args(YoloKind))}")
    try:
        min_score = None if least is None else float(least)
    except ValueError as error:
        raise InputError(f"{uri.text}: min_score is {least!r}; it must be a number in 0..1") from error
    folder = Path(uri.target).expanduser()
    if uri.scheme == "coco":
        return Coco(folder, min_score=min_score)
    return Yolo(folder, min_score=min_score, kind=cast(YoloKind, kind))


class _Chosen:
    """Chooses the regions of an event that become labels: those with a score of at least `min_score` (0..1)."""

    def __init__(self, min_score: float | None) -> None:
        self.min_score = Selection(min_score=min_score).min_score

    def of(self, event: Event, *, first: bool) -> list[Region] | None:
        """The regions, None where the frame is to be left out; `first` of all: every task ran."""
        if event.errors or event.frame.error is not None:
            return None
        found = [result for result in event.results.values() if isinstance(result, _REGIONS)]
        if not found:
            if first:
                raise SinkError(f"nothing to label: none of the tasks {', '.join(event.results)} answers with regions")
            return None
        rows = [region for result in found for region in regions(result)]
        return [region for region in rows if self.min_score is None or region.score >= self.min_score]


class Yolo:
    """A `Sink` of `images/NAME.jpg`, `labels/NAME.txt` and `data.yaml`, as YOLO trainers read them.

    Classes are those asked for, then others as they appear; each is in `data.yaml` before a label needs it. The picture
    comes last: whatever a kill leaves, there is none without its labels. `kind` is as in `annotations.yolo_line`.
    """

    def __init__(self, folder: Path, *, min_score: float | None = None, kind: YoloKind = "detect") -> None:
        self._folder, self._chosen, self._kind = folder, _Chosen(min_score), kind
        self._ids: dict[str, int] = {}

    def open(self, run: Run) -> Mapping[str, int]:
        """As in `Sink`."""
        self._head = f"# florence-edge run {run.key}, {self._kind}, min_score {self._chosen.min_score}\n"
        _begin(self._folder, run)
        (self._folder / "labels").mkdir(exist_ok=True)
        if self._yaml.exists():
            text = self._yaml.read_text(encoding="utf-8")
            if not text.startswith(self._head):
                raise SinkError(other_run(self._folder))
            self._ids = {name: number for number, name in enumerate(yolo_names(text))}
        else:
            self._name(run.labels)
        held = newest(self._images, ".jpg", run.sources)
        self._first = not held
        return {tag: index + 1 for tag, (index, _) in held.items()}

    def write(self, event: Event) -> None:
        """As in `Sink`."""
        found = self._chosen.of(event, first=self._first)
        self._first = False
        if found is None:
            return
        name, size = stem(event.frame), _size(event.frame)
        try:
            self._name([region.label for region in found])
            rows = [yolo_line(region, size, self._ids[region.label], kind=self._kind) for region in found]
            text = "".join(f"{row}\n" for row in rows)
            write(self._folder / "labels" / f"{name}.txt", text.encode("ascii"))
            write(self._images / f"{name}.jpg", _picture(event.frame))
        except OSError as error:
            raise _full(self._folder, error) from error

    def close(self) -> None:
        """As in `Sink`: every file is complete already."""

    @property
    def _yaml(self) -> Path:
        return self._folder / "data.yaml"

    @property
    def _images(self) -> Path:
        return self._folder / "images"

    def _name(self, labels: Sequence[str]) -> None:
        """Gives every label that has none a class, on the disk first."""
        names = list(dict.fromkeys([*self._ids, *labels]))
        if len(names) > len(self._ids) or not self._yaml.exists():
            write(self._yaml, (self._head + yolo_yaml(names)).encode("utf-8"))
            self._ids = {name: number for number, name in enumerate(names)}


class Coco:
    """A `Sink` of `images/NAME.jpg` and, once it is closed, `annotations.json` over all of them.

    Until then the annotations stand in `annotations.jsonl`, a line per picture; a killed run keeps them there, and
    `--resume` goes on. Categories are those asked for, then others as they appear, numbered from 1.
    """

    def __init__(self, folder: Path, *, min_score: float | None = None) -> None:
        self._folder, self._chosen = folder, _Chosen(min_score)
        self._lines = JsonLines(folder / "annotations.jsonl", document=self._document)

    def open(self, run: Run) -> Mapping[str, int]:
        """As in `Sink`."""
        self._run = replace(run, key=f"{run.key}, min_score {self._chosen.min_score}")
        _begin(self._folder, run)
        held = self._lines.open(self._run)
        self._first = not held
        return held

    def write(self, event: Event) -> None:
        """As in `Sink`."""
        found = self._chosen.of(event, first=self._first)
        self._first = False
        if found is None:
            return
        try:
            write(self._folder / "images" / f"{stem(event.frame)}.jpg", _picture(event.frame))
        except OSError as error:
            raise _full(self._folder, error) from error
        self._lines.write(event)

    def close(self) -> None:
        """As in `Sink`; numbers everything and writes the one document that COCO is."""
        self._lines.close()
        categories = {label: number for number, label in enumerate(self._run.labels, start=1)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        with (self._folder / "annotations.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                images.append({"id": number, **row["image"]})
                for label, annotation in row["annotations"]:
                    category = categories.setdefault(label, len(categories) + 1)
                    ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
                    annotations.append({**ids, **annotation})
        document = {
            "info": {"description": f"labelled by florence-edge, run {self._run.key}"},
            "licenses": [],
            "categories": [{"id": number, "name": label} for label, number in categories.items()],
            "images": images,
            "annotations": annotations,
        }
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        write(self._folder / "annotations.json", text.encode("utf-8"))

    def _document(self, event: Event, run: Run) -> dict[str, Any]:
        """A line: the picture, and its annotations with their labels."""
        frame, found = event.frame, self._chosen.of(event, first=False) or ()
        return {
            "run": run.key,
            "source": frame.tag,
            "frame": frame.index,
            "image": {"file_name": f"{stem(frame)}.jpg", **_size(frame)._asdict()},
            "annotations": [(region.label, coco_annotation(region)) for region in found],
        }


def _begin(folder: Path, run: Run) -> None:
    """Makes the folder; it must hold nothing unless the run is gone on with."""
    folder.mkdir(parents=True, exist_ok=True)
    if not run.resume and any(folder.iterdir()):
        raise SinkError(f"{folder} is not empty; go on with --resume, or write elsewhere")
    (folder / "images").mkdir(exist_ok=True)


def _size(frame: Frame) -> ImageSize:
    height, width = frame.image.shape[:2]
    return ImageSize(width, height)


def _picture(frame: Frame) -> bytes:
    """A frame as JPEG."""
    stream = BytesIO()
    Image.fromarray(frame.image).save(stream, format="JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def _full(folder: Path, error: OSError) -> SinkError:
    return SinkError(f"{folder}: {error.strerror or error}; what was written before is complete; --resume goes on")
