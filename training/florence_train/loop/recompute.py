"""Gradient checkpointing: the activations inside a block are computed again when its gradients are."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from florence_train.model.bart import DecoderLayer, EncoderLayer
from florence_train.model.davit import Block

BLOCKS = (Block, EncoderLayer, DecoderLayer)


def recompute(model: nn.Module) -> None:
    """Makes every block of the model keep no more than its input; dropout is drawn the same both times."""
    for module in model.modules():
        if isinstance(module, BLOCKS):
            # On the instance: neither a subclass nor a wrapper, so names, types and other methods stay what they are.
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
