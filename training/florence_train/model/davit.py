"""DaViT, the vision tower: alternating window attention and channel attention over four stages (arXiv 2204.03645).

The two attentions are module-level functions of the qkv tensor, so that a kernel can take their place without the
modules knowing. Feature maps travel as tokens `[B, H * W, C]` with their `(H, W)` beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VisionConfig
from .layers import MLP, DropPath, LayerNorm, attend, softmax

Size = tuple[int, int]


def window_attention(qkv: Tensor, bias: Tensor | None, size: Size, *, window: int, heads: int) -> Tensor:
    """Self-attention inside non-overlapping windows: qkv `[B, H * W, 3 * C]` -> context `[B, H * W, C]`.

    The last axis of qkv is (q, k, v) x head x channel, its bias already added. Grids that are not a multiple of
    `window` are filled up at the right and the bottom with tokens that were zero before the qkv projection: their qkv
    is the projection's `bias` `[3 * C]` (None: zero), and they take part in the softmax, as in the published model.
    """
    batch, channels = qkv.shape[0], qkv.shape[-1] // 3
    rows, columns = -(-size[0] // window), -(-size[1] // window)
    grid = _fill(qkv.reshape(batch, *size, -1), bias, (rows * window, columns * window))
    tiles = grid.reshape(batch, rows, window, columns, window, 3, heads, channels // heads)
    tiles = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, window * window, channels // heads)
    context = attend(tiles[0], tiles[1], tiles[2])
    context = context.reshape(batch, rows, columns, heads, window, window, channels // heads)
    context = context.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, rows * window, columns * window, channels)
    return context[:, : size[0], : size[1]].flatten(1, 2)


def channel_attention(qkv: Tensor, *, groups: int) -> Tensor:
    """Self-attention between the channels of each group: qkv `[B, N, 3 * C]` -> context `[B, N, C]`.

    Queries and keys are whole channels, N tokens long, so the scale is N ** -0.5. It is applied before the product: the
    sum over all tokens of an image would overflow fp16 otherwise.
    """
    batch, tokens, _ = qkv.shape
    query, key, value = qkv.reshape(batch, tokens, 3, groups, -1).permute(2, 0, 3, 4, 1).unbind(0)
    weights = softmax((query * tokens**-0.5) @ key.transpose(-2, -1))
    return (weights @ value).permute(0, 3, 1, 2).flatten(2)


def _fill(grid: Tensor, bias: Tensor | None, size: Size) -> Tensor:
    """Extends grid `[B, H, W, 3 * C]` to `size` with bias rows at the right and the bottom."""
    height, width = grid.shape[1], grid.shape[2]
    if (height, width) == size:
        return grid
    padding = (0, 0, 0, size[1] - width, 0, size[0] - height)
    filled = F.pad(grid, padding)
    if bias is None:
        return filled
    outside = F.pad(torch.zeros_like(grid[:1, :, :, :1]), padding, value=1.0)
    return filled + outside * bias


class WindowAttention(nn.Module):
    """Projections around `window_attention`."""

    def __init__(self, dim: int, heads: int, *, window: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`."""
        context = window_attention(self.qkv(tokens), self.qkv.bias, size, window=self.window, heads=self.heads)
        mixed: Tensor = self.proj(context)
        return mixed


class ChannelAttention(nn.Module):
    """Projections around `channel_attention`."""

    def __init__(self, dim: int, groups: int, *, bias: bool) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`; the size is not needed, channels see every token."""
        mixed: Tensor = self.proj(channel_attention(self.qkv(tokens), groups=self.groups))
        return mixed


class DepthwiseConv(nn.Conv2d):
    """3x3 convolution of each channel by itself, the position information of DaViT; keeps the size."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)


class AttentionBlock(nn.Module):
    """Depthwise convolution, attention, depthwise convolution, MLP; each added to its input, the latter norms first."""

    def __init__(self, dim: int, attention: nn.Module, *, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv(dim)
        self.norm1 = LayerNorm(dim)
        self.attention = attention
        self.conv2 = DepthwiseConv(dim)
        self.norm2 = LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`."""
        tokens = tokens + _on_map(self.conv1, tokens, size)
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens), size))
        tokens = tokens + _on_map(self.conv2, tokens, size)
        branch: Tensor = self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens + branch


def _on_map(convolution: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    """Applies a convolution that keeps the size to tokens `[B, H * W, C]`."""
    batch, _, channels = tokens.shape
    mapped: Tensor = convolution(tokens.transpose(1, 2).reshape(batch, channels, *size))
    return mapped.flatten(2).transpose(1, 2)


class PatchEmbed(nn.Module):
    """Strided convolution into the next stage, with the LayerNorm before (`prenorm`) or after it."""

    def __init__(self, config: VisionConfig, stage: int) -> None:
        super().__init__()
        source = config.dims[stage - 1] if stage else config.in_channels
        self.prenorm = config.patch_prenorms[stage]
        self.conv = nn.Conv2d(
            source,
            config.dims[stage],
            config.patch_sizes[stage],
            stride=config.patch_strides[stage],
            padding=config.patch_paddings[stage],
        )
        self.norm = LayerNorm(source if self.prenorm else config.dims[stage])

    def forward(self, image: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        if self.prenorm:
            image = self.norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        image = self.conv(image)
        return image if self.prenorm else self.norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """One DaViT block: attention over space, then over channels."""

    def __init__(self, config: VisionConfig, stage: int, *, drop_paths: tuple[float, float]) -> None:
        super().__init__()
        dim, bias = config.dims[stage], config.qkv_bias
        spatial = WindowAttention(dim, config.heads[stage], window=config.window, bias=bias)
        channel = ChannelAttention(dim, config.groups[stage], bias=bias)
        self.spatial = AttentionBlock(dim, spatial, mlp_ratio=config.mlp_ratio, drop_path=drop_paths[0])
        self.channel = AttentionBlock(dim, channel, mlp_ratio=config.mlp_ratio, drop_path=drop_paths[1])

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """`[B, H * W, C]` -> `[B, H * W, C]`."""
        mixed: Tensor = self.channel(self.spatial(tokens, size), size)
        return mixed


class Stage(nn.Module):
    """Patch embedding and the blocks of one resolution."""

    def __init__(self, config: VisionConfig, stage: int, *, drop_paths: list[float]) -> None:
        super().__init__()
        self.embed = PatchEmbed(config, stage)
        self.blocks = nn.ModuleList(
            Block(config, stage, drop_paths=(drop_paths[2 * i], drop_paths[2 * i + 1]))
            for i in range(config.depths[stage])
        )

    def forward(self, image: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, C', H', W']`."""
        image = self.embed(image)
        size = (image.shape[2], image.shape[3])
        tokens = image.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, size)
        return tokens.transpose(1, 2).reshape(image.shape)


class DaViT(nn.Module):
    """The vision tower. Drop-path rates grow linearly from 0 to `drop_path_rate` over all attention blocks."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path_rate, 2 * sum(config.depths), device="cpu").tolist()
        starts = [2 * sum(config.depths[:stage]) for stage in range(len(config.depths) + 1)]
        self.stages = nn.ModuleList(
            Stage(config, stage, drop_paths=rates[starts[stage] : starts[stage + 1]])
            for stage in range(len(config.depths))
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, 3, H, W]` -> feature map `[B, dims[-1], h, w]` with (h, w) = `VisionConfig.grid(H, W)`."""
        for stage in self.stages:
            pixels = stage(pixels)
        return pixels
