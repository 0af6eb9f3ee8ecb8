"""A trained model made larger: on larger pictures at the cost of the smaller one, or with more blocks.

For larger pictures the first convolution takes larger steps, so that the grid of image tokens, and with it the cost
and every learned position, stays what it was; each token only sees more pixels. The kernel is stretched to the same
part of the picture, so that the model begins with what it knew. Blocks that are added change nothing at first: what
they add to their input begins at zero.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from florence_edge.errors import InputError

from .model import FlorenceConfig, FlorenceModel

_BRANCH_ENDS = ("conv1", "conv2", "attention.proj", "mlp.fc2")
"""The layers of an attention block whose output is added to its input."""


def enlarge(model: FlorenceModel, height: int, width: int) -> FlorenceModel:
    """The model on pictures of `height` x `width` pixels with the token grid it has; a new one, on the CPU.

    Raises `InputError` where that is not a whole multiple of the first convolution's steps.
    """
    config = _enlarged(model.config, height, width)
    kept = model.state_dict()
    larger = FlorenceModel(config)
    name = next(name for name, value in kept.items() if value.ndim == 4 and value.shape[1] == config.vision.in_channels)
    kept[name] = _stretched(kept[name], config.vision.patch_sizes[0], height / model.config.image.height)
    larger.load_state_dict(kept)
    return larger


def deepen(model: FlorenceModel, depths: tuple[int, ...]) -> FlorenceModel:
    """The model with `depths` blocks in the stages of its vision tower, new ones last; a new one, on the CPU.

    It computes what it did. Raises `InputError` where a stage would lose blocks or the number of stages differs.
    """
    had = model.config.vision.depths
    if len(depths) != len(had) or any(new < old for new, old in zip(depths, had, strict=True)):
        raise InputError(
            f"a vision tower of depths {list(had)} cannot get the depths {list(depths)}; give {len(had)} numbers, "
            "none smaller than what is there"
        )
    deeper = FlorenceModel(replace(model.config, vision=replace(model.config.vision, depths=depths)))
    kept = model.state_dict()
    for name, value in deeper.state_dict().items():
        added = name not in kept
        branch_end = any(f".{layer}." in name for layer in _BRANCH_ENDS)
        kept[name] = value * 0 if added and branch_end else value if added else kept[name]
    deeper.load_state_dict(kept)
    return deeper


def _enlarged(config: FlorenceConfig, height: int, width: int) -> FlorenceConfig:
    image, vision = config.image, config.vision
    stride, size, padding = vision.patch_strides[0], vision.patch_sizes[0], vision.patch_paddings[0]
    wanted = stride * height / image.height
    if wanted != int(wanted) or height * image.width != width * image.height or height < image.height:
        step = image.height // stride
        raise InputError(
            f"pictures of {height}x{width} (height x width) pixels cannot take the place of "
            f"{image.height}x{image.width}: the token grid would change; keep the shape and give a height that is "
            f"a larger multiple of {step}"
        )
    reach = math.ceil((size - 1) / 2 * height / image.height)
    sizes = (2 * reach + 1, *vision.patch_sizes[1:])
    paddings = (reach - ((size - 1) // 2 - padding) * int(wanted) // stride, *vision.patch_paddings[1:])
    strides = (int(wanted), *vision.patch_strides[1:])
    vision = replace(vision, patch_sizes=sizes, patch_strides=strides, patch_paddings=paddings)
    larger = replace(config, vision=vision, image=replace(image, height=height, width=width))
    if larger.vision.grid(height, width) != config.vision.grid(image.height, image.width):
        raise InputError(f"pictures of {height}x{width} (height x width) pixels change the token grid of this model")
    return larger


def _stretched(kernel: torch.Tensor, size: int, factor: float) -> torch.Tensor:
    """A kernel [O, I, k, k] over `factor` times as many pixels: [O, I, size, size], the sum of its weights kept."""
    steps = (torch.arange(size) - (size - 1) / 2) / factor / (kernel.shape[-1] / 2)
    columns, rows = torch.meshgrid(steps, steps, indexing="xy")
    places = torch.stack([columns, rows], dim=-1).expand(len(kernel), -1, -1, -1)
    stretched = F.grid_sample(kernel, places, align_corners=False)
    return stretched / factor**2
