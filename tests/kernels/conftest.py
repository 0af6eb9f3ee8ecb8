"""One fixture for every implementation of the kernels, and for the tools that build them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kernels import Kernels, load, tool

IMPLEMENTATIONS = ["twin", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="session")
def twin() -> Kernels:
    return load("twin")


@pytest.fixture
def emulator() -> Iterator[Kernels]:
    """The emulator, whose order of threads a test may change."""
    kernels = load("emulated")
    yield kernels
    kernels.library.florence_emulator_schedule(0)


@pytest.fixture(scope="session")
def cuda() -> Kernels:
    return load("cuda")


@pytest.fixture(scope="session")
def nvcc() -> str:
    return tool("nvcc")


@pytest.fixture(scope="session")
def cmake() -> str:
    return tool("cmake")


@pytest.fixture(scope="session", params=IMPLEMENTATIONS[1:])
def device(request: pytest.FixtureRequest) -> Kernels:
    """What launches device code: the emulator, and the GPU where there is one."""
    return load(request.param)


@pytest.fixture(scope="session", params=IMPLEMENTATIONS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """The twins, the CUDA sources under the emulator, and the CUDA kernels where there is a GPU."""
    return load(request.param)
