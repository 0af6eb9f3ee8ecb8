"""The tokenizer of a checkpoint as a bundle needs it: one file, with the 1,024 task and location tokens in it.

The microsoft layout adds those tokens at run time, the native one stores them and an `<image>` placeholder besides. A
bundle has them in the published order and no placeholder; their ids must be the last rows of the embedding.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from florence_edge.errors import BundleError, CheckpointError
from florence_edge.manifest import TokenizerInfo
from florence_edge.tokens import TOKENIZER_FILE, Tokens
from florence_edge.vocabulary import SPECIAL_TOKENS
from florence_train.tokenizer import BASE_TOKENS, load_tokenizer

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
_MASK = "<mask>"


def read_tokenizer(folder: Path, *, rows: int) -> Tokenizer:
    """The tokenizer of a checkpoint folder whose model has `rows` embeddings, with all added tokens.

    Raises `CheckpointError` when there is none, or when it and the embedding do not belong together.
    """
    if (folder / TOKENIZER_FILE).is_file():
        tokenizer = load_tokenizer(folder)
    elif (folder / VOCABULARY_FILE).is_file() and (folder / MERGES_FILE).is_file():
        tokenizer = _from_vocabulary(folder)
    else:
        raise CheckpointError(
            f"{folder} has no tokenizer; copy {TOKENIZER_FILE}, or {VOCABULARY_FILE} and {MERGES_FILE}, from where the "
            "checkpoint was published"
        )
    try:
        last = Tokens(tokenizer).vocabulary.size - 1
    except BundleError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    if last + 1 != rows:
        raise CheckpointError(
            f"{folder}: the last token {SPECIAL_TOKENS[-1]} has id {last}, but the embedding has {rows} rows; the "
            "tokenizer and the weights belong to different models"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> TokenizerInfo:
    """Writes the tokenizer into a bundle folder and returns what the manifest says of it."""
    tokenizer.save(str(folder / TOKENIZER_FILE))
    return TokenizerInfo.of(TOKENIZER_FILE, Tokens.load(folder).vocabulary)


def _from_vocabulary(folder: Path) -> Tokenizer:
    """A byte-level BPE from the two files that older checkpoints carry."""
    names = (str(folder / VOCABULARY_FILE), str(folder / MERGES_FILE))
    try:
        tokenizer = Tokenizer(models.BPE.from_file(*names))
    except Exception as error:  # the library raises a bare Exception
        raise CheckpointError(f"{names[0]} and {names[1]} cannot be read as a BPE tokenizer: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = [token for token in (*BASE_TOKENS, _MASK) if tokenizer.token_to_id(token) is not None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
