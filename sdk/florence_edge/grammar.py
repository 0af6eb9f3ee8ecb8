"""Answers of the model as results in pixels, and results as answers.

`parse` reads the raw output of any runtime, `parse_ids` what a backend generated; both cut the answer into the same
pieces and read those, so text and ids cannot disagree. Reading is total: no answer raises, malformed spans are left out
and counted. The `format_*` functions are the inverse and write training targets. docs/grammar.md lists every difference
from the published processor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import tasks
from ._answers import format_answer, format_boxes, format_phrase_boxes, format_polygons, format_quads, format_text
from ._pieces import Speller, from_ids, from_text
from ._reading import Answer, ParseOptions, result_of
from .errors import InputError
from .geometry import AnyArray, Float32Array, Int64Array
from .locations import as_size
from .prompts import TaskInput, prompt_for
from .results import Result
from .tasks import Task
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .tokens import Tokens

__all__ = [
    "ParseOptions",
    "TaskInput",
    "format_answer",
    "format_boxes",
    "format_phrase_boxes",
    "format_polygons",
    "format_quads",
    "format_text",
    "parse",
    "parse_ids",
    "prompt_for",
]


_DEFAULTS = ParseOptions()
_ENDING = re.compile(r"</s>(?:\s|<pad>)*$")


def parse(
    task: str | Task,
    text_or_ids: str | npt.ArrayLike,
    size: Sequence[int],
    *,
    tokenizer: str | os.PathLike[str] | Tokens | None = None,
    logprobs: npt.ArrayLike | None = None,
    options: ParseOptions = _DEFAULTS,
) -> Result:
    """Reads the raw answer of any runtime (transformers, vLLM, a server) to a task.

    `text_or_ids` is the decoded text with its added tokens (`skip_special_tokens=False`; `<s>`, `</s>` and `<pad>` are
    ignored) or the token ids [T] of one answer. `size` is (width, height) of the original image. Ids with label text
    need `tokenizer`: a tokenizer.json, a folder that holds one, or `Tokens`. `logprobs` [T], natural logarithms, one
    per id, give scores; without them scores are NaN. `finish` of the result is "length" where the answer has its `<s>`
    but does not end in `</s>`; `tokens` counts the ids but for padding, and is 0 for a text.

    Never raises for an answer, however malformed; `InputError` for arguments that cannot be used.
    """
    row = task if isinstance(task, Task) else tasks.find(task, with_input=bool(options.classes))
    if not isinstance(text_or_ids, str):
        return parse_ids(row, text_or_ids, size, tokens=_speller(tokenizer), logprobs=logprobs, options=options)
    if logprobs is not None:
        raise InputError("logprobs belong to token ids; give the ids instead of their text")
    ended = _ENDING.search(text_or_ids) is not None
    finish = "length" if "<s>" in text_or_ids and not ended else "eos"
    return result_of(Answer(row, as_size(size), from_text(text_or_ids), finish, 0, options))


def parse_ids(
    task: Task,
    ids: npt.ArrayLike,
    size: Sequence[int],
    *,
    tokens: Speller,
    logprobs: npt.ArrayLike | None = None,
    finish: str | None = None,
    options: ParseOptions = _DEFAULTS,
) -> Result:
    """Reads the token ids [T] of one answer of a backend, which knows how it ended (`finish`); see `parse`."""
    array = _as_ids(ids)
    real = array[array != tokens.vocabulary.pad]
    if finish is None:
        ended = real[-1:].tolist() == [tokens.vocabulary.eos]
        finish = "length" if tokens.vocabulary.bos in real and not ended else "eos"
    pieces = from_ids(array, _as_logprobs(logprobs, len(array)), tokens)
    return result_of(Answer(task, as_size(size), pieces, finish, len(real), options))


def _as_ids(ids: npt.ArrayLike) -> Int64Array:
    array = _as_array(ids, "an answer")
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        given = f"{array.dtype} of shape {list(array.shape)}"
        raise InputError(f"an answer is a string or the whole-number token ids [T] of one sequence; got {given}")
    return array.astype(np.int64)


def _as_logprobs(logprobs: npt.ArrayLike | None, length: int) -> Float32Array:
    if logprobs is None:
        return np.full(length, np.nan, np.float32)
    array = _as_array(logprobs, "logprobs")
    if array.shape != (length,) or array.dtype.kind not in "fiu":
        raise InputError(
            f"logprobs are numbers, one per token id, [{length}]; got {array.dtype} of shape {list(array.shape)}; "
            "where the ids begin with the decoder's start token and the logprobs do not, give ids[1:]"
        )
    return array.astype(np.float32)


def _as_array(values: npt.ArrayLike, what: str) -> AnyArray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # ragged lists; tensors that are not in host memory
        raise InputError(f"{what} cannot be read as an array: {error}") from error


def _speller(tokenizer: str | os.PathLike[str] | Tokens | None) -> Speller:
    if tokenizer is None:
        return _Unspelled()
    from .tokens import Tokens, load_cached

    if isinstance(tokenizer, Tokens):
        return tokenizer
    if isinstance(tokenizer, (str, os.PathLike)):
        return load_cached(tokenizer)
    raise InputError(
        f"tokenizer is a tokenizer.json, a folder that holds one, or Tokens; got {type(tokenizer).__name__}"
    )


class _Unspelled:
    """Stands in for a tokenizer where the ids are the published ones and hold no label text."""

    vocabulary = Vocabulary()

    def decode_text(self, ids: Int64Array) -> str:
        """Always an `InputError`: there is nothing to spell text with."""
        raise InputError(
            "the answer holds label text, which only a tokenizer can spell; pass tokenizer= a tokenizer.json, a folder "
            "that holds one, or Tokens"
        )
