"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence_edge.files import write, writing


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    write(path, b"old")
    with writing(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [OSError("no space left"), ValueError("no JPEG"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "answer.json"
    write(path, b"old")

    def fail() -> None:
        with writing(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [file.name for file in tmp_path.iterdir()] == ["answer.json"]
    assert path.read_bytes() == b"old"
