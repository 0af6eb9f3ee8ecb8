"""A training run written down: one TOML file, read into frozen dataclasses; unknown keys are errors.

The recipe and a hash of it go into the checkpoint, so that a set of weights says how it was made.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from florence_edge.errors import InputError, listing

from .model.config import FlorenceConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Stage:
    """One stage of a curriculum: from step `from_step` on, scenes are rendered with these `TabletopConfig` values."""

    from_step: int
    scene: Mapping[str, Any]


@dataclass(frozen=True)
class DataRecipe:
    """Where samples come from and how a step draws them.

    `source` is "tabletop" (rendered as training goes) or annotated data as `florence-edge validate` takes it. `weights`
    maps upstream task tokens to relative frequencies; a task that is not named is not drawn.
    """

    weights: Mapping[str, float]
    source: str = "tabletop"
    seed: int = 0
    images_per_step: int = 16
    prompts_per_image: int = 4
    workers: int = 1
    stages: tuple[Stage, ...] = ()


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


@dataclass(frozen=True)
class LossRecipe:
    """`location_sigma` in bins goes from its first to its second value along the run; `dense` weighs the dense loss."""

    location_sigma: tuple[float, float] = (0.0, 0.0)
    label_smoothing: float = 0.0
    dense: float = 0.0


@dataclass(frozen=True)
class OutputRecipe:
    """How often the state is saved, how often a line is logged, in steps."""

    save_every: int = 500
    log_every: int = 50


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes. `start` is a checkpoint folder, or empty to start from nothing."""

    data: DataRecipe
    optimizer: OptimizerRecipe
    start: str = ""
    model: FlorenceConfig = field(default_factory=FlorenceConfig)
    loss: LossRecipe = field(default_factory=LossRecipe)
    output: OutputRecipe = field(default_factory=OutputRecipe)
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of the recipe, independent of the file's layout."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path) -> Recipe:
    """Reads a TOML recipe; `InputError` lists every unknown or missing key."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}; give the path of a TOML file, see training/recipes/") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    faults: list[str] = []
    recipe: Recipe | None = _build(Recipe, values, "", faults)
    if recipe is None or faults:
        raise InputError(listing(f"recipe {path} cannot be used:", faults))
    return recipe


def _build(cls: Any, values: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    """An instance of a recipe dataclass from a TOML table, or None with what is wrong added to `faults`."""
    if cls is FlorenceConfig:
        try:
            return FlorenceConfig.from_dict(values)
        except InputError as error:
            faults.append(str(error))
            return FlorenceConfig()
    hints = get_type_hints(cls)
    faults += [f"unknown key {path}{key}; known are: {', '.join(hints)}" for key in values if key not in hints]
    arguments: dict[str, Any] = {}
    for key in hints.keys() & values.keys():
        arguments[key] = _value(hints[key], values[key], f"{path}{key}", faults)
    required = [item.name for item in fields(cls) if item.name not in arguments and _is_required(item)]
    faults += [f"missing key {path}{name}" for name in required]
    return None if required else cls(**arguments)


def _value(hint: Any, value: Any, path: str, faults: list[str]) -> Any:
    """One value of a table: a nested table, an array of tables, an array or a scalar."""
    if is_dataclass(hint):
        return _build(hint, value, f"{path}.", faults) if isinstance(hint, type) else value
    if not isinstance(value, list):
        return value
    inner = get_args(hint)
    if inner and is_dataclass(inner[0]) and isinstance(inner[0], type):
        return tuple(_build(inner[0], entry, f"{path}[{index}].", faults) for index, entry in enumerate(value))
    return tuple(value)


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING
