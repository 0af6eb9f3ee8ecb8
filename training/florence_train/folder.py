"""Files of a checkpoint folder: JSON documents, and tensors from safetensors or pickle files, whole or in shards.

Knows file formats, not what they mean. A pickle is only ever opened with `weights_only=True`, which admits tensors and
never code.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from florence_edge.bundle import sha256
from florence_edge.errors import CheckpointError, first_line, listing

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
"""The model's dimensions and its weights, as both layouts call them."""

DIGESTED = (".json", ".txt", ".safetensors", ".bin")
"""Suffixes of the files that make a checkpoint what it is."""


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or raises `CheckpointError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; a checkpoint is the folder that was downloaded, whole") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds a {type(document).__name__}, expected a JSON object")
    return document


def read_optional_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or an empty one if there is no such file."""
    return read_json(path) if path.exists() else {}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, in the order of its keys."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors of a folder on the CPU, in the precision they are stored in, or raises `CheckpointError`.

    The first of `WEIGHT_FILES` that exists is read; an index file stands for the shards that it names.
    """
    for name, read in WEIGHT_FILES.items():
        path = folder / name
        if path.exists():
            return read(path)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _read_shards(index, read)
    names = ", ".join(WEIGHT_FILES)
    raise CheckpointError(f"{folder} holds no weights; expected one of {names} or their .index.json with its shards")


def digest(folder: Path) -> str:
    """SHA-256 in hex over the names and contents of a folder's settings and weights: two equal ones are one model."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in DIGESTED)
    lines = "".join(f"{sha256(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _read_shards(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} names no tensors; it must hold a weight_map of tensor to file")
    names = sorted({str(name) for name in table.values()})
    faults = [f"shard {name} is not a plain file name" for name in names if name != Path(name).name]
    faults += [f"shard {name} does not exist" for name in names if not (index.parent / name).exists()]
    if faults:
        raise CheckpointError(listing(f"{index} cannot be followed", faults))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(read(index.parent / name))
    faults = [f"{key} is not in {table[key]}" for key in table if key not in tensors]
    if faults:
        raise CheckpointError(listing(f"{index} names tensors that its shards lack", faults))
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a file of weights alone; a pickle that asks for code is never run. "
            f"Convert it to safetensors where you trust it. {first_line(error)}"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} holds something other than a table of tensors")
    return {str(key): value for key, value in tensors.items()}


WEIGHT_FILES: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
    WEIGHTS_FILE: _read_safetensors,
    "pytorch_model.bin": _read_pickle,
}
