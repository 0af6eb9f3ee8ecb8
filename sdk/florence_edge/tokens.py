"""Text and token ids: the one module that knows the `tokenizers` library.

A tokenizer.json holds a text vocabulary with `<s>`, `<pad>` and `</s>` and, behind it, the 1,024 task and location
tokens with consecutive ids in the published order. Its template and its truncation and padding settings are not used:
prompts have one layout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ._pieces import CONTROL, CONTROL_TOKENS, TEXT, segments
from .errors import BundleError, listing
from .geometry import Int64Array
from .vocabulary import SPECIAL_TOKENS, Vocabulary

TOKENIZER_FILE = "tokenizer.json"
_LARGEST_ID = 2**32 - 1  # what the library can be asked for; it skips ids that it does not know
_SHOWN = 8


class Tokens:
    """A tokenizer whose vocabulary has been checked; raises `BundleError` with every fault found.

    The tokenizer given is taken over: its truncation and padding are switched off.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._vocabulary = _checked_vocabulary(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokens:
        """Reads a tokenizer.json, or the one in a bundle or checkpoint folder."""
        file = _file(path)
        if not file.is_file():
            raise BundleError(f"there is no tokenizer at {file}; give a {TOKENIZER_FILE} or a folder that holds one")
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises a bare Exception
            raise BundleError(f"{file} is not a tokenizer that the tokenizers library can read: {error}") from error
        return cls(tokenizer)

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that the output grammar knows."""
        return self._vocabulary

    def encode(self, prompt: str) -> Int64Array:
        """Token ids [T] int64 of `<s> prompt </s>`; added tokens in the prompt become one id each."""
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        return np.asarray([self.vocabulary.bos, *ids, self.vocabulary.eos], np.int64)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of token ids, added tokens kept; a character spelled by several tokens comes out whole.

        Ids outside the vocabulary spell nothing.
        """
        array = np.asarray(ids, np.int64)
        return "".join(
            self.decode_text(array[start:stop])
            if kind == TEXT
            else "".join([self._name(index, kind) for index in array[start:stop].tolist()])
            for kind, start, stop in segments(array, self.vocabulary)
        )

    def decode_text(self, ids: Int64Array) -> str:
        """The text of a run of text tokens [n]."""
        known = ids[(ids >= 0) & (ids <= _LARGEST_ID)]
        text: str = self._tokenizer.decode(known.tolist(), skip_special_tokens=False)
        return text

    def _name(self, index: int, kind: int) -> str:
        if kind != CONTROL:
            return SPECIAL_TOKENS[index - self.vocabulary.first]
        vocabulary = self.vocabulary
        return dict(zip((vocabulary.bos, vocabulary.pad, vocabulary.eos), CONTROL_TOKENS, strict=True))[index]


def load_cached(path: str | os.PathLike[str]) -> Tokens:
    """`Tokens.load`, but a file is read once, not once per call, until it changes."""
    file = _file(path).resolve()
    return _load(file, file.stat().st_mtime_ns if file.exists() else 0)


@lru_cache(maxsize=4)
def _load(file: Path, _modified: int) -> Tokens:
    return Tokens.load(file)


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path) / TOKENIZER_FILE if Path(path).is_dir() else Path(path)


def _checked_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The ids the grammar needs, once all of them are as the published models have them."""
    ids = {token: tokenizer.token_to_id(token) for token in (*CONTROL_TOKENS, *SPECIAL_TOKENS)}
    absent = [token for token, index in ids.items() if index is None]
    known = {token: index for token, index in ids.items() if index is not None}
    starts = {token: known[token] - place for place, token in enumerate(SPECIAL_TOKENS) if token in known}
    first = next(iter(starts.values()), 0)
    moved = [f"{token} (id {known[token]})" for token, start in starts.items() if start != first]
    encoded = tokenizer.encode("".join(starts), add_special_tokens=False).ids
    faults = [
        text
        for wrong, text in (
            (absent, f"missing: {_shortened(absent)}"),
            (moved, f"not in the published order behind id {first}: {_shortened(moved)}"),
            (
                encoded != [known[token] for token in starts],
                "text is not split at the tokens: they must be added tokens, not entries of the text vocabulary",
            ),
        )
        if wrong
    ]
    if faults:
        title = (
            "the tokenizer is not one of Florence-2, whose text vocabulary is followed by 1,024 task and location "
            "tokens (`florence-edge convert` adds them to a checkpoint's)"
        )
        raise BundleError(listing(title, faults))
    return Vocabulary(first, *(known[token] for token in CONTROL_TOKENS))


def _shortened(names: Sequence[str]) -> str:
    """The names, or the first few and how many more there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
