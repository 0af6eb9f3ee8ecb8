"""COCO annotations: instances (boxes, polygons, RLE masks) and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.tasks import DETAIL
from florence_train.examples import Example

from .collector import Collector, allowed_tasks, read_json
from .masks import rings_of
from .record import Check, Dataset
from .truths import Region, about_regions, corners_of, detections, text

INSTANCE_TASKS = (
    "<OD>",
    "<REGION_PROPOSAL>",
    "<REGION_TO_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
    "<REGION_TO_CATEGORY>",
)
CAPTION_TASKS = tuple(DETAIL.values())

Id = int | str
Names = dict[Id, tuple[str, ImageSize] | None]
"""File name and size by image id; None for an image that cannot be used."""


def read_coco(
    file: str | Path, *, images: Path | None = None, tasks: Sequence[str] = (), check: Check = "decode"
) -> Dataset:
    """Reads an instances or captions file; image names are relative to `images`, by default the file's folder.

    `tasks` says what to ask: of instances any of `INSTANCE_TASKS` (default `<OD>`), of captions one of `CAPTION_TASKS`
    (default `<CAPTION>`). Crowds are left out of the answers and kept in `Record.crowds`.
    """
    path = Path(file)
    root = read_json(path)
    if not isinstance(root, dict) or not all(isinstance(root.get(key), list) for key in ("images", "annotations")):
        raise InputError(f"{path} is no COCO file: it needs the lists images and annotations")
    collector = Collector(path, images=images, check=check)
    names = _images(collector, root["images"])
    captions = any("caption" in row for row in root["annotations"] if isinstance(row, dict))
    allowed = CAPTION_TASKS if captions else INSTANCE_TASKS
    chosen = allowed_tasks(path, tasks, allowed) or allowed[:1]
    if captions:
        _captions(collector, root["annotations"], names, chosen)
    else:
        _instances(collector, root, names, chosen)
    return collector.dataset()


def _images(collector: Collector, rows: Sequence[Any]) -> Names:
    """Every image by its id."""
    names: Names = {}
    for index, row in enumerate(rows):
        place = f"images[{index}]"
        if not isinstance(row, dict) or _id(row, "id") is None or not isinstance(row.get("file_name"), str):
            collector.fault(place, "an image needs id and file_name")
            continue
        size = collector.image(place, row["file_name"])
        declared = (row.get("width"), row.get("height"))
        if size is not None and None not in declared and declared != tuple(size):
            collector.fault(place, f"{row['file_name']} is {size.width} x {size.height} pixels, not {declared}")
            size = None
        names[row["id"]] = (row["file_name"], size) if size else None
    return names


def _captions(collector: Collector, rows: Sequence[Any], names: Names, tasks: Sequence[str]) -> None:
    for index, row in enumerate(rows):
        place = f"annotations[{index}]"
        if not isinstance(row, dict) or not isinstance(row.get("caption"), str):
            collector.fault(place, "an annotation needs image_id and caption")
        elif _id(row, "image_id") not in names:
            collector.fault(place, f"there is no image with id {row.get('image_id')!r}")
        elif (image := names[row["image_id"]]) is not None:
            name, size = image
            for task in tasks:
                collector.add(place, name, Example(task, None, text(task, row["caption"], size)))


def _instances(collector: Collector, root: Mapping[str, Any], names: Names, tasks: Sequence[str]) -> None:
    categories = _categories(root.get("categories"))
    usable = [image for image in names.values() if image is not None]
    regions: dict[str, list[Region]] = {name: [] for name, _ in usable}
    crowds: dict[str, list[Region]] = {name: [] for name, _ in usable}
    masks = "<REGION_TO_SEGMENTATION>" in tasks
    for index, row in enumerate(root["annotations"]):
        place = f"annotations[{index}]"
        try:
            found = _region(place, row, names, categories, masks=masks)
            if found is not None:
                (crowds if row.get("iscrowd") else regions)[found[0]].append(found[1])
        except InputError as error:
            collector.fault(place, str(error))
    for name, size in usable:
        for task in tasks:
            for place, example in about_regions(task, regions[name], size):
                collector.add(place or f"annotations of {name}", name, example)
        if crowds[name]:
            collector.crowd(name, detections("<OD>", crowds[name], size))


def _region(
    place: str, row: Any, names: Names, categories: Mapping[Id, str], *, masks: bool
) -> tuple[str, Region] | None:
    """An annotation as the name of its image and a region; `InputError` says what is wrong with it.

    None where its image cannot be used, which was told once.
    """
    if not isinstance(row, dict):
        raise InputError(f"an annotation is an object; got {row!r:.80}")
    if _id(row, "image_id") not in names:
        raise InputError(f"there is no image with id {row.get('image_id')!r}")
    if _id(row, "category_id") not in categories:
        raise InputError(f"there is no category with id {row.get('category_id')!r}")
    image = names[row["image_id"]]
    if image is None:
        return None
    name, size = image
    box = corners_of(row.get("bbox"), size)
    rings = rings_of(row.get("segmentation"), size) if masks and not row.get("iscrowd") else ()
    return name, Region(place, categories[row["category_id"]], box, rings)


def _categories(rows: Any) -> dict[Id, str]:
    """Names by id; what is no category has none, which the annotations that use it will tell."""
    usable = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {row["id"]: row["name"] for row in usable if _id(row, "id") is not None and isinstance(row.get("name"), str)}


def _id(row: Mapping[str, Any], key: str) -> Id | None:
    """An id, or None where there is none that can be one."""
    value = row.get(key)
    return value if isinstance(value, (int, str)) else None
