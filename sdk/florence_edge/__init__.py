"""Florence-2 at the edge: caption, detect, ground, segment and read, offline, one call per task.

Everything is loaded on first use (PEP 562), so that `import florence_edge` costs next to nothing and pulls in neither
an engine nor an image library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import errors, results
    from .bundle import Bundle
    from .errors import FlorenceError
    from .geometry import ImageSize
    from .grammar import parse
    from .model import Florence
    from .options import SearchOptions
    from .results import Detections, Polygons, Quads, Result, Text
    from .selection import select
    from .view import View

__all__ = [
    "Bundle",
    "Detections",
    "Florence",
    "FlorenceError",
    "ImageSize",
    "Polygons",
    "Quads",
    "Result",
    "SearchOptions",
    "Text",
    "View",
    "__version__",
    "errors",
    "parse",
    "results",
    "select",
]

_OWNERS = {
    "Bundle": "bundle",
    "Detections": "results",
    "Florence": "model",
    "FlorenceError": "errors",
    "ImageSize": "geometry",
    "Polygons": "results",
    "Quads": "results",
    "Result": "results",
    "SearchOptions": "options",
    "Text": "results",
    "View": "view",
    "parse": "grammar",
    "select": "selection",
}
_MODULES = ("errors", "results")


def __getattr__(name: str) -> Any:
    if name in _OWNERS:
        value = getattr(importlib.import_module(f".{_OWNERS[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
