"""transformers' own Florence-2 and its `generate`, in fp32 and as `from_pretrained` gives it, unused ids barred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from florence_edge.errors import missing
from florence_edge.images import load_image
from florence_edge.options import SearchConfig
from florence_edge.preprocess import to_pixels

from . import Job, Question


class TransformersContender:
    """A checkpoint folder in the native layout; `prepare` may change the loaded model."""

    def __init__(self, job: Job, prepare: Callable[[Any], None] | None = None) -> None:
        try:
            import torch
            from transformers import Florence2ForConditionalGeneration
        except ImportError as error:
            raise missing("transformers", extra="rivals", needed_for="this rival") from error
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self._torch: Any = torch
        model: Any = Florence2ForConditionalGeneration.from_pretrained(job.folder, dtype=torch.float32)
        self._model: Any = model.eval()
        bar(torch, model.lm_head, job)
        self._spec, self._image_tokens = job.image, job.image_tokens
        if prepare is not None:
            prepare(self._model)

    def answer(self, image: bytes, questions: Sequence[Question], search: SearchConfig) -> list[list[int]]:
        """See `Contender.answer`. `generate` takes pixels, so every question pays for the vision tower again."""
        torch = self._torch
        pixels = torch.from_numpy(to_pixels(load_image(image), self._spec))
        placeholder = [self._model.config.image_token_id] * self._image_tokens
        answers = []
        for question in questions:
            given = torch.tensor([[*placeholder, *question.prompt_ids]])
            with torch.inference_mode():
                made = self._model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    pixel_values=pixels,
                    **generation_settings(search),
                )
            answers.append(made[0, 1:].tolist())
        return answers

    def close(self) -> None:
        """Lets go of the weights."""
        self._model = None


def bar(torch: Any, head: Any, job: Job) -> None:
    """Keeps ids that belong to no token from being emitted, by a bias on the output layer.

    `suppress_tokens` would act after beam search has taken the log-softmax, so that scores would still hold the share
    of those ids; and it searches its list for every id of the vocabulary at every step.
    """
    barred = [*job.unused, *range(job.vocabulary, head.out_features)]
    if barred:
        bias = torch.zeros(head.out_features)
        bias[barred] = -torch.inf
        head.bias = torch.nn.Parameter(bias, requires_grad=False)


def generation_settings(search: SearchConfig) -> dict[str, Any]:
    """The same search in transformers' words."""
    settings: dict[str, Any] = {
        "do_sample": False,
        "num_beams": search.beams,
        "max_new_tokens": search.max_new_tokens,
        "min_new_tokens": search.min_new_tokens,
        "no_repeat_ngram_size": search.no_repeat_ngram,
        "decoder_start_token_id": search.decoder_start,
        "forced_bos_token_id": search.forced_bos,
        "forced_eos_token_id": search.forced_eos,
        "eos_token_id": search.eos,
        "pad_token_id": search.pad,
    }
    if search.beams > 1:
        settings |= {"early_stopping": search.early_stopping, "length_penalty": search.length_penalty}
    return settings


def open_contender(job: Job) -> TransformersContender:
    """Loads the checkpoint."""
    return TransformersContender(job)
