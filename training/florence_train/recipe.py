"""A training run written down: one TOML file, read into frozen dataclasses; unknown keys are errors.

The recipe and a hash of it go into the checkpoint, so that a set of weights says how it was made. What each key means
is said here and in docs/training.md.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from florence_edge.errors import InputError, listing
from florence_edge.schema import decode
from florence_edge.tasks import find

from .data.augment import AugmentRecipe
from .data.load import OnFault
from .model.config import FlorenceConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Precision = Literal["fp32", "bf16", "fp16"]
Sharding = Literal["none", "full"]


LATER = {"later": True}
"""Marks a key that recipes did not always have: at its default it stays out of the digest, which saved states name."""

ASIDE = {"aside": True}
"""Marks what never goes into the digest: a run may go on with other values of it."""


def _check(*rules: tuple[str, bool]) -> None:
    faults = [rule for rule, holds in rules if not holds]
    if faults:
        raise InputError("; ".join(faults))


def _check_weights(weights: Mapping[str, float]) -> None:
    for task in weights:
        find(task)
    _check(
        ("weights must be 0 or more", min(weights.values(), default=0) >= 0),
        ("weights must name a task with a weight above 0", any(weights.values())),
    )


@dataclass(frozen=True)
class Stage:
    """One stage of a curriculum, from step `from_step` on.

    Scenes are rendered with these `TabletopConfig` values. `prompts_per_image` takes the place of the recipe's own;
    with 0 the images alone are learnt, through the dense loss, at less than half the cost. `weights`, where given, take
    the place of the recipe's.
    """

    from_step: int
    scene: Mapping[str, Any] = field(default_factory=dict)
    prompts_per_image: int | None = field(default=None, metadata=LATER)
    weights: Mapping[str, float] = field(default_factory=dict, metadata=LATER)

    def __post_init__(self) -> None:
        if self.weights:
            _check_weights(self.weights)


@dataclass(frozen=True)
class DataRecipe:
    """Where samples come from and how a step draws them.

    `source` is "tabletop" (rendered as training goes) or annotated data as `florence-edge validate` takes it, with its
    images in the folder `images` (empty: beside the annotations). `weights` maps upstream task tokens to relative
    frequencies; a task that is not named is not drawn. `images_per_step` counts the images of all devices together.
    `faults` says whether data with faults is refused ("raise") or left out ("skip").
    """

    weights: Mapping[str, float]
    source: str = "tabletop"
    seed: int = 0
    images_per_step: int = 16
    prompts_per_image: int = 4
    workers: int = 1
    stages: tuple[Stage, ...] = ()
    images: str = field(default="", metadata=LATER)
    faults: OnFault = field(default="raise", metadata=LATER)
    augment: AugmentRecipe | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        _check_weights(self.weights)
        _check(
            ("images_per_step must be 1 or more", self.images_per_step >= 1),
            ("prompts_per_image must be 1 or more", self.prompts_per_image >= 1),
            ("workers must be 0 or more", self.workers >= 0),
        )


@dataclass(frozen=True)
class TokenizerRecipe:
    """A tokenizer trained for a model that starts from nothing: `text_tokens` entries, from the text of `scenes`."""

    text_tokens: int = 700
    scenes: int = 2000


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with a linear warm-up and a cosine to `final_fraction` of the learning rate over `steps`.

    `clip` limits the norm of the gradient. `ema` is the decay of the averaged weights that are kept in the end (0: the
    last ones). `freeze` names parts of the model that stay as they are, such as "vision" or "encoder.layers.0".
    """

    steps: int
    learning_rate: float = 1e-3
    final_fraction: float = 0.02
    warmup_steps: int = 500
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(
            ("steps must be 1 or more", self.steps >= 1),
            ("learning_rate must be above 0", self.learning_rate > 0),
            ("final_fraction must be 0 to 1", 0 <= self.final_fraction <= 1),
            ("warmup_steps must be 0 or more", self.warmup_steps >= 0),
            ("weight_decay must be 0 or more", self.weight_decay >= 0),
            ("clip must be above 0", self.clip > 0),
            ("ema must be 0 or more and below 1", 0 <= self.ema < 1),
        )


@dataclass(frozen=True)
class LossRecipe:
    """`location_sigma` in bins goes from its first to its second value along the run; `dense` weighs the dense loss."""

    location_sigma: tuple[float, float] = (0.0, 0.0)
    label_smoothing: float = 0.0
    dense: float = 0.0

    def __post_init__(self) -> None:
        _check(
            ("location_sigma must be 0 or more", min(self.location_sigma) >= 0),
            ("label_smoothing must be 0 or more and below 1", 0 <= self.label_smoothing < 1),
            ("dense must be 0 or more", self.dense >= 0),
        )


@dataclass(frozen=True)
class OutputRecipe:
    """How often the state is saved, how often a line is logged, in steps; `tensorboard` also writes events for it."""

    save_every: int = 500
    log_every: int = 50
    tensorboard: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        _check(
            ("save_every must be 1 or more", self.save_every >= 1),
            ("log_every must be 1 or more", self.log_every >= 1),
        )


