"""Bundle folders: found by path or name, checked file by file, written atomically.

A bundle is a folder whose `manifest.json` is written last. Opening one checks that every file is there, inside the
folder and unaltered. Hashing costs about 0.6 s per GB on a server core and catches what sizes cannot: a damaged memory
card, an interrupted copy, a swapped file. It is therefore the default; `verify="size"` is for a start-up that cannot
wait.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .errors import BundleError, InputError, listing
from .files import write
from .manifest import FileRecord, Manifest

MANIFEST = "manifest.json"
PICTURE = "demo.png"
"""A bundle that holds a file of this name brings its own image to show."""
ARCHIVES = {".tar": "tar xf", ".tar.gz": "tar xzf"}
"""How the name of a packed bundle ends, and what unpacks it; BusyBox needs the `z`."""

Verify = Literal["sha256", "size"]

_ASSETS = Path(__file__).parent / "assets"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose manifest is valid and whose files were checked."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, source: str | os.PathLike[str], *, verify: Verify = "sha256") -> Bundle:
        """Opens a bundle folder, or a bundled model by its name.

        `verify` is "sha256" (sizes and hashes) or "size" (presence and sizes only). Raises `BundleError`, listing every
        file that is missing, altered or outside the folder.
        """
        if verify not in ("sha256", "size"):
            raise InputError(f"verify is {verify!r}; it must be 'sha256' or 'size'")
        folder = find(source)
        try:
            manifest = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"))
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{folder / MANIFEST} cannot be read: {error}") from error
        except RecursionError as error:
            raise BundleError(f"{folder / MANIFEST} is nested too deeply to be a manifest") from error
        faults = [
            fault for name, record in manifest.files.items() for fault in _file_faults(folder, name, record, verify)
        ]
        if faults:
            raise BundleError(listing(f"{folder} is not as its manifest says; copy or convert it again:", faults))
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """The file of that name, which the manifest must list."""
        if name not in self.manifest.files:
            raise BundleError(f"{name!r} is no file of {self.folder}; it has: {', '.join(self.manifest.files)}")
        return self.folder / name

    @property
    def tokenizer(self) -> Path:
        """The tokenizer file."""
        return self.path(self.manifest.tokenizer.file)

    @property
    def vision(self) -> Path:
        """The graph that turns pixels into features."""
        return self.path(self.manifest.graphs.vision.file)

    @property
    def encoder(self) -> Path:
        """The graph that turns features and a prompt into cross-attention keys and values."""
        return self.path(self.manifest.graphs.encoder.file)

    @property
    def decoder(self) -> Path:
        """The graph of one decoder step."""
        return self.path(self.manifest.graphs.decoder.file)


def bundled_names() -> tuple[str, ...]:
    """Names of the models that ship inside this package."""
    return tuple(sorted(path.parent.name for path in _ASSETS.glob(f"*/{MANIFEST}")))


def find(source: str | os.PathLike[str]) -> Path:
    """The folder that a path or the name of a bundled model means; a folder with a manifest wins over a name."""
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"got {source!r:.80}; give a bundle folder or the name of a bundled model as a string or path")
    try:
        folder = Path(source).expanduser()
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    except (OSError, RuntimeError) as error:  # no rights, a name that is too long, the home of nobody
        raise BundleError(f"{str(source)!r:.200} cannot be opened as a bundle: {error}") from error
    if str(source) in bundled_names():
        return _ASSETS / str(source)
    if folder.is_file() and (line := unpacking(folder)):
        raise BundleError(f"{str(source)!r} is a packed bundle; unpack it and give the folder that it holds: {line}")
    names = ", ".join(bundled_names()) or "none in this installation"
    state = f"the folder has no {MANIFEST}" if folder.is_dir() else "the folder does not exist"
    state = "it is a file" if folder.is_file() else state
    raise BundleError(
        f"{str(source)!r} is no bundle: {state}. Give a bundle folder (florence-edge convert makes one of a "
        f"checkpoint or a hub id) or the name of a bundled model: {names}"
    )


def unpacking(archive: str | os.PathLike[str]) -> str | None:
    """The command line that unpacks an archive into the working folder; None where the name is no archive's."""
    commands = (command for suffix, command in ARCHIVES.items() if str(archive).endswith(suffix))
    return next((f"{command} {shlex.quote(str(archive))}" for command in commands), None)


@contextmanager
def staging(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends, and vanishes when it raises.

    The block must call `seal` on the yielded folder, last. An existing `out` is replaced only when it is empty, or
    with `overwrite` when it is a bundle; anything else is a `BundleError` before any work is done.
    """
    target = Path(out).expanduser().absolute()
    check_target(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    folder = scratch / target.name
    folder.mkdir()
    try:
        yield folder
        if not (folder / MANIFEST).is_file():
            raise BundleError(f"{target} was not written: its manifest was never sealed")
        _replace(target, folder, kept=scratch / "replaced")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(target: Path, folder: Path, *, kept: Path) -> None:
    """Moves `folder` to `target`; what was there goes to `kept`, and back when the move fails."""
    if target.exists():
        target.rename(kept)
    try:
        folder.rename(target)
    except OSError:
        if kept.exists():
            kept.rename(target)
        raise


def check_target(out: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raises `BundleError` when a bundle may not be written to `out`."""
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise BundleError(f"{target} is a file; a bundle is a folder: choose another name")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise BundleError(f"{target} is a folder that holds other things; choose another name, or empty it first")
    if not overwrite:
        raise BundleError(f"{target} already holds a bundle; choose another name, or pass overwrite (--overwrite)")


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Writes `manifest.json` with the size and hash of every file that lies in `folder`; returns what was written."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    records = {path.relative_to(folder).as_posix(): file_record(path) for path in paths}
    complete = Manifest.from_dict(replace(manifest, files=records).to_dict())
    write(folder / MANIFEST, complete.to_json().encode("utf-8"))
    return complete


def file_record(path: Path) -> FileRecord:
    """Hash and size of a file as it is now."""
    return FileRecord(sha256=sha256(path), bytes=path.stat().st_size)


def sha256(path: Path) -> str:
    """SHA-256 of a file in lower-case hex, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _file_faults(folder: Path, name: str, record: FileRecord, verify: Verify) -> Iterator[str]:
    """How a file of a bundle differs from its record."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"{name} is a link that leaves the folder; put the file itself there (cp -L)"
        elif not path.is_file():
            yield f"{name} is missing"
        elif (size := path.stat().st_size) != record.bytes:
            yield f"{name} has {size} bytes instead of {record.bytes}"
        elif verify == "sha256" and sha256(path) != record.sha256:
            yield f"{name} was altered: its SHA-256 is not the manifest's"
    except (OSError, RuntimeError) as error:  # unreadable, a name that is too long, a link to itself
        yield f"{name} cannot be read: {error}"
