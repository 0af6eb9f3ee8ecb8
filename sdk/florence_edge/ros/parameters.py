"""The parameters of the ROS node: one table, and the settings that are read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from florence_edge.errors import FlorenceError, InputError, listing
from florence_edge.options import SearchOptions

from .question import Question

RELIABILITIES = ("best_effort", "reliable")
_COUNTS = ("threads", "beams", "max_new_tokens")


@dataclass(frozen=True)
class Parameter:
    """One row: its default (which also fixes its type), what it means, and whether it may change while configured."""

    default: str | int | float | bool | list[str]
    meaning: str
    dynamic: bool = False


PARAMETERS: Mapping[str, Parameter] = {
    "bundle": Parameter("tabletop", "folder of a bundle, or the name of a bundled model"),
    "backend": Parameter("onnx", "engine that runs the bundle"),
    "threads": Parameter(0, "CPU threads of the engine, 0 for its own choice"),
    "task": Parameter("detect", "task to run on every image: a token, its name or a method of Florence", dynamic=True),
    "input": Parameter([""], "phrase, class names, or a box as x1,y1,x2,y2; empty for tasks without", dynamic=True),
    "beams": Parameter(0, "beams of the search, 1 for greedy, 0 for the bundle's own", dynamic=True),
    "max_new_tokens": Parameter(0, "limit of an answer's length, 0 for the task's own", dynamic=True),
    "compressed": Parameter(False, "subscribe to sensor_msgs/CompressedImage instead of sensor_msgs/Image"),
    "image_reliability": Parameter("best_effort", "reliability of the image subscription: best_effort or reliable"),
    "diagnostics_period": Parameter(1.0, "seconds between diagnostics"),
}
"""Every parameter of the node."""


@dataclass(frozen=True)
class Settings:
    """The parameters of a node, checked together."""

    bundle: str
    backend: str
    threads: int | None
    question: Question
    search: SearchOptions = field(default_factory=SearchOptions)
    compressed: bool = False
    image_reliability: str = "best_effort"
    diagnostics_period: float = 1.0


def read(values: Mapping[str, Any]) -> Settings:
    """Settings of parameter values; those not given have their defaults. Lists every fault in one `InputError`."""
    faults = [f"there is no parameter {name}" for name in sorted(values.keys() - PARAMETERS.keys())]
    full = {name: values.get(name, row.default) for name, row in PARAMETERS.items()}
    faults += [f"{name} is {full[name]}; it must not be negative" for name in _COUNTS if full[name] < 0]
    if full["image_reliability"] not in RELIABILITIES:
        faults.append(f"image_reliability is {full['image_reliability']!r}; it must be {' or '.join(RELIABILITIES)}")
    if not full["diagnostics_period"] > 0:
        faults.append(f"diagnostics_period is {full['diagnostics_period']}; it must be above 0")
    question = None
    try:
        question = Question.of(full["task"], full["input"])
    except FlorenceError as error:
        faults.append(str(error))
    if faults or question is None:
        raise InputError(listing("these parameters cannot be used:", faults))
    return Settings(
        bundle=full["bundle"],
        backend=full["backend"],
        threads=full["threads"] or None,
        question=question,
        search=SearchOptions(beams=full["beams"] or None, max_new_tokens=full["max_new_tokens"] or None),
        compressed=full["compressed"],
        image_reliability=full["image_reliability"],
        diagnostics_period=float(full["diagnostics_period"]),
    )
