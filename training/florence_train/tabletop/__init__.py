"""Tabletop scenes with exact truth: rendered, described and asked about, the same for every (seed, index).

    scene = render(split_seed("train"), 7)
    for example in examples(scene, numpy.random.default_rng(7)): ...

`python -m florence_train.tabletop OUT` writes pictures, their truth and a contact sheet to look at.
"""

from __future__ import annotations

from .answers import NOTHING, Example
from .examples import examples
from .render import render
from .scene import SPLITS, PrintedLabel, Scene, SceneObject, TabletopConfig, split_seed

__all__ = [
    "NOTHING",
    "SPLITS",
    "Example",
    "PrintedLabel",
    "Scene",
    "SceneObject",
    "TabletopConfig",
    "examples",
    "render",
    "split_seed",
]
