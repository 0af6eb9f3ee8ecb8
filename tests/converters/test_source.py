"""What a bundle keeps of its checkpoint: a digest that any change alters, the licence, the papers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from florence_convert.source import copy_papers, describe
from support.engines import tiny_engines


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engines().checkpoint, tmp_path / "checkpoint"))


def test_any_change_of_settings_or_weights_changes_the_digest(checkpoint: Path) -> None:
    before = describe(checkpoint, "name")
    assert (before.name, before.layout, before.licence) == ("name", "native", None)
    (checkpoint / "notes.md").write_text("not part of the model")
    assert describe(checkpoint, "name") == before
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        path = checkpoint / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert describe(checkpoint, "name").sha256 != before.sha256
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model", "mit"),
        ("---\ntags: [a]\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ("---\ntags: [a]\n---\nlicense: not here\n", None),
        ("license: mit", None),
        ("", None),
    ],
)
def test_the_licence_is_what_the_card_states_in_its_front_matter(
    checkpoint: Path, card: str, licence: str | None
) -> None:
    (checkpoint / "README.md").write_text(card)
    assert describe(checkpoint, "name").licence == licence


def test_licence_and_card_go_along(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    copy_papers(checkpoint, out)
    assert list(out.iterdir()) == []
    (checkpoint / "LICENSE").write_text("MIT License")
    (checkpoint / "README.md").write_text("# Model")
    copy_papers(checkpoint, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"LICENSE": "MIT License", "README.md": "# Model"}
