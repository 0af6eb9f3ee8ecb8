"""`florence-edge pack`: what tar programs unpack is the bundle, byte for byte, and nothing damaged is ever packed."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from florence_convert import cli
from florence_convert.pack import left_out, pack
from florence_edge import Florence
from florence_edge.bundle import ARCHIVES, MANIFEST, PICTURE, Bundle, seal, staging, unpacking
from florence_edge.errors import BundleError, FlorenceError, InputError
from florence_edge.manifest import path_fault
from support.manifests import FILES, manifest, write_bundle

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(
    lambda name: path_fault(name) is None and name not in (*FILES, MANIFEST)
)


def by_tar(archive: Path, out: Path) -> None:
    """The program, in a shell that knows ASCII only; a warning is a failure too."""
    command = unpacking(archive)
    assert command is not None
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, shell=True, check=False, capture_output=True, cwd=out, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def by_python(archive: Path, out: Path) -> None:
    with tarfile.open(archive, encoding="utf-8") as opened:
        if hasattr(tarfile, "data_filter"):
            opened.extractall(out, filter="data")
        else:
            opened.extractall(out)


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    code: int = arguments.run(arguments)
    return code


@pytest.mark.parametrize("unpack", [by_tar, by_python])
@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("name", ["base", "räum 机器 🤖", os.fsdecode(b"no \xff utf-8"), "-x", "n" * 200])
def test_what_is_unpacked_is_the_bundle(
    tmp_path: Path, name: str, suffix: str, unpack: Callable[[Path, Path], None]
) -> None:
    bundle, there = write_bundle(tmp_path / name), tmp_path / "there"
    there.mkdir()
    shares: list[float] = []
    archive = pack(bundle.folder, tmp_path / f"a{suffix}", on_progress=shares.append)
    assert archive == tmp_path / f"a{suffix}"
    unpack(archive, there)
    assert [path.name for path in there.iterdir()] == [name]
    assert Bundle.open(there / name).manifest == bundle.manifest
    for file in (MANIFEST, *FILES):
        assert (there / name / file).read_bytes() == (bundle.folder / file).read_bytes()
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_an_unpacked_model_gives_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    by_tar(pack("tabletop", tmp_path / "a.tar.gz"), tmp_path)
    answers = []
    for source in ("tabletop", tmp_path / "tabletop"):
        with Florence.load(source, threads=1) as model:
            view = model.encode(Bundle.open("tabletop").path(PICTURE))
            answers.append([{**model.run(task, view).to_dict(), "timings_ms": 0} for task in ("<CAPTION>", "<OD>")])
    assert answers[0] == answers[1]
    assert len(answers[0][1]["labels"]) > 0


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=4), st.sampled_from(sorted(ARCHIVES)))
def test_the_same_bundle_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, more: dict[str, bytes], suffix: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    try:
        with staging(here / "b") as folder:
            for name, content in {**{name: name.encode() for name in FILES}, **more}.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            listed = seal(folder, manifest()).files
    except OSError:  # names that are too long, and `a` beside `a/b`
        reject()
    other = Path(shutil.copytree(here / "b", here / "moved" / "b", copy_function=shutil.copyfile))
    (other / "weights.bin").chmod(0o600)
    os.utime(other / "weights.bin", (1, 1))
    archives = [pack(here / "b", here / f"1{suffix}"), pack(other, here / f"2{suffix}")]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0], encoding="utf-8") as opened:
        assert opened.getnames() == [f"b/{name}" for name in [MANIFEST, *sorted(listed)]]
        assert {(member.mode, member.uid, member.uname, member.isreg()) for member in opened} == {(0o644, 0, "", True)}


def test_gzip_holds_the_plain_archive_and_neither_name_nor_time(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b").folder
    plain, small = (pack(folder, tmp_path / f"a{suffix}").read_bytes() for suffix in ARCHIVES)
    assert gzip.decompress(small) == plain
    assert small[3:8] == bytes(5)  # flags, of which a name is one, and the time: RFC 1952, 2.3


def test_a_file_that_changed_has_another_time_and_the_others_their_own(tmp_path: Path) -> None:
    """What compares sizes and times, as rsync does, sees which files of two bundles differ."""
    folder = write_bundle(tmp_path / "b").folder

    def times(name: str) -> dict[str, int | float]:
        with tarfile.open(pack(folder, tmp_path / name)) as opened:
            return {member.name: member.mtime for member in opened}

    before = times("1.tar")
    (folder / "weights.bin").write_bytes(b"Content of weights.bin")
    seal(folder, manifest())
    after = times("2.tar")
    assert {name for name in before if before[name] != after[name]} == {"b/weights.bin", f"b/{MANIFEST}"}
    assert all(315532800 <= time < 631152000 for time in after.values())  # 1980 to 1989


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_and_the_former_archive_stays(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path / "b").folder
    archive = pack(folder, tmp_path / "a.tar")
    before, content = archive.read_bytes(), bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"not as its manifest says(?s:.*){name} was altered"):
        pack(folder, archive, overwrite=True)
    assert archive.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "b"}


def test_a_bundle_that_changes_under_way_is_refused(tmp_path: Path) -> None:
    """The weights, read last, are another's at that time, and the bundle's own again when somebody looks."""
    weights = write_bundle(tmp_path / "b").folder / "weights.bin"
    own = weights.read_bytes()

    def on_progress(share: float) -> None:
        weights.write_bytes(own if share == 1 else own.upper())

    with pytest.raises(BundleError, match="changed while it was packed; run the same again"):
        pack(tmp_path / "b", tmp_path / "a.tar", on_progress=on_progress)
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_full_disk_leaves_the_former_archive(tmp_path: Path, suffix: str) -> None:
    folder, archive = write_bundle(tmp_path / "b").folder, tmp_path / f"a{suffix}"
    archive.write_bytes(b"former")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            pack(folder, archive, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert archive.read_bytes() == b"former"
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "b"}


@pytest.mark.parametrize(
    ("out", "overwrite", "said"),
    [
        ("a.tar", False, r"a\.tar is already there; choose another name, or pass overwrite"),
        ("a.zip", True, r"must end in \.tar or \.tar\.gz"),
        ("a", True, r"must end in \.tar or \.tar\.gz"),
        ("folder.tar", True, "is a folder"),
        ("b/a.tar", False, "lies in the bundle itself"),
    ],
)
def test_where_no_archive_may_go(tmp_path: Path, out: str, overwrite: bool, said: str) -> None:
    folder = write_bundle(tmp_path / "b").folder
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "a.tar").write_bytes(b"former")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=said):
        pack(folder, tmp_path / out, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a.tar").read_bytes() == b"former"


def test_only_what_the_manifest_lists_is_packed_and_links_become_files(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    (bundle.folder / "weights.bin").rename(bundle.folder / "real.bin")
    (bundle.folder / "weights.bin").symlink_to("real.bin")
    (bundle.folder / "notes").mkdir()
    (bundle.folder / "notes" / "today.txt").write_text("mine")
    assert left_out(bundle) == ["notes/today.txt", "real.bin"]
    with tarfile.open(pack(bundle.folder, tmp_path / "new" / "a.tar")) as opened:
        assert {member.name for member in opened if member.isreg()} == {f"b/{name}" for name in (MANIFEST, *FILES)}


def test_the_command_prints_what_is_needed_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, archive = write_bundle(tmp_path / "my base").folder, tmp_path / "a.tar"
    (folder / "notes.txt").write_text("mine")
    assert run("pack", folder, archive, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert printed == {
        "archive": str(archive),
        "bytes": archive.stat().st_size,
        "sha256": digest,
        "folder": "my base",
        "left_out": ["notes.txt"],
        "unpack": "tar xf a.tar",
    }
    with pytest.raises(FlorenceError, match="already there"):
        run("pack", folder, archive)
    assert run("pack", folder, archive, "--overwrite") == 0
    text = capsys.readouterr().out
    assert digest in text
    assert "Orin (sm_87), TensorRT 10.3.0" in text
    assert "notes.txt: the manifest does not list it" in text
    assert text.endswith("there: tar xf a.tar && florence-edge info './my base'\n")


@pytest.mark.parametrize(("suffix", "command"), [(".tar", "tar xf"), (".tar.gz", "tar xzf")])
def test_opening_an_archive_says_the_line_that_unpacks_it(tmp_path: Path, suffix: str, command: str) -> None:
    bundle = write_bundle(tmp_path / "b")
    archive, there = pack(bundle.folder, tmp_path / f"my base{suffix}"), tmp_path / "there"
    there.mkdir()
    with pytest.raises(BundleError, match="is a packed bundle; unpack it") as caught:
        Bundle.open(archive)
    line = str(caught.value).rpartition(": ")[2]
    assert line == f"{command} '{archive}'"
    subprocess.run(line, shell=True, check=True, cwd=there)
    assert Bundle.open(there / "b").manifest == bundle.manifest
