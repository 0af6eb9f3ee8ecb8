"""The state of a run as one file, the same whatever computed it: one device, several, or several with a shard each.

Tensors are whole in the file. What is frozen is not in it: that stands in the checkpoint the run started from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from florence_edge.files import writing

STATE = "state.pt"


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model's state that training changes: all but frozen parameters."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def whole(value: Any) -> Any:
    """`value` with every sharded tensor in it gathered, on the CPU; every process must ask at once."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, Mapping):
        return {key: whole(entry) for key, entry in value.items()}
    return [whole(entry) for entry in value] if isinstance(value, list) else value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is: on its device, and sharded as it is."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    # Every process has read the whole tensor and takes its own piece of it: there is nothing to send.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def restore_model(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Loads what `learnt` gave (older states hold frozen parameters too); absent entries are an error of torch's."""
    present = model.state_dict()
    model.load_state_dict({name: placed(values[name], present[name]) for name in learnt(model)}, strict=False)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads an optimizer's state dict; moments are placed as their parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries = {
        index: {
            key: placed(value, parameters[index]) if value.shape == parameters[index].shape else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": entries})


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes atomically: a kill at any moment leaves the old file or the new one."""
    with writing(path) as stream:
        torch.save(dict(state), stream)
