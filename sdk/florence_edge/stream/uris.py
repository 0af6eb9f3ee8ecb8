"""One grammar for everything that frames come from and events go to: `scheme://target?option=value#tag`.

A text without a scheme is a path, its kind told by what it is or by its suffix. This module knows which module opens
which scheme, and imports that module only when it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl

from florence_edge.errors import InputError, missing
from florence_edge.images import IMAGE_SUFFIXES

from .protocols import Sink, Source


@dataclass(frozen=True)
class Uri:
    """A parsed URI: `bag://run.mcap?topic=/camera#left` is `bag`, `run.mcap`, `{"topic": "/camera"}`, `left`.

    `text` is what was given. `tag` is empty where none was.
    """

    text: str
    scheme: str
    target: str
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""

    def only(self, *allowed: str) -> Mapping[str, str]:
        """The options, once each is one of those allowed; else `InputError`."""
        unknown = [name for name in self.options if name not in allowed]
        if unknown:
            may = f"allowed are: {', '.join(allowed)}" if allowed else "none is allowed"
            raise InputError(f"{self.text}: unknown option {', '.join(unknown)}; {may}")
        return self.options


@dataclass(frozen=True)
class Scheme:
    """One row of the table: the module that opens it, the extra that brings its library, and what it can be.

    A module that can be a source has `open_source(uri: Uri) -> Source`, one that can be a sink
    `open_sink(uri: Uri) -> Sink`; neither opens anything yet, that is for `frames` and `open`. `raw` schemes are
    addresses whose query belongs to whoever answers there.
    """

    module: str
    extra: str | None = None
    source: bool = False
    sink: bool = False
    raw: bool = False
    example: str = ""


SCHEMES: Mapping[str, Scheme] = {
    "v4l2": Scheme("florence_edge.stream.cameras", "video", source=True, example="v4l2://0?width=1280&height=720#left"),
    "csi": Scheme("florence_edge.stream.cameras", "video", source=True, example="csi://0"),
    "rtsp": Scheme("florence_edge.stream.cameras", "video", source=True, raw=True, example="rtsp://host/stream#gate"),
    "rtsps": Scheme("florence_edge.stream.cameras", "video", source=True, raw=True),
    "video": Scheme("florence_edge.stream.videos", "video", source=True, sink=True, example="clip.mkv"),
    "images": Scheme("florence_edge.stream.pictures", source=True, example="photos/, 'photos/**/*.jpg', list.txt"),
    "folder": Scheme("florence_edge.stream.folders", sink=True, example="answers/"),
    "yolo": Scheme("florence_edge.stream.datasets", sink=True, example="yolo://dataset?min_score=0.1"),
    "coco": Scheme("florence_edge.stream.datasets", sink=True, example="coco://dataset"),
    "jsonl": Scheme("florence_edge.stream.jsonl", sink=True, example="answers.jsonl"),
    "http": Scheme("florence_edge.stream.http", sink=True, raw=True, example="http://host:8000/events"),
    "https": Scheme("florence_edge.stream.http", sink=True, raw=True),
    "bag": Scheme("florence_edge.stream.bags", "bags", source=True, sink=True, example="bag://run.mcap"),
    "foxglove": Scheme("florence_edge.stream.foxglove", "foxglove", sink=True, example="foxglove://127.0.0.1:8765"),
}
"""Every scheme. `file://` and plain paths become one of these by what is there, or by their suffix."""

Role = Literal["source", "sink"]

IMAGE_LIST = ".txt"
"""Suffix of a list of images: one path per line, relative to the list; empty lines and those with `#` are left out."""

_SUFFIXES: Mapping[Role, Mapping[str, tuple[str, ...]]] = {
    "source": {
        "video": (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"),
        "bag": (".bag", ".db3", ".mcap"),
        "images": (*sorted(IMAGE_SUFFIXES), IMAGE_LIST),
    },
    "sink": {
        "video": (".avi", ".mkv", ".mp4"),
        "bag": (".mcap",),
        "jsonl": (".jsonl", ".ndjson"),
        "folder": ("",),
    },
}
_SCHEME = re.compile(r"([a-z][a-z0-9+]*)://(.*)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")

LONGEST_TAG = 120
"""Characters of a tag: sinks name files by it, and file systems take names of 255 bytes."""


def parse(text: str, role: Role) -> Uri:
    """The URI that a text means as a source or a sink; raises `InputError` that says what is allowed."""
    found = _SCHEME.fullmatch(text)
    scheme, rest = (found[1], found[2]) if found else ("file", text)
    if scheme == "file":
        return _path(text, rest, role)
    able = [name for name, row in SCHEMES.items() if getattr(row, role)]
    if scheme not in able:
        close = difflib.get_close_matches(scheme, able, n=1)
        meant = f"did you mean {close[0]}://? " if close else ""
        raise InputError(f"{text!r}: {scheme}:// is no {role}; {meant}a {role} is a path or one of {', '.join(able)}")
    rest, _, tag = rest.partition("#")
    if SCHEMES[scheme].raw:
        return Uri(text, scheme, f"{scheme}://{rest}", {}, tag)
    target, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    repeated = sorted({name for name, _ in pairs if [key for key, _ in pairs].count(name) > 1})
    if repeated:
        raise InputError(f"{text!r}: {', '.join(repeated)} is given more than once")
    return Uri(text, scheme, target, dict(pairs), tag)


def open_source(text: str) -> Source:
    """The source that a text means. Nothing is opened before its frames are asked for."""
    uri = parse(text, "source")
    return cast(Source, _module(uri).open_source(uri))


def open_sink(text: str) -> Sink:
    """The sink that a text means. Nothing is written before it is opened."""
    uri = parse(text, "sink")
    return cast(Sink, _module(uri).open_sink(uri))


def tag_of(uri: Uri, default: str) -> str:
    """The tag given, else one made of `default`; only characters, and as many, as every file system takes."""
    return _UNSAFE.sub("-", uri.tag or default).strip("-.")[:LONGEST_TAG] or uri.scheme


def examples(role: Role) -> Iterable[str]:
    """One example of every scheme, for help texts."""
    return (row.example for row in SCHEMES.values() if getattr(row, role) and row.example)


def _path(text: str, path: str, role: Role) -> Uri:
    """A path, with a tag behind the last `#` unless a file has that very name."""
    tag = ""
    if "#" in path and not os.path.lexists(path):
        path, _, tag = path.rpartition("#")
    if not path:
        raise InputError(f"{text!r} names no {role}")
    return Uri(text, _kind(path, role), path, {}, tag)


def _kind(path: str, role: Role) -> str:
    """What a path means, by what is there or else by its suffix."""
    place = Path(path).expanduser()
    if role == "sink" and (path.endswith(("/", os.sep)) or place.is_dir()):
        return "folder"
    if role == "source" and place.is_dir():
        return "bag" if (place / "metadata.yaml").is_file() else "images"
    suffix = place.suffix.lower()
    for scheme, suffixes in _SUFFIXES[role].items():
        if suffix in suffixes:
            return scheme
    if role == "source" and any(character in path for character in "*?["):
        return "images"
    if role == "source" and not place.exists():
        raise InputError(f"{path} does not exist; a source is a file, a folder, or an address such as v4l2://0")
    known = ", ".join(sorted(suffix for suffixes in _SUFFIXES[role].values() for suffix in suffixes if suffix))
    raise InputError(
        f"{path!r} cannot be told to be a {role}: its suffix is none of {known}; name the kind, as in "
        f"{'video' if role == 'source' else 'jsonl'}://{path}"
    )


def _module(uri: Uri) -> Any:
    """The module that opens a URI; `DependencyError` when its library is not installed."""
    row = SCHEMES[uri.scheme]
    try:
        return importlib.import_module(row.module)
    except ModuleNotFoundError as error:
        if row.extra is None or error.name is None or error.name.startswith("florence_edge"):
            raise
        raise missing(error.name, extra=row.extra, needed_for=f"{uri.scheme}://") from error
