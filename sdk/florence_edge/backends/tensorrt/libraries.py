"""The one module that imports tensorrt and pycuda, and the checks that both are there and new enough."""

from __future__ import annotations

import sys
from collections import deque
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

from florence_edge.backends.kernel_library import open_library
from florence_edge.errors import DependencyError, missing

from .surface import Driver, Platform, TensorRT

OLDEST = (10, 3)
"""JetPack 6.1's TensorRT: the first with everything that the plugins need."""

_LINES = 40
_SYSTEM_PACKAGES = "usr/lib/python3*/dist-packages/tensorrt"


@cache
def platform() -> Platform:
    """TensorRT, pycuda and the CUDA kernels of this machine; `DependencyError` names what is missing and its cure."""
    return Platform(tensorrt(), driver(), open_library(cuda=True))


def tensorrt() -> TensorRT:
    """The module `tensorrt`, of 10.3 or later."""
    try:
        import tensorrt
    except ImportError as error:
        raise DependencyError(
            f"TensorRT is needed for the tensorrt backend but cannot be imported; {_cure()}"
        ) from error
    check_version(str(tensorrt.__version__))
    return cast(TensorRT, tensorrt)


def check_version(version: str) -> None:
    """Raises `DependencyError` for a TensorRT that is too old."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise DependencyError(
            f"TensorRT {version} is too old, {oldest} or later is needed: on a Jetson JetPack 6.1 or later brings it, "
            f"elsewhere run: pip install -U 'tensorrt>={oldest}'"
        )


def driver() -> Driver:
    """The module `pycuda.driver`; its import opens no context."""
    try:
        import pycuda.driver as found
    except ImportError as error:
        raise missing("pycuda", extra="tensorrt", needed_for="the tensorrt backend") from error
    return cast(Driver, found)


def _cure(root: Path = Path("/")) -> str:
    """How to get TensorRT here; JetPack's is a system package, which a plain virtual environment does not see."""
    if list(root.glob(_SYSTEM_PACKAGES)) and sys.prefix != sys.base_prefix:
        return "JetPack's is a system package: make the environment with python3 -m venv --system-site-packages"
    return "on a Jetson run: sudo apt install python3-libnvinfer; elsewhere: pip install tensorrt"


@lru_cache(maxsize=1)
def logger(tensorrt: Any) -> Any:
    """The process's `tensorrt.ILogger`, whose attribute `lines` holds the last that was said at warning and worse.

    One for all, and for good: TensorRT goes on using the first that it is given, also when its giver is gone.
    """

    class Logger(tensorrt.ILogger):  # type: ignore[misc]  # the module ships no types
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.lines: deque[str] = deque(maxlen=_LINES)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (
                tensorrt.ILogger.Severity.INTERNAL_ERROR,
                tensorrt.ILogger.Severity.ERROR,
                tensorrt.ILogger.Severity.WARNING,
            ):
                self.lines.append(msg)

    return Logger()
