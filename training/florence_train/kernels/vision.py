"""The vision tower with other attention operations, over the very same weights."""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn

from florence_train.model.davit import AttentionBlock, ChannelAttention, DaViT, Size, WindowAttention

from .operations import Operations


def with_operations(vision: DaViT, operations: Operations) -> DaViT:
    """A vision tower for inference that shares every parameter with `vision`, which is not changed."""
    shared = {id(tensor): tensor for tensor in (*vision.parameters(), *vision.buffers())}
    tower = copy.deepcopy(vision, cast("dict[int, object]", shared)).eval()
    for module in tower.modules():
        if isinstance(module, AttentionBlock):
            module.attention = _replacement(module.attention, operations)
    return tower


def _replacement(attention: nn.Module, operations: Operations) -> nn.Module:
    if isinstance(attention, WindowAttention):
        return _Window(attention, operations)
    assert isinstance(attention, ChannelAttention)
    return _Channel(attention, operations)


class _Window(nn.Module):
    """`WindowAttention` with another operation between its projections."""

    def __init__(self, module: WindowAttention, operations: Operations) -> None:
        super().__init__()
        self.module, self.operations = module, operations

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`."""
        module = self.module
        context = self.operations.window_attention(
            module.qkv(tokens), module.qkv.bias, size, window=module.window, heads=module.heads
        )
        mixed: Tensor = module.proj(context)
        return mixed


class _Channel(nn.Module):
    """`ChannelAttention` with another operation between its projections."""

    def __init__(self, module: ChannelAttention, operations: Operations) -> None:
        super().__init__()
        self.module, self.operations = module, operations

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`."""
        context = self.operations.channel_attention(self.module.qkv(tokens), groups=self.module.groups)
        mixed: Tensor = self.module.proj(context)
        return mixed
