"""Several processes, on one machine or many, that compute every step together.

Accelerate finds the processes, their devices and the way they talk (NCCL, gloo), and wraps the model for data
parallelism (DDP). Sharded, the model is given to torch's own `fully_shard` (FSDP), which Accelerate would call for GPUs
only: so what runs there is what is tested on CPUs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from florence_edge.errors import missing
from florence_train.model.bart import EncoderLayer
from florence_train.model.davit import Block
from florence_train.recipe import Sharding

from .devices import Devices

UNITS = (Block, EncoderLayer)
"""Modules whose weights are gathered one at a time. Decoder layers are not: their cross-attention is called apart."""

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: one of them measures while the others wait."""


class Processes(Devices):
    """This process among those that a launcher (torchrun, accelerate launch, Slurm) has started."""

    def __init__(self, device: str, *, shard: Sharding) -> None:
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError as error:
            raise missing("accelerate", extra="train", needed_for="training on several devices") from error
        # Which of the dense heads and frozen parts get gradients depends on the batch and the recipe.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no",  # the recipe's, and the loop's own
            kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self._shard = shard

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP, or FSDP in place: the module's parameters are then pieces (`DTensor`)."""
        if self._shard == "none":
            wrapped: nn.Module = self._accelerator.prepare_model(module)
            return wrapped
        mesh = init_device_mesh(self.device.type, (self.world,))
        module.to(self.device)
        for unit in module.modules():
            if isinstance(unit, UNITS):
                fully_shard(unit, mesh=mesh)
        fully_shard(module, mesh=mesh)
        return module

    def exchanged(self, module: nn.Module, *, now: bool) -> AbstractContextManager[Any]:
        """See `Devices`; sharded gradients are exchanged by every part, or each device would need room for all."""
        if now or self._shard != "none":
            return nullcontext()
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def total(self, values: Tensor) -> Tensor:
        """See `Devices`."""
        summed: Tensor = self._accelerator.reduce(values.to(self.device), reduction="sum")
        return summed.cpu()

    def wait(self) -> None:
        """See `Devices`."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """See `Devices`."""
        self._accelerator.end_training()
