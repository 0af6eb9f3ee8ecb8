"""Every kernel at the sizes of a model, beside the torch composition that it replaces and the least it must move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from florence_edge.options import SearchConfig
from florence_train.kernels import operators
from florence_train.kernels.operations import KERNELS, TORCH, Operations
from florence_train.kernels.search_state import SearchPlan, SearchState
from florence_train.model import FlorenceConfig

from .timing import Ceilings, Clock, Work, second_level_cache

MOST_COPIES, LEAST_COPIES = 64, 4
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Setting:
    """Where and in which precision, and the search: one image, `beams` beams, `tokens` new tokens.

    `frame` is the size of a camera's picture, height before width.
    """

    config: FlorenceConfig
    device: torch.device
    dtype: torch.dtype
    beams: int
    tokens: int
    frame: tuple[int, int] = (1080, 1920)

    def noise(self, *shape: int) -> Tensor:
        """Normal deviates of the setting's precision."""
        return torch.randn(shape, device=self.device).to(self.dtype)

    def state(self, position: int) -> SearchState:
        """A search that stands at a position; every beam reads the history of beam 0."""
        settings = SearchConfig(beams=self.beams, max_new_tokens=self.tokens, min_new_tokens=self.tokens)
        plan = SearchPlan.of(1, self.config.text.vocab_size, settings)
        state = SearchState.allocate(plan, self.device)
        KERNELS.beam_begin(state)
        state.position.fill_(position)
        return state

    @property
    def item(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize


@dataclass(frozen=True)
class Case:
    """`make(operations)` puts one piece of work on tensors of its own; `size` bytes and `flops` are its least."""

    name: str
    make: Callable[[Operations], Work]
    size: float
    flops: float = 0


def measure(case: Case, clock: Clock, best: Ceilings) -> dict[str, Any]:
    """Kernel, composition and floor in microseconds."""
    wanted = math.ceil(2 * second_level_cache(clock.device) / case.size)
    copies = min(max(wanted, LEAST_COPIES), MOST_COPIES) if clock.device.type == "cuda" else 1
    found = {}
    for operations in (KERNELS, TORCH):
        works = [case.make(operations) for _ in range(copies)]
        found[operations.name] = clock.recorded(works)
    floor = best.floor_us(case.size, case.flops)
    kernel, composition = found["kernels"], found["torch"]
    return {
        "name": case.name,
        "kernel_us": asdict(kernel),
        "torch_us": asdict(composition),
        "speedup": composition.median / kernel.median,
        "floor_us": floor,
        "over_floor": kernel.median / floor,
    }


def cases(setting: Setting) -> Iterator[Case]:
    """All kernels, in the order in which an answer needs them."""
    yield _resize(setting)
    vision = setting.config.vision
    height, width = setting.config.image.height, setting.config.image.width
    for stage, channels in enumerate(vision.dims):
        height, width = _down(setting, stage, (height, width))
        yield _windows(setting, stage, (height, width), channels)
        yield _channels(setting, stage, height * width, channels)
    for position in sorted({min(32, setting.tokens - 1), setting.tokens - 1}):
        yield _self_attention(setting, position)
    yield _cross_attention(setting)
    yield _beam_step(setting)


def _down(setting: Setting, stage: int, size: tuple[int, int]) -> tuple[int, int]:
    vision = setting.config.vision
    kernel, stride, padding = (row[stage] for row in (vision.patch_sizes, vision.patch_strides, vision.patch_paddings))
    return (size[0] + 2 * padding - kernel) // stride + 1, (size[1] + 2 * padding - kernel) // stride + 1


def _resize(setting: Setting) -> Case:
    image = setting.config.image
    size, mean, std = (image.height, image.width), list(image.mean), list(image.std)

    def make(operations: Operations) -> Work:
        frame = torch.randint(0, 256, (*setting.frame, 3), dtype=torch.uint8, device=setting.device)
        if operations is KERNELS:
            return partial(operators.resize_normalize, frame, size, mean, std, False)
        shift, scale = (torch.tensor(row, device=setting.device)[:, None, None] for row in (mean, std))

        def compose() -> None:
            pixels = frame.permute(2, 0, 1)[None].float()
            (F.interpolate(pixels, size, mode="bicubic", antialias=True)[0] / 255 - shift).div_(scale)

        return compose

    return Case(
        f"resize {setting.frame[1]}x{setting.frame[0]}", make, 3 * math.prod(setting.frame) + 12 * math.prod(size)
    )


def _windows(setting: Setting, stage: int, size: tuple[int, int], channels: int) -> Case:
    vision, tokens = setting.config.vision, math.prod(size)

    def make(operations: Operations) -> Work:
        qkv, bias = setting.noise(1, tokens, 3 * channels), setting.noise(3 * channels)
        attend = operations.window_attention
        return partial(attend, qkv, bias, size, window=vision.window, heads=vision.heads[stage])

    flops = 4.0 * tokens * vision.window**2 * channels
    return Case(f"window attention {size[0]}x{size[1]}x{channels}", make, 4 * tokens * channels * setting.item, flops)


def _channels(setting: Setting, stage: int, tokens: int, channels: int) -> Case:
    groups = setting.config.vision.groups[stage]

    def make(operations: Operations) -> Work:
        return partial(operations.channel_attention, setting.noise(1, tokens, 3 * channels), groups=groups)

    flops = 4.0 * tokens * channels * channels / groups
    return Case(f"channel attention {tokens}x{channels}", make, 4 * tokens * channels * setting.item, flops)


def _self_attention(setting: Setting, position: int) -> Case:
    text = setting.config.text
    heads, head_dim = text.decoder_heads, text.dim // text.decoder_heads

    def make(operations: Operations) -> Work:
        state, qkv = setting.state(position), setting.noise(setting.beams, 3 * text.dim)
        shape = (1, setting.beams, heads, state.plan.max_length, head_dim)
        return partial(operations.self_attention, qkv, setting.noise(*shape), setting.noise(*shape), state)

    size = 2 * setting.beams * (position + 1) * text.dim * setting.item
    return Case(f"self-attention at {position}", make, size)


def _cross_attention(setting: Setting) -> Case:
    text, image = setting.config.text, setting.config.image
    heads, head_dim = text.decoder_heads, text.dim // text.decoder_heads
    source = setting.config.image_tokens(image.height, image.width) + PROMPT_TOKENS
    lengths = torch.full((1,), source, dtype=torch.int32, device=setting.device)

    def make(operations: Operations) -> Work:
        shape, query = (1, heads, source, head_dim), setting.noise(setting.beams, text.dim)
        keys, values = setting.noise(*shape), setting.noise(*shape)
        return partial(operations.cross_attention, query, keys, values, lengths, setting.state(0))

    return Case(f"cross-attention over {source}", make, 2 * source * text.dim * setting.item)


def _beam_step(setting: Setting) -> Case:
    vocabulary = setting.config.text.vocab_size

    def make(operations: Operations) -> Work:
        state, logits = setting.state(0), setting.noise(setting.beams, vocabulary)

        def step() -> None:
            # Every round stands at the same position, so that no search ever ends.
            state.position.fill_(1)
            operations.beam_step(logits, state)

        return step

    return Case(f"beam step over {vocabulary}", make, setting.beams * vocabulary * setting.item)
