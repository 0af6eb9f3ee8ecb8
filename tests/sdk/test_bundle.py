"""Bundle folders: opening finds every damage, names resolve, writing is all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge import bundle as module
from florence_edge.bundle import MANIFEST, Bundle, bundled_names, find, seal, staging
from florence_edge.errors import BundleError, InputError
from support.manifests import FILES, manifest, write_bundle


def test_what_was_written_opens_with_its_files(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    assert set(bundle.manifest.files) == set(FILES)
    assert bundle.vision.read_text() == "content of vision.onnx"
    assert bundle.decoder == bundle.folder / "decoder.onnx"
    assert bundle.encoder == bundle.folder / "encoder.onnx"
    assert bundle.tokenizer == bundle.folder / "tokenizer.json"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert seal(bundle.folder, manifest()) == bundle.manifest


def test_a_file_the_manifest_does_not_list_has_no_path(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'secret' is no file of .*; it has: .*weights\.bin"):
        write_bundle(tmp_path / "b").path("secret")


def test_every_damaged_file_is_reported_at_once(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    (folder / "vision.onnx").unlink()
    (folder / "encoder.onnx").write_bytes(b"short")
    (folder / "decoder.onnx").write_bytes(b"Content of decoder.onnx")
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert "vision.onnx is missing" in message
    assert "encoder.onnx has 5 bytes instead of 23" in message
    assert "decoder.onnx was altered" in message
    assert "tokenizer.json" not in message


def test_one_flipped_bit_is_found_by_hashing_and_not_by_size(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    content = bytearray((folder / "weights.bin").read_bytes())
    content[3] ^= 1
    (folder / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin was altered"):
        Bundle.open(folder)
    assert Bundle.open(folder, verify="size").manifest.files


def test_an_unknown_way_to_verify_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be 'sha256' or 'size'"):
        Bundle.open(write_bundle(tmp_path / "b").folder, verify="md5")  # type: ignore[arg-type]


def test_links_may_stay_inside_but_not_leave_the_folder(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    original = folder / "weights.bin"
    original.rename(folder / "real.bin")
    original.symlink_to("real.bin")
    assert Bundle.open(folder).manifest.files
    original.unlink()
    (folder / "real.bin").rename(tmp_path / "real.bin")
    original.symlink_to(tmp_path / "real.bin")
    with pytest.raises(BundleError, match=r"weights\.bin is a link that leaves the folder"):
        Bundle.open(folder)


def test_a_bundle_behind_a_linked_folder_opens(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert Bundle.open(tmp_path / "link").folder == (tmp_path / "b").resolve()


def test_faults_in_the_manifest_name_the_folder(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    values = json.loads((folder / MANIFEST).read_text())
    values["format"] = 99
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"/b: the bundle has format 99"):
        Bundle.open(folder)
    (folder / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        Bundle.open(folder)


def test_a_bundled_name_resolves_and_a_folder_of_that_name_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets, here = tmp_path / "assets", tmp_path / "here"
    here.mkdir()
    bundled = write_bundle(assets / "tabletop").folder
    monkeypatch.setattr(module, "_ASSETS", assets)
    monkeypatch.chdir(here)
    assert bundled_names() == ("tabletop",)
    assert find("tabletop") == bundled
    (here / "tabletop").mkdir()
    assert find("tabletop") == bundled
    mine = write_bundle(here / "tabletop").folder
    assert Bundle.open("tabletop").folder == mine


def test_an_unknown_name_says_what_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "assets" / "tabletop")
    monkeypatch.setattr(module, "_ASSETS", tmp_path / "assets")
    with pytest.raises(
        BundleError, match=r"'table' is no bundle: the folder does not exist\. Give a bundle folder.*tabletop"
    ):
        Bundle.open("table")
    with pytest.raises(BundleError, match=r"the folder has no manifest\.json"):
        Bundle.open(tmp_path)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with staging(tmp_path / "b") as folder:
            (folder / "vision.onnx").write_bytes(b"x")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_overwriting_keeps_the_old_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "b", overwrite=True):
        raise KeyboardInterrupt
    assert Bundle.open(tmp_path / "b").manifest.files
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_failed_swap_puts_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_bundle(tmp_path / "b").manifest
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "b" and self.name == "b":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="disk full"):
        write_bundle(tmp_path / "b", overwrite=True)
    assert Bundle.open(tmp_path / "b").manifest == old


def test_a_bundle_that_was_never_sealed_is_not_put_in_place(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="never sealed"), staging(tmp_path / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_sealing_needs_every_file_the_manifest_uses(tmp_path: Path) -> None:
    def write_one() -> None:
        with staging(tmp_path / "b") as folder:
            (folder / "vision.onnx").write_bytes(b"x")
            seal(folder, manifest())

    with pytest.raises(BundleError, match=r"encoder\.onnx is used but has no entry"):
        write_one()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_only_replaced_when_it_may_be(tmp_path: Path) -> None:
    out = tmp_path / "b"
    out.mkdir()
    write_bundle(out)
    with pytest.raises(BundleError, match="already holds a bundle"):
        write_bundle(out)
    write_bundle(out, overwrite=True)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"x")
    with pytest.raises(BundleError, match="holds other things"):
        write_bundle(other, overwrite=True)
    assert (other / "cat.jpg").exists()
    with pytest.raises(BundleError, match="is a file"):
        write_bundle(other / "cat.jpg", overwrite=True)


def test_the_written_folder_has_the_rights_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    folder = write_bundle(tmp_path / "b").folder
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_opening_a_bundle_loads_no_framework(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    code = (
        "import sys; from florence_edge.bundle import Bundle; Bundle.open(sys.argv[1]);"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'cv2', 'tokenizers') if m in sys.modules])"
    )
    sdk = str(Path(module.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": sdk},
    )
    assert run.stdout.strip() == "[]"
