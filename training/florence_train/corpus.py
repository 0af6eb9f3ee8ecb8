"""The text a tokenizer for tabletop scenes is trained on: prompts and answers of scenes, printed labels aside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from florence_edge.results import Detections, Polygons, Text
from florence_edge.tasks import find

from .tabletop import TabletopConfig, examples, render, split_seed

READING = ("<OCR>", "<OCR_WITH_REGION>", "<REGION_TO_OCR>")
"""Tasks whose answers are printed labels: random characters, of which a tokenizer should learn no pieces."""


def texts(scenes: int, *, seed: int = 0) -> Iterator[str]:
    """Prompts and answers, added tokens left out, of the first scenes of a training seed."""
    small = TabletopConfig(height=96, width=96, supersample=1, degrade=0.0)
    for index in range(scenes):
        scene = render(split_seed("train", seed), index, small)
        for example in examples(scene, np.random.default_rng([seed, index]), per_task=2):
            task = find(example.task)
            phrase = example.input if isinstance(example.input, str) else ""
            yield task.prompt.replace("{input}", phrase)
            target = example.target
            if isinstance(target, Text) and example.task not in READING:
                yield target.text
            elif isinstance(target, Detections | Polygons):
                yield from target.labels
