"""Checkpoint folders: reading both published layouts into a `FlorenceModel`, writing the native one.

Vocabulary. Published embeddings have rows that belong to no token: the native layout adds an `<image>` placeholder and
pads to a multiple of 64. A loaded model has exactly the rows up to the last real token, so that the rest can never be
generated and both layouts of one model load to equal weights; ids inside that range without a token (an `<image>` that
other tokens follow) are `TextConfig.unused_tokens` and have their logits suppressed. What is real is what the
folder's tokenizer knows; without a tokenizer, everything before `<image>`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from florence_edge.errors import CheckpointError, InputError
from florence_edge.options import SearchConfig
from florence_edge.tokens import TOKENIZER_FILE

from .folder import CONFIG_FILE, WEIGHTS_FILE, read_weights, write_json
from .generation import GENERATION_FILE, generation_document
from .model import FlorenceConfig, FlorenceModel
from .names import EMBEDDING, MICROSOFT, NATIVE, rename, restore
from .published_config import Layout, Published, native_documents, read_config
from .tokenizer import BASE_TOKENS, IMAGE_TOKEN, load_tokenizer, token_id, token_ids, with_image_token

TABLES = {Layout.MICROSOFT: MICROSOFT, Layout.NATIVE: NATIVE}
METADATA_FILE = "metadata.json"


def load_checkpoint(folder: str | Path) -> tuple[FlorenceModel, FlorenceConfig]:
    """Reads a checkpoint folder of either layout; the model is fp32, on the CPU and in eval mode.

    Raises `CheckpointError` that lists every missing, unknown and misshapen tensor at once.
    """
    folder = Path(folder)
    published = read_config(folder)
    with torch.device("meta"):
        expected = FlorenceModel(published.config).state_dict()
    weights = rename(read_weights(folder), TABLES[published.layout], expected)
    config = _trimmed(folder, published)
    weights[EMBEDDING] = weights[EMBEDDING][: config.text.vocab_size].clone()
    with torch.device("meta"):
        model = FlorenceModel(config)
    model.load_state_dict(weights, assign=True)
    return model.eval(), config


def save_checkpoint(
    model: FlorenceModel,
    config: FlorenceConfig,
    folder: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    generation: SearchConfig | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the native layout in fp32, which `transformers` and `load_checkpoint` read; all of it or nothing.

    An existing folder is replaced. `generation` defaults to the published settings; `metadata` (anything JSON can hold)
    goes to metadata.json. `<image>` gets the row behind the last token: the mean of all others, as in published files.
    """
    folder = Path(folder)
    rows, image_token = _native_rows(config, tokenizer)
    documents = native_documents(config, rows=rows, image_token=image_token)
    documents[GENERATION_FILE] = generation_document(generation or SearchConfig())
    if metadata is not None:
        documents[METADATA_FILE] = dict(metadata)
    weights = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    if rows > config.text.vocab_size:
        weights[EMBEDDING] = torch.cat([weights[EMBEDDING], weights[EMBEDDING].mean(dim=0, keepdim=True)])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        _write(fresh, documents, weights, tokenizer)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        fresh.rename(folder)


def _write(
    folder: Path, documents: Mapping[str, Mapping[str, Any]], weights: dict[str, Tensor], tokenizer: Tokenizer | None
) -> None:
    save_file(restore(weights, NATIVE), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    if tokenizer is not None:
        with_image_token(tokenizer).save(str(folder / TOKENIZER_FILE))
        positions = documents[CONFIG_FILE]["text_config"]["max_position_embeddings"]
        write_json(folder / "tokenizer_config.json", _tokenizer_document(positions))
    for name, document in documents.items():
        write_json(folder / name, document)
    # safetensors makes its file private to the user; a model is as readable as the files beside it.
    shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)


def _tokenizer_document(positions: int) -> dict[str, Any]:
    bos, pad, eos, unknown = BASE_TOKENS
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "pad_token": pad,
        "eos_token": eos,
        "unk_token": unknown,
        "cls_token": bos,
        "sep_token": eos,
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
    }


def _trimmed(folder: Path, published: Published) -> FlorenceConfig:
    """Returns the config whose vocabulary ends with the last real token."""
    text = published.config.text
    if (folder / TOKENIZER_FILE).exists():
        real = token_ids(load_tokenizer(folder))
    else:
        real = set(range(text.vocab_size if published.image_token is None else published.image_token))
    size = max(real) + 1
    if size > text.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {size - 1}, the embedding only {text.vocab_size} rows; "
            "they belong to different models"
        )
    unused = tuple(sorted(set(range(size)) - real))
    return replace(published.config, text=replace(text, vocab_size=size, unused_tokens=unused))


def _native_rows(config: FlorenceConfig, tokenizer: Tokenizer | None) -> tuple[int, int]:
    """Returns the rows of the saved embedding and the id of `<image>`; `InputError` if the tokenizer is another's."""
    size, unused = config.text.vocab_size, config.text.unused_tokens
    if tokenizer is None:
        if unused:
            raise InputError("a model with unused_tokens can only be saved with its tokenizer, which tells them apart")
        return size + 1, size
    known = token_ids(tokenizer)
    if known != set(range(size)) - set(unused):
        raise InputError(
            f"the tokenizer has {len(known)} tokens with ids up to {max(known)}, the model {size - len(unused)} with "
            f"ids up to {size - 1}; give the tokenizer that the model was made for"
        )
    image_token = token_id(with_image_token(tokenizer), IMAGE_TOKEN)
    return max(size, image_token + 1), image_token
