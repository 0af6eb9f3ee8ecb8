"""Image sizes that a model can be converted for."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.tasks import TASKS, InputKind
from florence_edge.tokens import Tokens
from florence_train.model import FlorenceConfig


def resized(config: FlorenceConfig, size: ImageSize | None, tokens: Tokens) -> FlorenceConfig:
    """The configuration for another image size (None: its own), or `InputError` with the sizes that are allowed.

    A size must fit the position tables and leave room for the longest task that takes no input.
    """
    height, width = (config.image.height, config.image.width) if size is None else (size.height, size.width)
    try:
        changed = replace(config, image=replace(config.image, height=height, width=width))
        fault = _prompt_fault(changed, tokens)
    except InputError as error:
        fault = str(error)
    if fault:
        raise InputError(f"{fault}\n{_allowed(config)}")
    return changed


def _prompt_fault(config: FlorenceConfig, tokens: Tokens) -> str | None:
    """Why the image leaves too little room, or None."""
    prompts = [task.prompt for task in TASKS if task.input is InputKind.NONE]
    needed, longest = max((len(tokens.encode(prompt)), prompt) for prompt in prompts)
    room = config.limits.prompt_tokens
    if needed <= room:
        return None
    size = f"{config.image.height}x{config.image.width} (height x width)"
    return f"images of {size} pixels leave {room} encoder positions for a prompt, but {longest!r} takes {needed}"


def _allowed(config: FlorenceConfig) -> str:
    """The sizes that fit, in words."""
    cell, cells = prod(config.vision.patch_strides), config.vision.max_grid
    square = max((side for side in range(1, cells + 1) if side * side + 1 < config.text.max_positions), default=1)
    side = square * cell
    return (
        f"allowed are sizes with at most {cells} cells of {cell} pixels along each side and fewer than "
        f"{config.text.max_positions - 1} cells in all, prompt not counted; the largest square is {side}x{side}"
    )
