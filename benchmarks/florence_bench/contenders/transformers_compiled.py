"""transformers with `torch.compile`: the vision tower and the decoder, which together are nearly all of the time.

The decoder is compiled for changing lengths, as its cache grows with every token.
"""

from __future__ import annotations

from typing import Any

from . import Job
from .transformers_eager import TransformersContender


def open_contender(job: Job) -> TransformersContender:
    """Loads the checkpoint; what is compiled is compiled at the first answer."""
    return TransformersContender(job, _compile)


def _compile(model: Any) -> None:
    model.model.vision_tower.compile(dynamic=False)
    model.model.language_model.decoder.compile(dynamic=True)
