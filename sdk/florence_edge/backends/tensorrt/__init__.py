"""The tensorrt backend: engines that `florence-edge build` made on this machine, and a search that stays on the GPU.

Written against NVIDIA's published sources and proven over a double of their surface; it has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from florence_edge.bundle import Bundle
from florence_edge.errors import InputError

if TYPE_CHECKING:
    from .backend import TensorRTBackend


def open_backend(
    bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> TensorRTBackend:
    """Opens a bundle of engines; the registry's way in."""
    from .backend import TensorRTBackend
    from .libraries import platform

    for name, value in (("threads", threads), ("providers", providers)):
        if value is not None:
            raise InputError(f"{name} is {value!r}; the tensorrt backend has no use for it: leave it out")
    return TensorRTBackend(bundle, platform())


def probe() -> str:
    """Versions of TensorRT and of the kernels found; `DependencyError` where something is missing."""
    from .libraries import platform

    found = platform()
    return f"TensorRT {found.tensorrt.__version__}, CUDA driver {found.driver.get_driver_version()}"
