"""Tokenizers of checkpoints: published ones, completed with the task and location tokens, and newly trained ones.

A Florence-2 tokenizer is a byte-level BPE that begins with `<s>`, `<pad>`, `</s>`, `<unk>` and ends with the 1,024 of
`florence_edge.vocabulary.SPECIAL_TOKENS`. The microsoft layout leaves those to its processor; the native one adds an
`<image>` placeholder behind them, which only its own processor needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from florence_edge.errors import CheckpointError
from florence_edge.tokens import TOKENIZER_FILE
from florence_edge.vocabulary import SPECIAL_TOKENS

from .folder import read_json

IMAGE_TOKEN = "<image>"
BASE_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_CODES = "(?<=[0-9A-Z])[0-9A-Z]|[0-9A-Z](?=[0-9A-Z])"


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Returns the tokenizer of a checkpoint folder with all special tokens in it and no `<image>` at its end.

    Raises `CheckpointError` if there is none or if the special tokens do not follow one another.
    """
    path = Path(folder) / TOKENIZER_FILE
    document = read_json(path)
    added = document.get("added_tokens") or []
    if added and max(added, key=_id)["content"] == IMAGE_TOKEN:
        document["added_tokens"] = [entry for entry in added if entry["content"] != IMAGE_TOKEN]
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(json.dumps(document))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    absent = [name for name in BASE_TOKENS[:3] if tokenizer.token_to_id(name) is None]
    if absent:
        raise CheckpointError(
            f"{path} lacks the tokens {', '.join(absent)}; it is not the tokenizer of a Florence-2 model"
        )
    _add_special(tokenizer)
    first = token_id(tokenizer, SPECIAL_TOKENS[0])
    astray = [name for i, name in enumerate(SPECIAL_TOKENS) if tokenizer.token_to_id(name) != first + i]
    if astray:
        raise CheckpointError(f"{path}: the special tokens must have consecutive ids, {astray[0]} does not")
    return tokenizer


def train_tokenizer(texts: Iterable[str], *, text_tokens: int) -> Tokenizer:
    """Trains a byte-level BPE of at most `text_tokens` entries on texts and adds the special tokens behind it.

    Deterministic. It has all 256 bytes, so that any text can be written; prompts come out as `<s> text </s>`. Codes of
    capitals and digits are written character by character: nothing in a small model could learn what random pairs of
    them look like.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=BASE_TOKENS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CODES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=text_tokens,
        special_tokens=list(BASE_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos = (BASE_TOKENS[i] for i in (0, 2))
    ends = [(name, token_id(tokenizer, name)) for name in (bos, eos)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=ends)
    _add_special(tokenizer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a token that the tokenizer has."""
    index = tokenizer.token_to_id(token)
    assert index is not None, token
    return index


def token_ids(tokenizer: Tokenizer) -> set[int]:
    """Returns the ids that may be generated: all that the tokenizer knows, without `<image>`."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return {index for token, index in vocabulary.items() if token != IMAGE_TOKEN}


def with_image_token(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a copy with `<image>`, which the native layout's processor puts in place of every image feature."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return copy


def _add_special(tokenizer: Tokenizer) -> None:
    absent = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in absent])


def _id(entry: dict[str, int]) -> int:
    return entry["id"]