@dataclass(frozen=True)
class ComputeRecipe:
    """How a step is computed; but for rounding, none of this changes what it computes, nor what run it is.

    `precision` of the products ("bf16" and "fp16" keep fp32 weights, "fp16" scales the loss). `accumulate` splits the
    images of a step into so many parts, one after the other, and `recompute` computes every block's activations again
    in the backward pass instead of keeping them: both trade time for memory. `shard` "full" spreads weights, gradients
    and the optimizer's state over several devices (FSDP); with "none" each has all of them (DDP).
    """

    precision: Precision = "fp32"
    accumulate: int = 1
    recompute: bool = False
    shard: Sharding = "none"

    def __post_init__(self) -> None:
        _check(("accumulate must be 1 or more", self.accumulate >= 1))


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters (arXiv 2106.09685) are trained instead of the model, and merged into it in the end.

    Linear layers whose name is or ends in one of `targets` get two matrices of `rank`, their product scaled by
    `alpha` / `rank`, behind a dropout. A longer target, such as "decoder.layers.0.self_attention.query", chooses one.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("query", "key", "value", "out", "fc1", "fc2", "qkv", "proj")

    def __post_init__(self) -> None:
        _check(
            ("rank must be 1 or more", self.rank >= 1),
            ("alpha must be above 0", self.alpha > 0),
            ("dropout must be 0 or more and below 1", 0 <= self.dropout < 1),
            ("targets must name a layer", bool(self.targets)),
        )


@dataclass(frozen=True)
class ValidationRecipe:
    """A measurement every so many steps on data that is not trained on; the best weights are kept.

    The data is `data` (as `DataRecipe.source`; "tabletop" renders other scenes than training), or a `share` of the
    training images. `metric` is "loss" or a metric of `florence-edge eval` with its task, such as "<OD> mAP", asked
    about the first `images` with so many `beams`. After `patience` measurements without improvement training ends (0:
    never).
    """

    every: int
    data: str = ""
    share: float = 0.0
    metric: str = "loss"
    images: int = 200
    beams: int = 1
    patience: int = 0

    def __post_init__(self) -> None:
        _check(
            ("every must be 1 or more", self.every >= 1),
            ("either data or a share above 0 and below 1 must be given", bool(self.data) != (0 < self.share < 1)),
            ("images must be 1 or more", self.images >= 1),
            ("beams must be 1 or more", self.beams >= 1),
            ("patience must be 0 or more", self.patience >= 0),
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes. `start` is a checkpoint folder, or empty to start from nothing.

    `enlarge` gives the model that a run starts from larger pictures, height and width in pixels, at the cost of its
    own, and `deepen` the number of blocks in each stage of its vision tower (see `florence_train.enlarge`).
    """

    data: DataRecipe
    optimizer: OptimizerRecipe
    start: str = ""
    model: FlorenceConfig = field(default_factory=FlorenceConfig)
    loss: LossRecipe = field(default_factory=LossRecipe)
    output: OutputRecipe = field(default_factory=OutputRecipe)
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    compute: ComputeRecipe = field(default=ComputeRecipe(), metadata=ASIDE)
    enlarge: tuple[int, int] | None = field(default=None, metadata=LATER)
    deepen: tuple[int, ...] | None = field(default=None, metadata=LATER)
    lora: LoraRecipe | None = field(default=None, metadata=LATER)
    validation: ValidationRecipe | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        _check(
            ("enlarge needs start, the checkpoint of the model to enlarge", not self.enlarge or bool(self.start)),
            ("deepen needs start, the checkpoint of the model to deepen", not self.deepen or bool(self.start)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of what the recipe computes: not of the file's layout, [compute], or later keys that are not used."""
        return hashlib.sha256(json.dumps(_stated(self), sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path) -> Recipe:
    """Reads a TOML recipe; `InputError` lists every unknown or missing key and every value that cannot be."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}; give the path of a TOML file, see training/recipes/") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    faults: list[str] = []
    recipe = decode(Recipe, _complete(Recipe, values), faults=faults)
    if recipe is None:
        raise InputError(listing(f"recipe {path} cannot be used:", faults))
    return recipe


def _complete(hint: Any, value: Any) -> Any:
    """`value` with the defaults of every key it leaves out, at every depth."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)]
    if kinds and isinstance(value, list):
        return [_complete(kinds[0], entry) for entry in value]
    if not kinds or not isinstance(value, Mapping):
        return value
    hints = get_type_hints(kinds[0])
    defaults: dict[str, Any] = {}
    for item in fields(kinds[0]):
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if default is not MISSING:
            defaults[item.name] = (
                asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
            )
    return defaults | {key: _complete(hints.get(key), entry) for key, entry in value.items()}


def _stated(value: Any) -> Any:
    """Plain values of a recipe without the later keys that are at their defaults."""
    if is_dataclass(value):
        return {item.name: _stated(getattr(value, item.name)) for item in fields(value) if _counts(item, value)}
    if isinstance(value, Mapping):
        return {key: _stated(entry) for key, entry in value.items()}
    return [_stated(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _counts(item: Field[Any], recipe: Any) -> bool:
    """Whether a key belongs to the digest."""
    if item.metadata == LATER:
        return bool(getattr(recipe, item.name) != item.default)
    return item.metadata != ASIDE
