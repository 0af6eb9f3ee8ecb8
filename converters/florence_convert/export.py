"""Conversion of a checkpoint into an ONNX bundle: trace, simplify, write, measure, and only then put in place."""

from __future__ import annotations

import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from florence_edge import __version__
from florence_edge.bundle import Bundle, check_target, seal, staging
from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.manifest import Manifest, Producer, Storage
from florence_edge.tokens import Tokens
from florence_train.checkpoint import load_checkpoint
from florence_train.generation import read_generation

from .graphs import GraphSource, graph_sources, graph_tables
from .hub import locate
from .names import VISION
from .parity import measure
from .simplify import simplify
from .sizes import resized
from .source import copy_papers, describe
from .storage import round_weights, store_half
from .tokenizer import read_tokenizer, save_tokenizer
from .tower.plain import PLAIN, arrange
from .weights import save_models

OPSETS = (18, 19, 20)
"""What TensorRT 10.3 (JetPack 6) and every ONNX Runtime since 1.17 read."""

STEPS = ("checkpoint", "vision", "encoder", "decoder", "weights", "parity")
"""What `export_bundle` reports as finished, in this order."""

_PRODUCER = "florence-edge"


def export_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    image_size: ImageSize | None = None,
    opset: int = OPSETS[-1],
    storage: Storage = "fp32",
    overwrite: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> Bundle:
    """Converts a checkpoint folder, or a hub id `owner/name`, into a bundle folder and measures its parity with torch.

    `image_size` replaces the size of the checkpoint's image processor; any that the model's position tables hold is
    allowed. `storage="fp16"` rounds the weights to fp16 and stores them so, in half the bytes; they are fp32 again once
    a session has opened them, and parity is measured against the rounded model. `on_step` is called with each of
    `STEPS` when it is done. The same checkpoint gives the same files, but for the measured numbers in the manifest.
    Raises `CheckpointError`, `InputError`, `BundleError` (where `out` may not be written) or `ParityError`; `out` is
    left as it was in every case.
    """
    if opset not in OPSETS:
        raise InputError(f"opset is {opset}; it must be one of {', '.join(map(str, OPSETS))}")
    check_target(out, overwrite=overwrite)
    done = on_step or (lambda step: None)
    folder, name = locate(checkpoint)
    model, config = load_checkpoint(folder)
    if storage == "fp16":
        round_weights(model)
    tokenizer = read_tokenizer(folder, rows=config.text.vocab_size)
    config = model.config = resized(config, image_size, Tokens(tokenizer))
    done("checkpoint")
    with staging(out, overwrite=overwrite) as target:
        tables = graph_tables(config)
        _write_graphs(graph_sources(model, tables), target, opset=opset, half=storage == "fp16", done=done)
        copy_papers(folder, target)
        manifest = Manifest(
            producer=Producer(
                _PRODUCER, __version__, platform.python_version(), torch=str(torch.__version__), onnx=onnx.__version__
            ),
            source=describe(folder, name),
            precision="fp32",
            storage=storage,
            model=config.to_dict(),
            image=config.image,
            tokenizer=save_tokenizer(tokenizer, target),
            limits=config.limits,
            search=read_generation(folder),
            graphs=tables,
        )
        seal(target, manifest)
        parity = measure(model, Bundle.open(target, verify="size"))
        seal(target, replace(manifest, parity=parity))
        done("parity")
    return Bundle.open(out, verify="size")


def _write_graphs(
    sources: Sequence[GraphSource], target: Path, *, opset: int, half: bool, done: Callable[[str], None]
) -> None:
    """Traces, simplifies and writes the three graphs, the one of the vision tower in both forms, and their weights."""
    models = []
    for source in sources:
        traced = trace(source, opset=opset)
        simplify(traced, source.table)
        models.append((source.table.file, traced))
        if source.name == VISION:
            models.append((PLAIN, arrange(traced)))
        done(source.name)
    for _, model in models:
        if half:
            store_half(model.graph)
        model.producer_name, model.producer_version = _PRODUCER, __version__
    save_models(target, models)
    done("weights")


def trace(source: GraphSource, *, opset: int) -> ir.Model:
    """One graph as the exporter gives it: not optimised, with the names of the table."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            source.module.eval(),
            source.example(),
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in source.table.inputs],
            output_names=[tensor.name for tensor in source.table.outputs],
            dynamic_shapes=source.dynamic_shapes(),
            optimize=False,
            verbose=False,
        )
    assert program is not None, "with dynamo torch.onnx.export always returns a program"
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes about torchvision and deprecated helpers of its own from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
