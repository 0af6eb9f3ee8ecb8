"""Checkpoints by hub id: what is asked of the hub, and what a user without a network is told. None uses a network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import huggingface_hub
import pytest

from florence_convert.hub import FILES, locate
from florence_edge.errors import CheckpointError, DependencyError


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert locate(folder) == (folder, "my-model")
    assert locate(str(folder)) == (folder, "my-model")


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    folder, name = locate("owner/name")
    assert folder.resolve() == tmp_path / "owner" / "name"
    assert name == "name"


def test_a_hub_id_is_downloaded_without_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("florence-community/Florence-2-base") == (tmp_path, "florence-community/Florence-2-base")
    assert asked == {"name": "florence-community/Florence-2-base", "patterns": list(FILES)}
    assert not any(pattern.endswith(".py") or pattern == "*" for pattern in FILES)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_user_is_told_what_to_copy_where(
    offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        locate("microsoft/Florence-2-base")
    message = str(caught.value)
    assert "could not be downloaded" in message
    for wanted in (
        "hf download microsoft/Florence-2-base --local-dir Florence-2-base",
        "https://huggingface.co/microsoft/Florence-2-base/tree/main",
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        str(tmp_path / "Florence-2-base"),
        "florence-edge convert Florence-2-base OUT",
    ):
        assert wanted in message, wanted


def test_a_checkpoint_that_the_hub_does_not_have_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **options: object) -> NoReturn:
        response = SimpleNamespace(headers={}, request=None)  # its type depends on the library's HTTP client
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match="the hub has no public checkpoint 'owner/absent'"):
        locate("owner/absent")


def test_without_the_library_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"pip install 'florence-edge\[convert\]'"):
        locate("owner/name")


@pytest.mark.parametrize("text", ["nothing-here", "a/b/c", "./absent/folder", "owner/name with space", ""])
def test_what_is_neither_folder_nor_id_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="neither a checkpoint folder nor a hub id"):
        locate(text)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="neither a checkpoint folder nor a hub id"):
        locate(file)
