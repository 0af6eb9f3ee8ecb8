"""Tokens: prompt layout, byte-exact decoding, and every fault of a tokenizer that is not Florence-2's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from florence_edge.errors import BundleError
from florence_edge.tokens import Tokens
from florence_edge.vocabulary import PUBLISHED_TEXT_VOCABULARY, SPECIAL_TOKENS, Vocabulary
from support.vocabularies import build_tokenizer, published_tokenizer, published_tokens, small_tokens

BOTH = pytest.mark.parametrize("tokens", [small_tokens(), published_tokens()], ids=["small", "published"])
CODEPOINTS = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_published_layout_begins_at_50265() -> None:
    assert published_tokens().vocabulary == Vocabulary(PUBLISHED_TEXT_VOCABULARY)
    assert published_tokens().vocabulary.size == 51289


def test_a_small_vocabulary_has_its_own_first_id() -> None:
    vocabulary = small_tokens().vocabulary
    assert vocabulary.first < 300
    assert (vocabulary.bos, vocabulary.pad, vocabulary.eos) == (0, 1, 2)


@BOTH
@pytest.mark.parametrize("prompt", ["What does the image describe?", "", "the café", " ".join(["car"] * 100)])
def test_a_prompt_is_one_bos_its_text_and_one_eos(tokens: Tokens, prompt: str) -> None:
    ids = tokens.encode(prompt)
    assert ids.dtype == np.int64
    assert (ids[0], ids[-1]) == (tokens.vocabulary.bos, tokens.vocabulary.eos)
    assert not np.isin(ids[1:-1], (0, 1, 2)).any()
    assert tokens.decode(ids) == f"<s>{prompt}</s>"


@BOTH
def test_a_location_in_a_prompt_is_one_token(tokens: Tokens) -> None:
    ids = tokens.encode("What is the region <loc_0><loc_52><loc_999><loc_7>?")
    first = tokens.vocabulary.first_location
    assert [index - first for index in ids.tolist() if index >= first] == [0, 52, 999, 7]


@BOTH
def test_every_added_token_goes_both_ways(tokens: Tokens) -> None:
    ids = tokens.encode("".join(SPECIAL_TOKENS))
    assert ids[1:-1].tolist() == list(range(tokens.vocabulary.first, tokens.vocabulary.size))
    assert tokens.decode(ids[1:-1]) == "".join(SPECIAL_TOKENS)


@given(CODEPOINTS, CODEPOINTS)
@settings(deadline=None)
def test_text_of_any_characters_survives(before: str, after: str) -> None:
    text = f"{before}<loc_5>{after}"
    assert small_tokens().decode(small_tokens().encode(text)[1:-1]) == text


def test_a_character_cut_by_an_added_token_harms_nothing_else() -> None:
    tokens = small_tokens()
    first, second = tokens.encode("汽车")[1:-1][:2].tolist()
    ids = [*tokens.encode("car")[1:-1], first, second, tokens.vocabulary.separator, *tokens.encode("é")[1:-1]]
    assert tokens.decode(ids) == "car\ufffd<sep>é"


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 1400)))
@settings(deadline=None)
def test_any_ids_decode(ids: list[int]) -> None:
    assert isinstance(small_tokens().decode(ids), str)


def test_ids_outside_the_vocabulary_spell_nothing() -> None:
    tokens = published_tokens()
    assert tokens.decode([-100, 60000, *tokens.encode("car"), 2**33]) == "<s>car</s>"


def test_a_folder_and_a_file_load(tmp_path: Path) -> None:
    published_tokenizer().save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        assert Tokens.load(path).encode("the car").tolist() == published_tokens().encode("the car").tolist()


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no tokenizer"):
        Tokens.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokens.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokens.load(tmp_path)


def test_a_plain_text_tokenizer_is_refused() -> None:
    with pytest.raises(BundleError, match=r"missing: <od>, </od>, <ocr>.* and 1016 more"):
        Tokens(build_tokenizer(special=()))


def test_all_faults_are_named_at_once() -> None:
    shuffled = [token for token in SPECIAL_TOKENS if token != "<loc_7>"]
    shuffled[10], shuffled[11] = shuffled[11], shuffled[10]
    with pytest.raises(BundleError) as caught:
        Tokens(build_tokenizer(special=tuple(shuffled[:-1])))
    message = str(caught.value)
    assert "missing: <loc_7>, <and>" in message
    assert "not in the published order" in message


@pytest.mark.parametrize("absent", ["<s>", "<pad>", "</s>"])
def test_control_tokens_must_exist(absent: str) -> None:
    document = build_tokenizer().to_str().replace(f'"{absent}"', '"<other>"')
    with pytest.raises(BundleError, match=f"missing: {absent}"):
        Tokens(Tokenizer.from_str(document))


def test_tokens_that_do_not_split_text_are_refused() -> None:
    with pytest.raises(BundleError, match="not split"):
        Tokens(build_tokenizer(extra=SPECIAL_TOKENS, special=()))
