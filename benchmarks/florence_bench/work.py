"""How much arithmetic and memory traffic each stage needs, from the dimensions that a manifest states.

FLOPs are two per multiply-accumulate of matrix products and convolutions; normalisation, activation and softmax are
left out, as usual. Bytes are the least that must move: every weight once, what goes in, what comes out and the caches
read; intermediate results are taken to stay in the processor's own caches, so real traffic is higher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence_edge.manifest import Manifest

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "fp8": 1.0}
_ACTIVATION_BYTES = 4.0


@dataclass
class _Tally:
    """Adds up layers."""

    flops: float = 0.0
    weights: float = 0.0

    def linear(self, rows: float, given: float, made: float, *, times: int = 1) -> None:
        """A matrix of weights [made, given] applied to so many rows."""
        self.flops += times * 2 * rows * given * made
        self.weights += times * given * made

    def product(self, flops: float) -> None:
        """A product of activations."""
        self.flops += flops


@dataclass(frozen=True)
class Work:
    """What a stage must do at least for one image, one prompt or one decoder step."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte."""
        return self.flops / self.bytes


def stage_work(manifest: Manifest, *, prompt_tokens: int, new_tokens: int, beams: int) -> dict[str, Work] | None:
    """The work of vision, encoder (with the cross-attention keys and values) and one decoder step of all beams.

    The step is the one in the middle of an answer. None for a manifest whose model does not say its dimensions.
    """
    model = manifest.model
    if not {"vision", "text"} <= model.keys():
        return None
    height, width = manifest.image.height, manifest.image.width
    weight_bytes = WEIGHT_BYTES[manifest.precision]
    vision, cells = _vision(model["vision"], height, width)
    text = model["text"]
    dim, tokens = text["dim"], cells + 1
    vision.linear(tokens, model["vision"]["dims"][-1], dim)
    span = tokens + prompt_tokens
    encoder, step = _encoder(text, span), _decoder_step(text, span, beams, new_tokens // 2)
    cross = 2 * text["decoder_layers"] * span * dim
    own = 2 * text["decoder_layers"] * (new_tokens // 2) * dim * beams

    def work(tally: _Tally, moved: float) -> Work:
        return Work(tally.flops, tally.weights * weight_bytes + moved * _ACTIVATION_BYTES)

    return {
        "vision": work(vision, 3 * height * width + tokens * dim),
        "encoder": work(encoder, tokens * dim + cross),
        "step": work(step, cross + own + beams * text["vocab_size"]),
    }


def _vision(config: Mapping[str, Any], height: int, width: int) -> tuple[_Tally, int]:
    """DaViT (arXiv 2204.03645) with a depthwise 3x3 convolution before each attention and each MLP; also its cells.

    Windows are filled up to full size for the attention itself only; what fills them needs no projection.
    """
    tally, given, window = _Tally(), config["in_channels"], config["window"]
    per_stage = zip(
        config["dims"],
        config["depths"],
        config["groups"],
        config["patch_sizes"],
        config["patch_strides"],
        config["patch_paddings"],
        strict=True,
    )
    for dim, depth, groups, size, stride, padding in per_stage:
        height, width = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
        cells = height * width
        padded = -(-height // window) * window * (-(-width // window) * window)
        tally.linear(cells, given * size * size, dim)
        spatial, channel = padded * window**2, cells * (dim // groups)
        for scores in (spatial, channel):
            tally.linear(cells, dim, 3 * dim, times=depth)
            tally.product(depth * 2 * 2 * scores * dim)
            tally.linear(cells, dim, dim, times=depth)
            tally.linear(cells, dim, round(config["mlp_ratio"] * dim), times=2 * depth)
            tally.linear(cells, 9, dim, times=2 * depth)
        given = dim
    return tally, height * width


def _encoder(text: Mapping[str, Any], span: int) -> _Tally:
    """BART's encoder over `span` positions, and the keys and values the decoder's cross-attention needs of it."""
    tally, dim, layers = _Tally(), text["dim"], text["encoder_layers"]
    tally.linear(span, dim, dim, times=4 * layers)
    tally.product(layers * 2 * 2 * span * span * dim)
    tally.linear(span, dim, text["encoder_ffn"], times=2 * layers)
    tally.linear(span, dim, dim, times=2 * text["decoder_layers"])
    return tally


def _decoder_step(text: Mapping[str, Any], span: int, beams: int, past: int) -> _Tally:
    """One token of every beam: self-attention over `past` positions, cross-attention over `span`, the vocabulary."""
    tally, dim, layers = _Tally(), text["dim"], text["decoder_layers"]
    tally.linear(beams, dim, dim, times=6 * layers)
    tally.product(layers * 2 * 2 * beams * (past + 1 + span) * dim)
    tally.linear(beams, dim, text["decoder_ffn"], times=2 * layers)
    tally.linear(beams, dim, text["vocab_size"])
    return tally
