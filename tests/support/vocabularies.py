"""Tokenizers to test with: a small one, and one laid out like that of the published checkpoints."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from florence_edge.tokens import Tokens
from florence_edge.vocabulary import PUBLISHED_TEXT_VOCABULARY, SPECIAL_TOKENS

_BASE = ("<s>", "<pad>", "</s>", "<unk>")
_MERGES = [("a", "r"), ("c", "ar"), ("Ġ", "c"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("o", "r"), ("Ã", "©")]


@cache
def small_tokens() -> Tokens:
    """All bytes, a few merges, then the added tokens."""
    return Tokens(build_tokenizer())


@cache
def published_tokens() -> Tokens:
    """50,265 text entries and `<mask>` among them, a RoBERTa template, added tokens from 50265, like BART's."""
    return Tokens(published_tokenizer())


def published_tokenizer() -> Tokenizer:
    """The tokenizer of `published_tokens`, anew."""
    tokenizer = build_tokenizer(text_entries=PUBLISHED_TEXT_VOCABULARY - 1, extra=("<mask>",))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=32)
    return tokenizer


def build_tokenizer(
    *, text_entries: int = 0, extra: tuple[str, ...] = (), special: tuple[str, ...] = SPECIAL_TOKENS
) -> Tokenizer:
    """A byte-level BPE filled up to `text_entries`, then the entries `extra`, then the added tokens `special`."""
    entries = [*_BASE, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in _MERGES)]
    entries += [f"filler{index}" for index in range(len(entries), text_entries)]
    vocabulary = {entry: index for index, entry in enumerate([*entries, *extra])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (*_BASE, *special)])
    return tokenizer
