"""Device memory for the kernel tests, from torch: the one place that says whether a GPU test can run here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from support.kernels import tool

Array = npt.NDArray[Any]


class CudaMemory:
    """Byte tensors on the GPU by their address, alive until released."""

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch finds no CUDA GPU on this machine")
        tool("nvcc")
        self._torch = torch
        self._tensors: dict[int, Any] = {}

    def upload(self, array: Array) -> int:
        tensor = self._torch.from_numpy(array.reshape(-1).view(np.uint8)).cuda()
        self._tensors[tensor.data_ptr()] = tensor
        return int(tensor.data_ptr())

    def download(self, address: int, array: Array) -> None:
        array.reshape(-1).view(np.uint8)[:] = self._tensors[address].cpu().numpy()

    def synchronize(self) -> None:
        self._torch.cuda.synchronize()

    def release(self, address: int) -> None:
        del self._tensors[address]
