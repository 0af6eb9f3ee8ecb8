"""The Florence-2 model in plain torch: `FlorenceModel(config)` and its configuration."""

from .bart import CrossCache, SelfCache
from .config import BASE, LARGE, FlorenceConfig, TextConfig, VisionConfig
from .florence import FlorenceModel, StepOutput

__all__ = [
    "BASE",
    "LARGE",
    "CrossCache",
    "FlorenceConfig",
    "FlorenceModel",
    "SelfCache",
    "StepOutput",
    "TextConfig",
    "VisionConfig",
]
