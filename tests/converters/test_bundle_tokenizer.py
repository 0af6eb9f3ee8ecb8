"""Tokenizers of checkpoints: every published form gives the same ids, and one that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from florence_convert.tokenizer import read_tokenizer, save_tokenizer
from florence_edge.errors import CheckpointError
from florence_edge.tokens import Tokens
from florence_edge.vocabulary import SPECIAL_TOKENS
from florence_train.tokenizer import train_tokenizer
from support.published import tokenizer_document

TEXT_TOKENS = 330
ROWS = TEXT_TOKENS + len(SPECIAL_TOKENS)


def folder_with(path: Path, document: dict[str, object]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(["a red cube left of a red ball on the table"] * 3, text_tokens=300)


@pytest.fixture(scope="module")
def from_two_files(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("checkpoint")
    trained.model.save(str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["merges.txt", "vocab.json"]
    return Tokens(read_tokenizer(folder, rows=trained.get_vocab_size()))


def test_both_layouts_give_the_same_file(tmp_path: Path) -> None:
    saved = []
    for layout in ("microsoft", "native"):
        folder = folder_with(tmp_path / layout, tokenizer_document(TEXT_TOKENS, native=layout == "native"))
        (tmp_path / layout / "out").mkdir()
        info = save_tokenizer(read_tokenizer(folder, rows=ROWS), folder / "out")
        assert (info.first_special, info.bos, info.pad, info.eos) == (TEXT_TOKENS, 0, 1, 2)
        saved.append((folder / "out" / info.file).read_bytes())
    assert saved[0] == saved[1]
    assert b"<image>" not in saved[0]


def test_all_added_tokens_are_baked_in_at_the_published_ids(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tokenizer_document(50265, native=False))
    tokens = Tokens(read_tokenizer(folder, rows=51289))
    ids = {"<od>": 50265, "<loc_0>": 50269, "<loc_999>": 51268, "<sep>": 51279, "<poly>": 51286, "<and>": 51288}
    assert tokens.encode("".join(ids)).tolist() == [0, *ids.values(), 2]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_vocabulary_and_merges_alone_give_the_same_ids(text: str, trained: Tokenizer, from_two_files: Tokens) -> None:
    expected = Tokens(Tokenizer.from_str(trained.to_str()))
    assert from_two_files.encode(text).tolist() == expected.encode(text).tolist()
    assert from_two_files.vocabulary == expected.vocabulary


def test_a_folder_without_a_tokenizer_says_what_to_copy(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"has no tokenizer; copy tokenizer\.json, or vocab\.json and merges\.txt"
    ):
        read_tokenizer(tmp_path, rows=ROWS)


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 7])
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, rows: int) -> None:
    folder = folder_with(tmp_path, tokenizer_document(TEXT_TOKENS, native=True))
    with pytest.raises(CheckpointError, match=f"has id {ROWS - 1}, but the embedding has {rows} rows"):
        read_tokenizer(folder, rows=rows)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="cannot be read as a BPE tokenizer"):
        read_tokenizer(tmp_path, rows=ROWS)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(CheckpointError, match="missing: <s>, <pad>, </s>"):
        read_tokenizer(tmp_path, rows=ROWS)
