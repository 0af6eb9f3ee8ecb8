"""Where a run computes: one device, or one of several processes that share every step (`distributed`).

Everything else in the loop asks a `Devices` and does not know which it is.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from florence_edge.errors import InputError
from florence_train.backend import best_device
from florence_train.recipe import Sharding

AUTO = "auto"


class Devices:
    """One device, and the interface of several: `rank` of `world` processes, of which only rank 0 writes files."""

    rank, world = 0, 1

    def __init__(self, device: str = "cpu") -> None:
        try:
            self.device = torch.device(best_device() if device == AUTO else device)
        except RuntimeError as error:
            raise InputError(
                f"device is {device!r}, which torch does not know; use cpu, cuda, cuda:1 or auto"
            ) from error
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError(f"device is {device!r}, but torch finds no CUDA GPU; use cpu, or a torch built for CUDA")

    @property
    def main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on this device, such that a call of what is returned exchanges gradients between processes."""
        return module.to(self.device)

    def exchanged(self, module: nn.Module, *, now: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a part of a step: gradients need be exchanged by the last alone."""
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The sum of every process' `values`, on the CPU."""
        return values.cpu()

    def wait(self) -> None:
        """Returns when every process has come here."""

    def close(self) -> None:
        """Lets go of the other processes."""

    def any(self, flag: bool) -> bool:
        """Whether any process says so, so that all take the same turn."""
        return bool(self.total(torch.tensor([float(flag)])).item())


def open_devices(device: str = "cpu", *, shard: Sharding = "none") -> Devices:
    """The device of this process, one of several where a launcher such as torchrun has started it as one.

    `device` is a torch device or "auto", a GPU where there is one. Raises `InputError` where there is no such device,
    `DependencyError` for several processes without accelerate.
    """
    if processes() == 1:
        return Devices(device)
    from .distributed import Processes

    return Processes(best_device() if device == AUTO else device, shard=shard)


def processes() -> int:
    """The number of processes that a launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that reports."""
    return int(os.environ.get("RANK", "0")) == 0
