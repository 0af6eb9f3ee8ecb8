"""The published processor as transformers has it, less the parts that need a tokenizer's files or images."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from transformers.models.florence2 import processing_florence2

_KINDS = (
    "pure_text",
    "ocr",
    "phrase_grounding",
    "description_with_bboxes",
    "description_with_polygons",
    "polygons",
    "bboxes",
    "description_with_bboxes_or_polygons",
)


def reference_processor(banned: Iterable[str] = ()) -> Any:
    """A `Florence2Processor` that builds prompts and reads decoded answers; `banned` are the phrases not grounded."""
    kinds: dict[str, Any] = {kind: {} for kind in _KINDS}
    kinds["phrase_grounding"] = {"banned_grounding_tokens": list(banned)}
    tokenizer = SimpleNamespace(
        all_special_tokens=[], image_token="<image>", image_token_id=51289, init_kwargs={}, chat_template=None
    )

    class WithoutTokenizer(processing_florence2.Florence2Processor):
        def check_argument_for_proper_class(self, *_: Any) -> type:
            return type(None)

    return WithoutTokenizer(SimpleNamespace(image_seq_length=577), tokenizer, post_processor_config=kinds)
