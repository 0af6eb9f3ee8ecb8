"""One file that carries a bundle to another machine: a plain or compressed tar, which any tar program unpacks.

The same bundle gives the same bytes, so a digest of the archive names the bundle: the manifest comes first, then the
files in the order of their names, all owned by root. A file's time follows from its hash and lies in the 1980s: were it
the same for all, rsync would take the weights of another bundle, of equal size, for those that are there already. Only
what the manifest lists is packed. A `.tar.gz` is the same for one zlib.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

from florence_edge.bundle import ARCHIVES, MANIFEST, Bundle, file_record
from florence_edge.errors import BundleError, InputError
from florence_edge.files import writing
from florence_edge.manifest import FileRecord

_EPOCH = 315532800  # 1980-01-01: some tar programs warn of a time that is 0
_TIME_DIGITS = 7  # of the hash: 2^28 seconds are 8.5 years
_LEVEL = 6  # weights hardly get smaller beyond it


def pack(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Writes a bundle folder, or a bundled model by its name, to the archive `out` and returns its path.

    `out` ends in `.tar` or `.tar.gz`; it unpacks into one folder with the name of the bundle's. `on_progress` gets the
    share that is done, from 0 to 1. Sizes and hashes of all files are checked on the way: raises `BundleError` when
    one is not as the manifest says, `InputError` when `out` cannot be used; either leaves what was at `out`.
    """
    opened = Bundle.open(bundle, verify="size")
    target = Path(out).expanduser().absolute()
    _check_target(target, opened.folder, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(target) as stream,
        _compressed(stream, target) as content,
        tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive,
    ):
        _add_all(archive, opened, on_progress)
    return target


def left_out(bundle: Bundle) -> list[str]:
    """What lies in a bundle's folder and is not packed, since the manifest does not list it; names in their order."""
    known = {MANIFEST, *bundle.manifest.files}
    names = (path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name not in known)


def _check_target(target: Path, folder: Path, *, overwrite: bool) -> None:
    """Raises `InputError` when an archive of `folder` may not be written to `target`."""
    if not target.name.endswith(tuple(ARCHIVES)):
        raise InputError(f"{target} is no name of an archive; it must end in {' or '.join(ARCHIVES)}")
    if target.resolve().is_relative_to(folder):
        raise InputError(f"{target} lies in the bundle itself; choose a place outside {folder}")
    if target.is_dir():
        raise InputError(f"{target} is a folder; choose another name")
    if target.exists() and not overwrite:
        raise InputError(f"{target} is already there; choose another name, or pass overwrite (--overwrite)")


def _compressed(stream: BinaryIO, target: Path) -> AbstractContextManager[BinaryIO | gzip.GzipFile]:
    """What the archive is written to: the stream, or gzip before it without the name and time that it puts in."""
    if target.suffix == ".gz":
        return gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=_LEVEL, mtime=0)
    return nullcontext(stream)


def _add_all(archive: tarfile.TarFile, bundle: Bundle, on_progress: Callable[[float], None]) -> None:
    """Adds the manifest and every file, and raises `BundleError` when one is altered."""
    files = {MANIFEST: file_record(bundle.folder / MANIFEST), **dict(sorted(bundle.manifest.files.items()))}
    total, done = sum(record.bytes for record in files.values()), 0

    def on_read(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done / total)

    for name, record in files.items():
        with (bundle.folder / name).open("rb") as stream:
            reader = _Reader(stream, on_read)
            archive.addfile(_member(f"{bundle.folder.name}/{name}", record), reader)
        if reader.sha256() != record.sha256:
            Bundle.open(bundle.folder)  # its error lists all that is wrong
            raise BundleError(f"{bundle.folder} changed while it was packed; run the same again")


def _member(name: str, record: FileRecord) -> tarfile.TarInfo:
    """The header of a file: root's, for all to read."""
    member = tarfile.TarInfo(name)
    member.size = record.bytes
    member.mtime = _EPOCH + int(record.sha256[:_TIME_DIGITS], 16)
    return member


class _Reader:
    """A stream that hashes what is read and tells how much it was."""

    def __init__(self, stream: BinaryIO, on_read: Callable[[int], None]) -> None:
        self._stream, self._on_read, self._digest = stream, on_read, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._digest.update(data)
        self._on_read(len(data))
        return data

    def sha256(self) -> str:
        """The hash of what was read, in lower-case hex."""
        return self._digest.hexdigest()
