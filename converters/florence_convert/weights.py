"""The weights of a bundle: new ones in a graph, and all graphs' in one file, each once, laid out for memory mapping."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from florence_edge.geometry import AnyArray

WEIGHTS = "weights.bin"

INLINE_BELOW = 1024
"""Tensors smaller than this many bytes stay in the graph, where shape inference can see them."""

PAGE = 4096
"""Where a tensor of at least `PAGED_FROM` bytes begins, so that a session can map it instead of reading it."""

PAGED_FROM = 1 << 16
_ALIGNMENT = 64


def stored(graph: ir.Graph, name: str, array: AnyArray) -> ir.Value:
    """A new initializer with this content."""
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


class WeightFile:
    """Appends tensors to a file; content that is already there is not written again, whichever graph it came from."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._places: dict[bytes, tuple[int, int]] = {}

    def add(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """Offset and length in bytes of a tensor's content."""
        content = tensor.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            alignment = PAGE if len(content) >= PAGED_FROM else _ALIGNMENT
            self._stream.write(b"\0" * (-self._stream.tell() % alignment))
            self._places[key] = (self._stream.tell(), len(content))
            self._stream.write(content)
        return self._places[key]


def save_models(folder: Path, models: Sequence[tuple[str, ir.Model]]) -> None:
    """Writes models (file name, model) into a folder, with the weights of all of them in `WEIGHTS`.

    The same models give the same bytes.
    """
    with (folder / WEIGHTS).open("wb") as stream:
        weights = WeightFile(stream)
        for _, model in models:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and tensor.nbytes >= INLINE_BELOW:
                    value.const_value = _external(folder, tensor, weights.add(tensor))
    for name, model in models:
        ir.save(model, folder / name)


def _external(folder: Path, tensor: ir.TensorProtocol, place: tuple[int, int]) -> ir.ExternalTensor:
    """The same tensor as a place in the weight file."""
    offset, length = place
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        WEIGHTS, offset, length, tensor.dtype, shape=shape, name=tensor.name or "", base_dir=folder
    )
