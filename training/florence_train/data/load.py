"""Annotations of any known form, told apart by what they look like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from florence_edge.errors import InputError, listing
from florence_edge.tasks import find

from .coco import read_coco
from .jsonl import read_jsonl
from .reading import read_ocr
from .record import Check, Dataset, asking
from .refer import read_refer
from .shards import read_shards

OnFault = Literal["raise", "skip"]

FORMS = "a .jsonl file, a COCO or RefCOCO-style .json file, a folder with gt_*.txt files, or .tar shards"


def load(
    data: str | Path,
    *,
    images: str | Path | None = None,
    tasks: Iterable[str] = (),
    check: Check = "decode",
    faults: OnFault = "raise",
) -> Dataset:
    """Reads annotations into records and says everything that is wrong with them.

    `data` is a JSONL, COCO or RefCOCO-style file, a folder of ICDAR text files, or a path or pattern of WebDataset
    shards. `images` is the folder that image names are relative to, by default that of the annotations. `tasks` are
    the tasks to ask: they choose among what the annotations can answer. `check="header"` looks at no more than the
    headers of images, which is much faster and misses damaged ones.

    With `faults="raise"` any fault is an `InputError` that lists all of them; with "skip" what has a fault is left out
    and `Dataset.faults` lists it. Nothing that can be used at all is an `InputError` either way.
    """
    tokens = [find(task).token for task in tasks]
    dataset = _read(str(data), Path(images) if images else None, tokens, check)
    if dataset.faults and (faults == "raise" or not dataset.records):
        raise InputError(listing(f"{data}: {len(dataset.faults)} faults", [str(fault) for fault in dataset.faults]))
    chosen = tuple(asking(dataset.records, tokens))
    if not chosen:
        asked = f" for {', '.join(tokens)}" if tokens else ""
        raise InputError(f"{data} holds no example{asked}")
    return Dataset(chosen, dataset.faults)


def _read(data: str, images: Path | None, tasks: Sequence[str], check: Check) -> Dataset:
    path = Path(data)
    if path.suffix == ".tar":
        return read_shards(data, check=check)
    if path.is_dir():
        return read_ocr(path, images=images, tasks=tasks, check=check)
    if not path.exists():
        raise InputError(f"there is no {data!r}; give {FORMS}")
    if path.suffix == ".jsonl":
        return read_jsonl(path, images=images, check=check)
    if path.suffix == ".json":
        reader = read_refer if _holds_list(path) else read_coco
        return reader(path, images=images, tasks=tasks, check=check)
    raise InputError(f"{data!r} is no form that is known; give {FORMS}")


def _holds_list(path: Path) -> bool:
    """Whether a JSON file holds a list, from its first character: the files can be large."""
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
