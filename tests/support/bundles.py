"""A small real bundle: a random checkpoint, converted, with all three graphs and every limit of a large one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "tests"
_SOURCES = (
    "converters/florence_convert/*.py",
    "converters/florence_convert/tower/*.py",
    "training/florence_train/model/*.py",
    *(f"training/florence_train/{name}.py" for name in ("backend", "checkpoint", "names", "tiny", "tokenizer")),
    "sdk/florence_edge/backends/*.py",
    *(f"sdk/florence_edge/{name}.py" for name in ("bundle", "manifest", "options", "preprocess", "schema", "search")),
)
"""What makes the bundle's files and measures its parity."""
_LIBRARIES = ("torch", "onnx", "onnxscript", "tokenizers", "numpy")


def make_tiny_bundle(folder: str | Path) -> Path:
    """Writes the bundle of a random checkpoint to `folder`: the one that the demo makes."""
    from florence_convert.demo import make

    return make(folder)


@cache
def tiny_bundle() -> Path:
    """The folder of such a bundle, which tests must not change.

    It is the one FLORENCE_TEST_BUNDLE names, where torch is missing; else it is made once and kept under `build/` until
    a source file or a library that it depends on changes, since conversion takes half a minute.
    """
    given = os.environ.get("FLORENCE_TEST_BUNDLE")
    if given:
        return Path(given)
    kept = CACHE / f"tiny-{state()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side would each convert
        if not kept.exists():
            for old in CACHE.glob("tiny-*"):
                shutil.rmtree(old)
            make_tiny_bundle(Path(scratch) / "bundle").replace(kept)
    return kept


def state() -> str:
    """A digest over everything the bundle depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in ROOT.glob(pattern)):
        digest.update(str(path).encode() + path.read_bytes())
    for name in _LIBRARIES:
        try:
            digest.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            digest.update(name.encode())
    return digest.hexdigest()[:12]
