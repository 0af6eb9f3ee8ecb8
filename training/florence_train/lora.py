"""Low-rank adapters through peft: put into a model before training, merged into its weights afterwards.

The model keeps its class and its methods; only linear layers are exchanged for ones that add their adapter.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from florence_edge.errors import InputError, missing

from .model import FlorenceModel
from .recipe import LoraRecipe

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "adapter"
_PREFIX = "base_model.model."  # how peft's files name the model that an adapter belongs to


def add_adapters(model: FlorenceModel, recipe: LoraRecipe, *, seed: int) -> None:
    """Puts adapters into the model, which begin as no change at all; nothing else is trained from now on.

    Raises `InputError` for a target that no linear layer has, `DependencyError` without peft.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    unknown = [target for target in recipe.targets if not any(_matches(name, target) for name in layers)]
    if unknown:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise InputError(f"lora.targets: no linear layer is called {', '.join(unknown)}; their names end in {known}")
    peft = _peft()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(_config(recipe), model)


def merged(model: FlorenceModel) -> FlorenceModel:
    """A copy of the model with its adapters merged into the weights: a plain model of the same answers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain.requires_grad_(True)


def save_adapter(model: FlorenceModel, folder: Path, *, recipe: LoraRecipe, base: str) -> None:
    """Writes the adapters alone in peft's format; `base` names the checkpoint that they belong to."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _peft().get_peft_model_state_dict(model)
    file = folder / "adapter_model.safetensors"
    save_file({_PREFIX + name: value.contiguous() for name, value in weights.items()}, file, metadata={"format": "pt"})
    config = _config(recipe)
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))


def _config(recipe: LoraRecipe) -> LoraConfig:
    config: LoraConfig = _peft().LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
    )
    return config


def _matches(name: str, target: str) -> bool:
    """Whether peft takes a layer for a target."""
    return name == target or name.endswith(f".{target}")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise missing("peft", extra="lora", needed_for="[lora] of a recipe") from error
    return peft
