"""One fixture for every implementation of the kernels, and the one place where their tests are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from support.kernels import BuildUnavailableError, Kernels, load, tool

IMPLEMENTATIONS = ["twin", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


Found = TypeVar("Found")


def open_or_skip(find: Callable[[str], Found], name: str) -> Found:
    try:
        return find(name)
    except BuildUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def twin() -> Kernels:
    return open_or_skip(load, "twin")


@pytest.fixture
def emulator() -> Iterator[Kernels]:
    """The emulator, whose order of threads a test may change."""
    kernels = open_or_skip(load, "emulated")
    yield kernels
    kernels.library.florence_emulator_schedule(0)


@pytest.fixture(scope="session")
def cuda() -> Kernels:
    return open_or_skip(load, "cuda")


@pytest.fixture(scope="session")
def nvcc() -> str:
    return open_or_skip(tool, "nvcc")


@pytest.fixture(scope="session")
def cmake() -> str:
    return open_or_skip(tool, "cmake")


@pytest.fixture(scope="session", params=IMPLEMENTATIONS[1:])
def device(request: pytest.FixtureRequest) -> Kernels:
    """What launches device code: the emulator, and the GPU where there is one."""
    return open_or_skip(load, request.param)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The twins, the CUDA sources under the emulator, and the CUDA kernels where there is a GPU."""
    return open_or_skip(load, request.param)
