"""A model to label with: a bundle on any engine, or a checkpoint as training left it."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from florence_edge import __version__
from florence_edge.bundle import MANIFEST, Bundle, file_record
from florence_edge.manifest import Graph, Graphs, Manifest, Producer, Source, Tensor, TokenizerInfo
from florence_edge.model import Florence
from florence_edge.options import SearchConfig
from florence_edge.tokens import TOKENIZER_FILE, Tokens
from florence_train.backend import TorchBackend, best_device
from florence_train.checkpoint import load_checkpoint
from florence_train.folder import CONFIG_FILE, WEIGHTS_FILE, digest
from florence_train.generation import read_generation
from florence_train.model import FlorenceConfig
from florence_train.published_config import read_config


def open_model(source: str | Path, *, backend: str = "onnx", threads: int | None = None) -> Florence:
    """A bundle by its folder or name, or a checkpoint folder, which runs in torch whatever `backend` says."""
    folder = Path(source)
    if (folder / CONFIG_FILE).is_file() and not (folder / MANIFEST).is_file():
        if threads is not None:
            torch.set_num_threads(threads)
        return open_checkpoint(folder)
    return Florence.load(source, backend=backend, threads=threads)


def open_checkpoint(folder: str | Path) -> Florence:
    """A checkpoint of the native layout as a model, without converting it; a GPU is used where there is one."""
    path = Path(folder)
    model, config = load_checkpoint(path)
    generation = read_generation(path)
    manifest = _manifest(path, config, generation)
    return Florence(Bundle(path, manifest), TorchBackend(model.to(best_device()).eval(), generation))


def _manifest(folder: Path, config: FlorenceConfig, search: SearchConfig) -> Manifest:
    """What a bundle of this checkpoint would say of it, but for graphs: torch's modules stand in their place."""
    tokenizer = folder / TOKENIZER_FILE
    image = config.image
    pixels = Tensor("pixels", "float32", ("B", config.vision.in_channels, image.height, image.width))
    seen = config.image_tokens(image.height, image.width)
    features = Tensor("features", "float32", ("B", seen, config.text.dim))
    logits = Tensor("logits", "float32", ("B", "T", config.text.vocab_size))
    prompt = Tensor("prompt_ids", "int64", ("B", "T"))
    return Manifest(
        producer=Producer("florence-edge", __version__, platform.python_version(), torch=str(torch.__version__)),
        source=Source(folder.name, read_config(folder).layout.value, digest(folder)),
        precision="fp32",
        model=config.to_dict(),
        image=image,
        tokenizer=TokenizerInfo.of(TOKENIZER_FILE, Tokens.load(tokenizer).vocabulary),
        limits=config.limits,
        search=search,
        graphs=Graphs(
            Graph(WEIGHTS_FILE, (pixels,), (features,)),
            Graph(WEIGHTS_FILE, (features, prompt), (logits,)),
            Graph(WEIGHTS_FILE, (prompt,), (logits,)),
        ),
        files={TOKENIZER_FILE: file_record(tokenizer)},
    )
