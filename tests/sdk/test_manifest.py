"""The manifest: what is written is read back, and every fault in it is refused with a message that says where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from florence_edge.errors import BundleError
from florence_edge.manifest import FORMAT, REVISION, FileRecord, Manifest, TokenizerInfo
from florence_edge.vocabulary import Vocabulary
from support.manifests import FILES, manifest


def document() -> dict[str, Any]:
    """A valid manifest as JSON gives it."""
    values: dict[str, Any] = json.loads(manifest().to_json())
    values["files"] = {name: {"sha256": "a" * 64, "bytes": 3} for name in FILES}
    return values


def test_round_trip_through_json() -> None:
    read = Manifest.from_dict(document())
    assert Manifest.from_json(read.to_json()) == read
    assert read.files["weights.bin"] == FileRecord("a" * 64, 3)
    assert read.graphs.vision.inputs[0].shape == ("B", 3, 64, 48)
    assert read.graphs.decoder.inputs[0].shape == ()
    assert read.tokenizer.vocabulary.id_of("<od>") == 300
    assert TokenizerInfo("t.json", 300, 5, 6, 7).vocabulary == Vocabulary(first=300, bos=5, pad=6, eos=7)


def test_the_file_begins_with_format_and_revision_and_keeps_short_lists_on_a_line() -> None:
    lines = manifest().to_json().splitlines()
    assert lines[1:3] == [f'  "format": {FORMAT},', f'  "revision": {REVISION},']
    assert '          "shape": ["B", 3, 64, 48]' in lines


def set_at(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets the entry at a dotted path, or deletes it for `...`."""
    *parents, last = path.split("/")
    for key in parents:
        values = values[int(key)] if isinstance(values, list) else values[key]
    if value is ...:
        del values[last]
    else:
        values[int(last) if isinstance(values, list) else last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("more", 1, "unknown key more"),
        ("producer/host", "x", "unknown key producer.host"),
        ("source", ..., "missing key source"),
        ("source/sha256", ..., "missing key source.sha256"),
        ("precision", "fp4", "precision is 'fp4'"),
        ("image/mean", [1, 2], "image.mean"),
        ("image/std", [1, 1, 0], "above 0"),
        ("image/resample", "nearest", "resample"),
        ("image/height", 0, "height"),
        ("image/height", 96, "image is 96 x 48 (height x width), but graphs.vision takes float32 [B, 3, 64, 48]"),
        ("tokenizer/first_special", 9, "tokenizer has 1033 ids, but graphs.decoder gives float32 [B, K, 1324]"),
        ("limits/prompt_tokens", 0, "limits.prompt_tokens is 0"),
        ("limits/new_tokens", 5, "search.max_new_tokens is 127, above limits.new_tokens 5"),
        ("search/beams", 0, "beams is 0"),
        ("search/beams", ..., "missing key search.beams"),
        ("search/early_stopping", "maybe", "search.early_stopping"),
        ("graphs/vision", ..., "missing key graphs.vision"),
        ("graphs/vision/inputs", [], "graphs.vision must have inputs and outputs"),
        ("graphs/vision/inputs/0/dtype", "double", "graphs.vision.inputs[0].dtype"),
        ("graphs/vision/inputs/0/shape", ["B", 0], "sizes must be 1 or more"),
        ("graphs/decoder/outputs/0/shape", ["B", -1], "sizes must be 1 or more"),
        ("graphs/vision/inputs/0/name", "features", "graphs.vision names tensors twice: features"),
        ("graphs/vision/file", "other.onnx", "other.onnx is used but has no entry under files"),
        ("tokenizer/file", "words.json", "words.json is used but has no entry under files"),
        ("files/weights.bin/bytes", -1, "files.weights.bin.bytes is -1"),
        ("files/weights.bin/bytes", "3", "files.weights.bin.bytes is '3'"),
        ("files/weights.bin/sha256", "A" * 64, "64 lower-case hex digits"),
        ("target/sm", "8.7", "target.sm is '8.7'"),
        ("parity/max_abs_error", {"vision": None}, "parity.max_abs_error.vision is null"),
    ],
)
def test_faults_are_refused(path: str, value: Any, says: str) -> None:
    values = document()
    set_at(values, path, value)
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(values)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../weights.bin", "a/../../b", "a\\b", "C:weights.bin", "", ".", "./a", "a//b", "a/"]
)
def test_paths_that_leave_the_folder_are_refused(name: str) -> None:
    values = document()
    values["files"][name] = {"sha256": "a" * 64, "bytes": 1}
    with pytest.raises(BundleError, match="no plain relative path"):
        Manifest.from_dict(values)


def test_a_file_in_a_subfolder_is_allowed() -> None:
    values = document()
    values["files"]["engines/vision.plan"] = {"sha256": "a" * 64, "bytes": 1}
    assert "engines/vision.plan" in Manifest.from_dict(values).files


def test_several_faults_are_listed_together() -> None:
    values = document()
    values["precision"], values["producer"]["name"] = 1, None
    del values["limits"]
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(values)
    assert str(caught.value).count("\n  - ") == 3


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(BundleError, match=r"has format 2.*reads format 1.*upgrade florence-edge"):
        Manifest.from_dict({"format": 2, "revision": 0, "anything": "else"})


def test_an_older_format_asks_for_a_new_conversion() -> None:
    with pytest.raises(BundleError, match="convert its checkpoint again"):
        Manifest.from_dict({**document(), "format": 0})


def test_a_newer_revision_is_read_unless_it_says_what_this_one_does_not_know() -> None:
    newer = {**document(), "revision": REVISION + 1}
    assert Manifest.from_dict(newer).revision == REVISION + 1
    with pytest.raises(BundleError, match=rf"newer than {REVISION}: upgrade florence-edge(.|\n)*unknown key more"):
        Manifest.from_dict({**newer, "more": 1})


@pytest.mark.parametrize("values", [{}, {"format": "1", "revision": 0}, {"format": True, "revision": 0}, [], None])
def test_what_is_no_manifest_is_refused(values: Any) -> None:
    with pytest.raises(BundleError):
        Manifest.from_dict(values)


@pytest.mark.parametrize("text", ["", "{", "\x00", "[1"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="not valid JSON"):
        Manifest.from_json(text)
