"""Checkpoints by hub id: downloaded with huggingface_hub when there is a network, or where to copy them to by hand.

The one module that imports huggingface_hub, and only when it is asked for something that is no folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from florence_edge.errors import CheckpointError, first_line, listing, missing

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*.bin",
    "LICENSE",
    "README.md",
)
"""What is downloaded: settings, tokenizer and weights, never code."""


def locate(checkpoint: str | Path) -> tuple[Path, str]:
    """The folder of a checkpoint and the name it goes by: a folder as it is, a hub id `owner/name` after its download.

    Raises `CheckpointError` for anything else, and, without a network, with the files to copy and where to.
    """
    folder, name = Path(checkpoint).expanduser(), str(checkpoint)
    if name and folder.is_dir():
        return folder, folder.resolve().name
    if not _HUB_ID.fullmatch(name) or folder.exists():
        raise CheckpointError(f"{name!r} is neither a checkpoint folder nor a hub id (owner/name)")
    return _download(name), name


def _download(name: str) -> Path:
    """The folder of a hub checkpoint, from the local cache or the network."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    except ImportError as error:
        raise missing("huggingface_hub", extra="convert", needed_for=f"downloading {name}") from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise CheckpointError(
            f"the hub has no public checkpoint {name!r}; check the id, or log in (hf auth login) where it is private"
        ) from error
    except Exception as error:  # every HTTP client and version has its own exceptions for "no connection"
        raise CheckpointError(_by_hand(name, error)) from error


def _by_hand(name: str, error: Exception) -> str:
    """What to copy where when a download is not possible."""
    short = name.rpartition("/")[2]
    steps = [
        f"on a machine with a network: hf download {name} --local-dir {short}",
        f"or open https://huggingface.co/{name}/tree/main and save config.json, preprocessor_config.json, "
        "generation_config.json, tokenizer.json (or vocab.json and merges.txt) and model.safetensors (or "
        f"pytorch_model.bin) into a folder {short}",
        f"copy that folder here, to {Path.cwd() / short}, and run: florence-edge convert {short} OUT",
    ]
    return listing(f"{name!r} is no folder here and could not be downloaded ({first_line(error)}); instead:", steps)
