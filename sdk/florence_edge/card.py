"""What a bundle says about itself, in plain values for people and programs."""

from __future__ import annotations

import hashlib
from typing import Any

from .bundle import Bundle


def facts(bundle: Bundle) -> dict[str, Any]:
    """Source, licence, precision, image size, limits, search defaults, files, target, parity, calibration, loss."""
    manifest = bundle.manifest
    values = manifest.to_dict()
    return {
        "bundle": str(bundle.folder),
        "identity": identity(bundle),
        **{key: values[key] for key in ("format", "revision", "source", "producer", "precision", "storage")},
        "image": {"width": manifest.image.width, "height": manifest.image.height},
        **{key: values[key] for key in ("limits", "search")},
        "files": {name: record.bytes for name, record in manifest.files.items()},
        "bytes": sum(record.bytes for record in manifest.files.values()),
        **{key: values[key] for key in ("target", "parity", "calibration", "loss")},
    }


def identity(bundle: Bundle) -> str:
    """A digest over everything that can change an answer: the manifest with the hashes of all files, in hex."""
    return hashlib.sha256(bundle.manifest.to_json().encode("utf-8")).hexdigest()
