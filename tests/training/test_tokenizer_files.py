"""Tokenizers: the published ids, completion of microsoft's file, and tokenizers of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast as _PreTrainedTokenizerFast

from florence_edge.errors import CheckpointError
from florence_edge.vocabulary import SPECIAL_TOKENS
from florence_train.tokenizer import load_tokenizer, token_ids, train_tokenizer, with_image_token
from support.published import BASE_TEXT_TOKENS, tokenizer_document

# As in the published checkpoints.
PUBLISHED_IDS = {
    "<s>": 0,
    "<pad>": 1,
    "</s>": 2,
    "<mask>": 50264,
    "<od>": 50265,
    "<loc_0>": 50269,
    "<loc_999>": 51268,
    "<cap>": 51269,
    "<sep>": 51279,
    "<poly>": 51286,
    "</poly>": 51287,
    "<and>": 51288,
}


@pytest.mark.parametrize("native", [False, True], ids=["microsoft", "native"])
def test_both_layouts_give_the_published_ids_and_no_image_token(tmp_path: Path, native: bool) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_document(BASE_TEXT_TOKENS, native=native)))
    tokenizer = load_tokenizer(tmp_path)
    assert {token: tokenizer.token_to_id(token) for token in PUBLISHED_IDS} == PUBLISHED_IDS
    assert tokenizer.token_to_id("<image>") is None
    assert token_ids(tokenizer) == set(range(51289))
    assert max(tokenizer.encode("<image>").ids) < 51289
    assert len(tokenizer.encode("a" * 99).ids) == 101, "the file's own truncation must be off"


def test_scattered_special_tokens_are_refused(tmp_path: Path) -> None:
    document = tokenizer_document(300, native=True)
    document["added_tokens"][-2]["content"] = "<elsewhere>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"consecutive ids, <and> does not"):
        load_tokenizer(tmp_path)


def test_a_trained_tokenizer_has_the_same_shape_and_is_deterministic() -> None:
    texts = ["a red cube left of a ball"] * 3 + ["the red ball"]
    tokenizer = train_tokenizer(texts, text_tokens=300)
    assert tokenizer.to_str() == train_tokenizer(texts, text_tokens=300).to_str()
    size = tokenizer.get_vocab_size()
    assert size <= 300 + len(SPECIAL_TOKENS)
    assert [tokenizer.token_to_id(token) for token in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(size - len(SPECIAL_TOKENS), size))
    assert with_image_token(tokenizer).token_to_id("<image>") == size
    assert tokenizer.token_to_id("<image>") is None
    encoded = tokenizer.encode("red<loc_5><loc_7>").ids
    assert (encoded[0], encoded[-1]) == (0, 2)
    assert encoded[-3:-1] == [tokenizer.token_to_id("<loc_5>"), tokenizer.token_to_id("<loc_7>")]


@given(st.text("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", min_size=2))
def test_printed_codes_are_spelt_by_character(code: str) -> None:
    tokenizer = train_tokenizer(["that reads 45 45 AB AB A cat"] * 9, text_tokens=300)
    ids = tokenizer.encode(f"that reads {code}.").ids
    assert [tokenizer.id_to_token(index) for index in ids][-len(code) - 2 : -2] == list(code)
    assert tokenizer.decode(ids) == f"that reads {code}."


TOKENIZER = train_tokenizer(["some words", "more words"], text_tokens=280)
PreTrainedTokenizerFast: Any = _PreTrainedTokenizerFast
AS_TRANSFORMERS = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER)


@given(st.text())
def test_any_text_survives_and_transformers_agrees(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert ids == AS_TRANSFORMERS(text)["input_ids"]
    if not any(token.content in text for token in TOKENIZER.get_added_tokens_decoder().values()):
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
