"""Prompt ids against the published processor, from the task token to the ids the encoder gets."""

from __future__ import annotations

from typing import Any, cast

import pytest
from PIL import Image
from tokenizers import AddedToken
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast
from transformers.models.florence2.processing_florence2 import Florence2Processor

from florence_edge.grammar import prompt_for
from florence_edge.tasks import TASKS, InputKind, Task
from support.vocabularies import published_tokenizer, published_tokens

GIVEN: dict[InputKind, Any] = {
    InputKind.NONE: None,
    InputKind.PHRASE: " the café's left wheel ",
    InputKind.CLASSES: ["car", "the wheel"],
    InputKind.BOX: (52.4, 100, 600, 479.9),
}
UPSTREAM = {
    InputKind.NONE: "",
    InputKind.PHRASE: " the café's left wheel ",
    InputKind.CLASSES: "car<and>the wheel",
    InputKind.BOX: "<loc_81><loc_208><loc_937><loc_999>",
}


@pytest.fixture(scope="module")
def processor() -> Any:
    tokenizer = published_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False)])
    wrapped = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    images: Any = CLIPImageProcessor()
    images.image_seq_length = 3
    return Florence2Processor(images, wrapped, post_processor_config={})


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_prompt_ids(task: Task, processor: Any) -> None:
    inputs = processor(images=Image.new("RGB", (32, 32)), text=task.token + UPSTREAM[task.input])
    (expected,) = inputs["input_ids"]
    assert expected[:3] == [processor.image_token_id] * 3
    prompt = prompt_for(task, GIVEN[task.input], (640, 480))
    assert published_tokens().encode(prompt).tolist() == expected[3:]
