"""Ranges of activations, measured on the user's pictures: what INT8 scales are made of.

The one place where calibration pictures are read. Random data has other ranges than pictures have, so there is no
default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

import onnx_ir as ir

from florence_edge.backends.onnx import open_session
from florence_edge.bundle import Bundle
from florence_edge.errors import InputError, missing
from florence_edge.geometry import AnyArray, Float32Array, ImageSize, Int64Array
from florence_edge.images import IMAGE_SUFFIXES, ImageSource, load_image
from florence_edge.preprocess import to_pixels
from florence_edge.prompts import prompt_for
from florence_edge.tasks import TASKS, InputKind
from florence_edge.tokens import Tokens

CalibrationImages = str | PathLike[str] | Sequence[ImageSource]
"""A folder of pictures, or the pictures."""

PERCENTILE = 99.999
"""Part of an activation's values that its range holds; the few beyond are clipped. ONNX Runtime's own default."""

_BINS = 2048


def pictures(calibration: CalibrationImages | None) -> list[ImageSource]:
    """The pictures of a folder, sorted by name, or those given; `InputError` where there are none."""
    if calibration is None:
        raise InputError("int8 needs calibration pictures such as the model will see (a folder, or a list); none given")
    if isinstance(calibration, (str, PathLike)):
        folder = Path(calibration)
        found: list[ImageSource] = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    else:
        found = list(calibration)
    if not found:
        raise InputError(f"int8 needs calibration pictures; {calibration!r} has none")
    return found


def calibration_pixels(sources: Sequence[ImageSource], bundle: Bundle) -> Iterator[Float32Array]:
    """Every picture as [1, 3, H, W], one at a time."""
    for source in sources:
        yield to_pixels(load_image(source), bundle.manifest.image)


def calibration_prompts(bundle: Bundle) -> list[Int64Array]:
    """Prompts of all tasks that take no input."""
    size, tokens = ImageSize(bundle.manifest.image.width, bundle.manifest.image.height), Tokens.load(bundle.tokenizer)
    prompts = [tokens.encode(prompt_for(task, None, size)) for task in TASKS if task.input is InputKind.NONE]
    return [prompt for prompt in prompts if len(prompt) <= bundle.manifest.limits.prompt_tokens]


class Observer:
    """Runs a runnable fp32 graph and keeps, by ONNX Runtime's histogram collector, how large some of its values get."""

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        self._names = list(dict.fromkeys(names))
        self._outputs = [value.name or "" for value in model.graph.outputs]
        self._histograms = _collector()(
            method="percentile",
            symmetric=True,
            num_bins=_BINS,
            num_quantized_bins=_BINS,
            percentile=PERCENTILE,
            scenario="same",
        )
        self._session = self._open(model)

    def run(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """One run; returns the graph's own outputs."""
        names = list(dict.fromkeys([*self._outputs, *self._names]))
        found = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        with _quiet():
            self._histograms.collect({name: [found[name]] for name in self._names})
        return {name: found[name] for name in self._outputs}

    def largest(self) -> dict[str, float]:
        """The absolute value up to which each observed value is to be represented."""
        with _quiet():
            ranges = self._histograms.compute_collection_result()
        return {name: float(max(abs(float(ranges[name][0])), abs(float(ranges[name][1])))) for name in self._names}

    def _open(self, model: ir.Model) -> Any:
        """A session that also gives the observed values."""
        values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
        kept = list(model.graph.outputs)
        model.graph.outputs.extend(values[name] for name in self._names if name not in self._outputs)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "observed.onnx"
                ir.save(model, path, external_data="observed.bin")
                return open_session(path)
        finally:
            model.graph.outputs.clear()
            model.graph.outputs.extend(kept)


def _quiet() -> redirect_stdout[StringIO]:
    """ONNX Runtime's collector tells its progress on standard output, where a command's result belongs."""
    return redirect_stdout(StringIO())


def _collector() -> Any:
    try:
        from onnxruntime.quantization.calibrate import HistogramCollector
    except ImportError as error:
        raise missing("onnxruntime", extra="convert", needed_for="calibration") from error
    return HistogramCollector
