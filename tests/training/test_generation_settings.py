"""Generation settings: read where each layout's own code reads them, and mended with a warning where broken."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.options import SearchConfig
from florence_train.generation import CheckpointWarning, generation_document, read_generation
from support.published import Layout, microsoft_documents, native_documents, published_config, tokenizer_document

CONFIG = published_config("tiny")
PUBLISHED = SearchConfig(max_new_tokens=CONFIG.text.max_positions - 1)


def folder_of(folder: Path, layout: Layout, changes: dict[str, Any], *, tokenizer: bool = True) -> Path:
    """Writes a checkpoint's JSON files; changes go where the layout's own code looks, None removes a key."""
    documents = microsoft_documents(CONFIG) if layout == "microsoft" else native_documents(CONFIG)
    stated = documents["config.json"]["text_config"] if layout == "microsoft" else documents["generation_config.json"]
    stated |= changes
    for key in [key for key, value in changes.items() if value is None]:
        del stated[key]
    if tokenizer:
        documents["tokenizer.json"] = tokenizer_document(300, native=layout == "native")
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("tokenizer", [True, False])
@pytest.mark.parametrize("layout", ["microsoft", "native"])
def test_published_settings_are_read_in_silence(tmp_path: Path, layout: Layout, tokenizer: bool) -> None:
    folder_of(tmp_path, layout, {}, tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation(tmp_path) == PUBLISHED


def test_each_layout_obeys_the_file_that_its_own_code_obeys(tmp_path: Path) -> None:
    """microsoft's generation_config.json says early_stopping false and its code never reads it."""
    assert microsoft_documents(CONFIG)["generation_config.json"]["early_stopping"] is False
    folder = folder_of(tmp_path, "native", {"num_beams": 5, "early_stopping": "never", "length_penalty": 0.5})
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_beams": 1, "no_repeat_ngram_size": 0}
    (folder / "config.json").write_text(json.dumps(config))
    expected = replace(PUBLISHED, beams=5, early_stopping="never", length_penalty=0.5)
    assert read_generation(folder) == expected


BROKEN: dict[str, tuple[Layout, dict[str, Any], SearchConfig, tuple[str, ...]]] = {
    "another model's ids": (
        "microsoft",
        {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0},
        PUBLISHED,
        ("eos_token_id = 1", "pad_token_id = 0", "decoder_start_token_id = 0", "set to 2", "set to 1"),
    ),
    "settings lost by another library": (
        "native",
        {"num_beams": None, "early_stopping": None, "no_repeat_ngram_size": None, "forced_bos_token_id": None},
        PUBLISHED,
        (
            "num_beams is missing, set to 3",
            "early_stopping is missing, set to True",
            "no_repeat_ngram_size is missing, set to 3",
            "forced_bos_token_id is missing, set to 0",
        ),
    ),
    "impossible values": (
        "native",
        {"num_beams": 0, "early_stopping": "soon", "no_repeat_ngram_size": -1, "length_penalty": "long"},
        PUBLISHED,
        ("num_beams = 0 is impossible", "early_stopping = 'soon'", "no_repeat_ngram_size = -1", "length_penalty"),
    ),
    "sampling": (
        "native",
        {"do_sample": True, "repetition_penalty": 1.3},
        PUBLISHED,
        ("do_sample = True is not supported and ignored", "repetition_penalty = 1.3"),
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_settings_are_mended_and_one_warning_says_how(case: str, tmp_path: Path) -> None:
    layout, changes, expected, parts = BROKEN[case]
    folder_of(tmp_path, layout, changes)
    with pytest.warns(CheckpointWarning) as caught:
        assert read_generation(tmp_path) == expected
    assert len(caught) == 1
    for part in parts:
        assert part in str(caught[0].message)


@pytest.mark.parametrize("layout", ["microsoft", "native"])
def test_unusual_but_possible_choices_are_kept(tmp_path: Path, layout: Layout) -> None:
    changes = {"num_beams": 1, "no_repeat_ngram_size": 0, "max_new_tokens": 5000, "min_new_tokens": 3}
    folder = folder_of(tmp_path, layout, {**changes, "eos_token_id": [2]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation(folder) == replace(PUBLISHED, beams=1, no_repeat_ngram=0, min_new_tokens=3)


@given(
    st.builds(
        SearchConfig,
        beams=st.integers(1, 9),
        max_new_tokens=st.integers(20, 255),
        min_new_tokens=st.integers(0, 20),
        length_penalty=st.floats(-2, 2),
        early_stopping=st.sampled_from([True, False, "never"]),
        no_repeat_ngram=st.integers(0, 5),
        forced_bos=st.sampled_from([0, None]),
        forced_eos=st.sampled_from([2, None]),
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, settings: SearchConfig) -> None:
    folder = folder_of(tmp_path_factory.mktemp("written"), "native", {}, tokenizer=False)
    (folder / "generation_config.json").write_text(json.dumps(generation_document(settings)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_generation(folder) == settings
