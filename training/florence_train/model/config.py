"""Dimensions of a Florence-2 model as frozen dataclasses, with the two published sizes as rows.

Knows nothing of checkpoint layouts (`florence_train.published_config` translates those) and nothing of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from florence_edge.errors import InputError, listing
from florence_edge.manifest import Limits
from florence_edge.preprocess import ImageSpec
from florence_edge.schema import decode


@dataclass(frozen=True)
class VisionConfig:
    """DaViT: one entry per stage in every tuple (arXiv 2204.03645; Florence-2 paper, appendix C, table 15)."""

    dims: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (1, 1, 9, 1)
    heads: tuple[int, ...] = (4, 8, 16, 32)
    groups: tuple[int, ...] = (4, 8, 16, 32)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    patch_strides: tuple[int, ...] = (4, 2, 2, 2)
    patch_paddings: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorms: tuple[bool, ...] = (False, True, True, True)
    in_channels: int = 3
    window: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_path_rate: float = 0.1
    max_grid: int = 50
    max_temporal: int = 100

    def __post_init__(self) -> None:
        stages = len(self.dims)
        per_stage = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), tuple)}
        faults = [
            f"{name} has {len(row)} stages, dims has {stages}" for name, row in per_stage.items() if len(row) != stages
        ]
        if stages == 0:
            faults.append("dims must name at least one stage")
        elif self.dims[-1] % 2:
            faults.append(f"the last of dims must be even (sine and cosine halves), got {self.dims[-1]}")
        positive = ("dims", "depths", "heads", "groups", "patch_sizes", "patch_strides")
        faults += [f"{n} must be at least 1, got {per_stage[n]}" for n in positive if any(v < 1 for v in per_stage[n])]
        if not faults:
            faults += self._divisibility()
        counts = ("in_channels", "window", "max_grid", "max_temporal")
        faults += [f"{n} must be at least 1, got {getattr(self, n)}" for n in counts if getattr(self, n) < 1]
        if self.mlp_ratio <= 0:
            faults.append(f"mlp_ratio must be positive, got {self.mlp_ratio}")
        faults += _probability(self, "drop_path_rate")
        _raise("vision config", faults)

    def _divisibility(self) -> list[str]:
        parts = (("heads", self.heads), ("groups", self.groups))
        return [
            f"dims[{i}] = {dim} is not divisible by {name}[{i}] = {row[i]}"
            for name, row in parts
            for i, dim in enumerate(self.dims)
            if dim % row[i]
        ]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (rows, columns) of the feature map that an image of height x width pixels gives."""
        return self.grids(height, width)[-1]

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the (rows, columns) of the map of each stage."""
        found = []
        for size, stride, padding in zip(self.patch_sizes, self.patch_strides, self.patch_paddings, strict=True):
            height = (height + 2 * padding - size) // stride + 1
            width = (width + 2 * padding - size) // stride + 1
            found.append((height, width))
        return found


@dataclass(frozen=True)
class TextConfig:
    """BART encoder-decoder. `unused_tokens` are ids inside the vocabulary that must never be emitted."""

    vocab_size: int = 51289
    dim: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    encoder_heads: int = 12
    decoder_heads: int = 12
    encoder_ffn: int = 3072
    decoder_ffn: int = 3072
    max_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    unused_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = [f.name for f in fields(self) if f.type == "int"]
        faults = [f"{name} must be at least 1, got {getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if not faults:
            heads = (("encoder_heads", self.encoder_heads), ("decoder_heads", self.decoder_heads))
            faults += [f"dim = {self.dim} is not divisible by {name} = {n}" for name, n in heads if self.dim % n]
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            faults += _probability(self, name)
        outside = [token for token in self.unused_tokens if not 0 <= token < self.vocab_size]
        if outside:
            faults.append(f"unused_tokens outside the vocabulary of {self.vocab_size}: {outside}")
        _raise("text config", faults)

    def limits(self, image_tokens: int) -> Limits:
        """What an image of so many tokens leaves of the encoder's positions; the decoder's first is the start token's.

        An answer may have a token less than the decoder has positions, as in transformers, where the limit counts the
        start token.
        """
        return Limits(prompt_tokens=self.max_positions - image_tokens, new_tokens=self.max_positions - 1)


@dataclass(frozen=True)
class FlorenceConfig:
    """The whole model. Published checkpoints differ only in `vision` and `text`; `image` is their preprocessing."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    image: ImageSpec = field(default_factory=ImageSpec)

    def __post_init__(self) -> None:
        self.image_tokens(self.image.height, self.image.width)

    def image_tokens(self, height: int, width: int) -> int:
        """Returns the number of image tokens N (one pooled token and one per cell), or raises `InputError`.

        The limits are the position table of the vision tower and the encoder's positions, which image and prompt share.
        """
        rows, columns = self.vision.grid(height, width)
        limit, positions = self.vision.max_grid, self.text.max_positions
        faults = []
        if min(rows, columns) < 1:
            faults.append("it is too small: the feature map would be empty")
        if max(rows, columns) > limit:
            faults.append(f"its {rows}x{columns} feature map exceeds the {limit}x{limit} position table")
        if 1 + rows * columns >= positions:
            faults.append(f"its {1 + rows * columns} image tokens leave no room for a prompt in {positions} positions")
        _raise(f"an image of {height}x{width} (height x width) pixels cannot be encoded", faults)
        return 1 + rows * columns

    @property
    def limits(self) -> Limits:
        """Most tokens of a prompt and of an answer, for images of the model's own size."""
        return self.text.limits(self.image_tokens(self.image.height, self.image.width))

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlorenceConfig:
        """Builds a config from `to_dict`'s form. Absent keys take their defaults, unknown keys are an `InputError`."""
        faults: list[str] = []
        config = decode(cls, _over(cls().to_dict(), data), faults=faults)
        if config is None:
            raise InputError(listing("the model config cannot be used:", faults))
        return config


def _over(defaults: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with what it leaves out taken from `defaults`, at every depth."""
    nested = {key for key in defaults.keys() & data.keys() if isinstance(defaults[key], dict)}
    nested = {key for key in nested if isinstance(data[key], Mapping)}
    return {**defaults, **data, **{key: _over(defaults[key], data[key]) for key in nested}}


def _probability(config: object, name: str) -> list[str]:
    value = getattr(config, name)
    return [] if 0 <= value < 1 else [f"{name} must lie in [0, 1), got {value}"]


def _raise(title: str, faults: list[str]) -> None:
    if faults:
        raise InputError(listing(title, faults))


BASE = FlorenceConfig()
LARGE = FlorenceConfig(
    vision=VisionConfig(dims=(256, 512, 1024, 2048), heads=(8, 16, 32, 64), groups=(8, 16, 32, 64)),
    text=TextConfig(
        dim=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_heads=16,
        decoder_heads=16,
        encoder_ffn=4096,
        decoder_ffn=4096,
    ),
)
