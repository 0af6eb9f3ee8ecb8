"""A model on the network: a JSON API and a live view in the browser, behind one bounded queue.

    from florence_edge.serve import Camera, ServeOptions, serve
    serve(model, ServeOptions(port=8000), camera=Camera(open_source("v4l2://0"), Ask("detect")))

The extra `serve` brings Starlette, uvicorn and python-multipart; they are loaded with the first name that is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from florence_edge.errors import missing

if TYPE_CHECKING:
    from .app import Application, Camera, create_app
    from .options import ServeOptions
    from .server import serve

__all__ = ["Application", "Camera", "ServeOptions", "create_app", "serve"]

_OWNERS = {
    "Application": "app",
    "Camera": "app",
    "ServeOptions": "options",
    "create_app": "app",
    "serve": "server",
}
_LIBRARIES = ("starlette", "uvicorn", "python_multipart")


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{_OWNERS[name]}", __name__), name)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _LIBRARIES:
            raise
        raise missing(library, extra="serve", needed_for="florence-edge serve") from error
