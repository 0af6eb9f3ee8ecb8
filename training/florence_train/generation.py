"""Generation settings of a checkpoint folder, sanitised into the SDK's `SearchConfig`.

Florence-2 only works with its own settings: without the 3-gram ban and the right ids its decoder repeats `<s>` until it
is full. Many fine-tunes lost them on the way (another model's ids, missing keys), so what is missing or impossible is
replaced and one `CheckpointWarning` lists the replacements. Values that are merely unusual are kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence_edge.errors import listing
from florence_edge.options import SearchConfig
from florence_edge.schema import decode
from florence_edge.tokens import TOKENIZER_FILE

from .folder import CONFIG_FILE, read_json, read_optional_json
from .published_config import Layout, Published, read_config
from .tokenizer import BASE_TOKENS, load_tokenizer, token_id

GENERATION_FILE = "generation_config.json"

ESSENTIAL = {"beams": "num_beams", "early_stopping": "early_stopping", "no_repeat_ngram": "no_repeat_ngram_size"}
"""Our field and its key in transformers' files, as every sound checkpoint states them."""

OPTIONAL = {
    "length_penalty": "length_penalty",
    "max_new_tokens": "max_new_tokens",
    "min_new_tokens": "min_new_tokens",
}
IDS = {
    "decoder_start": "decoder_start_token_id",
    "forced_bos": "forced_bos_token_id",
    "forced_eos": "forced_eos_token_id",
    "eos": "eos_token_id",
    "pad": "pad_token_id",
}
NULLABLE = ("forced_bos", "forced_eos")
UNSUPPORTED: Mapping[str, Any] = {
    "do_sample": False,
    "repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
"""Settings of other decoders, with the value that switches them off."""


class CheckpointWarning(UserWarning):
    """Settings of a checkpoint were replaced or ignored, because the model cannot work with them."""


def read_generation(folder: str | Path) -> SearchConfig:
    """Returns the generation settings of a checkpoint folder of either layout.

    Warns with a `CheckpointWarning` that lists everything replaced; raises `CheckpointError` if the folder is none.
    """
    folder = Path(folder)
    published = read_config(folder)
    stated = _stated(folder, published)
    notes: list[str] = []
    defaults = SearchConfig().to_dict() | _ids(folder) | {"max_new_tokens": published.config.limits.new_tokens}
    values = dict(defaults)
    for name, key in {**ESSENTIAL, **OPTIONAL}.items():
        values[name] = _choice(name, key, stated, defaults, notes)
    for name, key in IDS.items():
        values[name] = _id(name, key, stated, defaults, notes)
    values["max_new_tokens"] = min(values["max_new_tokens"], defaults["max_new_tokens"])
    values["min_new_tokens"] = min(values["min_new_tokens"], values["max_new_tokens"])
    notes += [
        f"{key} = {stated[key]!r} is not supported and ignored"
        for key, neutral in UNSUPPORTED.items()
        if stated.get(key) not in (None, neutral)
    ]
    if notes:
        warnings.warn(listing(f"generation settings of {folder}:", notes), CheckpointWarning, stacklevel=2)
    return SearchConfig(**values)


def generation_document(settings: SearchConfig) -> dict[str, Any]:
    """Returns the contents of generation_config.json with every key written: a reader takes an absent one for lost."""
    values = settings.to_dict()
    document = {key: values[name] for name, key in {**ESSENTIAL, **OPTIONAL, **IDS}.items()}
    return {**document, "bos_token_id": 0 if settings.forced_bos is None else settings.forced_bos, "do_sample": False}


def _stated(folder: Path, published: Published) -> dict[str, Any]:
    """Merges the places where a layout states its settings, the one its own code obeys last.

    Microsoft's code generates with its language model's config and never sees generation_config.json. Transformers
    does the opposite, and its config.json may hold library defaults that nobody chose, so these are not read.
    """
    generation = read_optional_json(folder / GENERATION_FILE)
    if published.layout is Layout.NATIVE:
        return generation
    document = read_json(folder / CONFIG_FILE)
    merged: dict[str, Any] = {}
    for source in (generation, document, document.get("text_config") or {}):
        merged |= {key: value for key, value in source.items() if value is not None}
    return merged


def _ids(folder: Path) -> dict[str, int]:
    """The ids that the folder's tokenizer gives the special tokens, or the published ones where it has no tokenizer."""
    if not (folder / TOKENIZER_FILE).exists():
        return {}
    tokenizer = load_tokenizer(folder)
    bos, pad, eos = (token_id(tokenizer, token) for token in BASE_TOKENS[:3])
    return {"decoder_start": eos, "forced_bos": bos, "forced_eos": eos, "eos": eos, "pad": pad}


def _choice(name: str, key: str, stated: Mapping[str, Any], defaults: Mapping[str, Any], notes: list[str]) -> Any:
    default = defaults[name]
    if stated.get(key) is None:
        if name in ESSENTIAL:
            notes.append(f"{key} is missing, set to {default!r}")
        return default
    faults: list[str] = []
    # A limit below the other one is a fault of their combination, which is settled afterwards.
    decode(SearchConfig, {**defaults, "min_new_tokens": 0, name: stated[key]}, faults=faults)
    if faults:
        notes.append(f"{key} = {stated[key]!r} is impossible, set to {default!r}")
        return default
    return stated[key]


def _id(name: str, key: str, stated: Mapping[str, Any], defaults: Mapping[str, Any], notes: list[str]) -> int | None:
    wanted: int = defaults[name]
    if key not in stated:
        if name in NULLABLE:
            notes.append(f"{key} is missing, set to {wanted}")
        return wanted
    value = stated[key]
    if value is None and name in NULLABLE:
        return None
    if value not in (wanted, [wanted]):
        notes.append(f"{key} = {value!r} contradicts the tokenizer, set to {wanted}")
    return wanted
