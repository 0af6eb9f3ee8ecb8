"""What NVIDIA's Python bindings and pycuda define, as recorded from their sources in `nvidia_names.txt`."""

from __future__ import annotations

from pathlib import Path

_RECORD = Path(__file__).with_suffix(".txt")


def recorded(section: str) -> set[str]:
    """The names of "tensorrt" or "pycuda"."""
    found: dict[str, set[str]] = {}
    for line in _RECORD.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            names = found.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            names.update(line.split())
    return found[section]
