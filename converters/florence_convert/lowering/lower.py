"""From a bundle to the graphs that engines are built from: rewrite, type, quantise, write."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from florence_convert.tower.plain import load_plain
from florence_convert.weights import save_models
from florence_edge import __version__
from florence_edge.backends.kernel_library import DECODER_HEAD_DIMS
from florence_edge.bundle import MANIFEST, Bundle, bundled_names
from florence_edge.errors import BundleError, InputError
from florence_edge.images import ImageSource
from florence_edge.manifest import Graph

from . import cut
from .calibration import CalibrationImages, Observer, calibration_pixels, calibration_prompts, pictures
from .functions import DOMAIN, PLUGINS
from .language import lower_decoder, lower_encoder
from .parts import ELEMENT, PARTS, Lowered, LoweredPart, PartName, Precision, part_tables
from .precision import set_precision
from .qdq import observed, quantise
from .vision import lower_vision

_REWRITES = {"encoder": lower_encoder, "decoder": lower_decoder}
_EVERYWHERE: Mapping[str, Mapping[PartName, Precision]] = {
    "int8": {"vision": "int8", "encoder": "int8", "decoder": "fp16"},
}
"""What one precision for all means, where it is not that precision for each."""


def lower(
    source: str | Path | Bundle,
    folder: str | Path,
    *,
    precision: Precision | Mapping[PartName, Precision] = "fp16",
    calibration: CalibrationImages | None = None,
) -> Lowered:
    """Writes the graphs of a model, runnable and for TensorRT, with one weight file, into `folder`.

    `source` is an fp32 bundle (its weights may be stored in fp16), or a checkpoint folder or hub id, which is converted
    first and needs torch. `precision` is one for all parts, or one for each. With "int8" for vision or encoder
    `calibration` is needed: pictures such as the model will see. Graphs that are in `folder` already are replaced.
    Raises `InputError` for what cannot be combined, `BundleError` for a bundle that was not made by this package, or
    whose weights a type cannot hold.
    """
    chosen = _per_part(precision)
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds a bundle; give another folder for the graphs made from it")
    sources = pictures(calibration) if "int8" in chosen.values() else []
    with _opened(source) as bundle:
        _check(bundle)
        tables = part_tables(bundle.manifest, ELEMENT[chosen["decoder"]])
        models = {name: _rewritten(bundle, name, tables[name]) for name in PARTS}
        for name, largest in (_ranges(bundle, models, sources) if sources else {}).items():
            if chosen[name] == "int8":
                quantise(models[name].graph, largest)
        for name, model in models.items():
            set_precision(model.graph, tables[name], ELEMENT[chosen[name]])
        folder.mkdir(parents=True, exist_ok=True)
        save_models(folder, [(tables[name].file, model) for name, model in models.items()])
        image_tokens = int(bundle.manifest.graphs.vision.outputs[0].shape[1])
        parts = {
            name: _stripped(
                models[name], folder, name=name, table=tables[name], precision=chosen[name], image_tokens=image_tokens
            )
            for name in PARTS
        }
    return Lowered(folder, bundle.manifest, parts["vision"], parts["encoder"], parts["decoder"])


def _per_part(precision: Precision | Mapping[PartName, Precision]) -> dict[PartName, Precision]:
    """The precision of every part; `InputError` for unknown ones."""
    if isinstance(precision, str):
        precision = _EVERYWHERE.get(precision, dict.fromkeys(PARTS, precision))
    chosen = dict(precision)
    faults = [f"there is no part {name!r}" for name in chosen if name not in PARTS]
    faults += [f"no precision is given for {name}" for name in PARTS if name not in chosen]
    faults += [f"{value!r} is no precision for {name}" for name, value in chosen.items() if value not in ELEMENT]
    faults += ["the decoder is not quantised: give fp16 for it"] if chosen.get("decoder") == "int8" else []
    if faults:
        parts, values = ", ".join(PARTS), ", ".join(ELEMENT)
        raise InputError(f"{'; '.join(faults)}. Parts are {parts}, precisions {values}")
    return chosen


@contextmanager
def _opened(source: str | Path | Bundle) -> Iterator[Bundle]:
    """A bundle, or for as long as it is needed the one that a checkpoint gives."""
    if isinstance(source, Bundle):
        yield source
    elif (Path(source) / MANIFEST).is_file() or str(source) in bundled_names():
        yield Bundle.open(source)
    else:
        from florence_convert.export import export_bundle  # needs torch, which a bundle does not

        with tempfile.TemporaryDirectory(prefix="florence-") as scratch:
            yield export_bundle(source, Path(scratch) / "bundle")


def _check(bundle: Bundle) -> None:
    """Refuses what has another precision, or a decoder that the kernels cannot compute.

    The vision tower has operators to fall back on where its heads have another size.
    """
    precision, storage = bundle.manifest.precision, bundle.manifest.storage
    if precision != "fp32" or storage == "int8":
        raise InputError(
            f"{bundle.folder} computes in {precision} and stores {storage}; lower the fp32 bundle that it was made from"
        )
    head_dim = bundle.manifest.graphs.decoder.outputs[1].shape[-1]
    if head_dim not in DECODER_HEAD_DIMS:
        allowed = " or ".join(map(str, DECODER_HEAD_DIMS))
        raise BundleError(f"{bundle.folder} has decoder heads of {head_dim}; the kernels take heads of {allowed}")


def _rewritten(bundle: Bundle, name: PartName, table: Graph) -> ir.Model:
    """One graph of a bundle with plugin nodes and the inputs and outputs of `table`, in fp32."""
    model = load_plain(bundle, name)
    cut.expand_stored(model.graph)
    if name == "vision":
        lower_vision(model.graph, bundle.manifest.model["vision"])
        cut.remove_unused(model.graph)
    else:
        _REWRITES[name](model.graph, table)
    _add_functions(model)
    model.producer_name, model.producer_version = "florence-edge", __version__
    return model


def _add_functions(model: ir.Model) -> None:
    """Adds the functions of the plugin nodes."""
    used = sorted({node.op_type for node in model.graph if node.domain == DOMAIN})
    opset = model.opset_imports[""]
    for name in used:
        function = PLUGINS[name].function(opset)
        model.functions[function.identifier()] = function
    if used:
        model.graph.opset_imports[DOMAIN] = 1


def _ranges(
    bundle: Bundle, models: Mapping[PartName, ir.Model], sources: Sequence[ImageSource]
) -> dict[PartName, dict[str, float]]:
    """How large the activations of vision and encoder get on the calibration pictures."""
    vision, encoder = (Observer(models[name], observed(models[name].graph)) for name in ("vision", "encoder"))
    prompts = calibration_prompts(bundle)
    for index, pixels in enumerate(calibration_pixels(sources, bundle)):
        features = vision.run({"pixels": pixels})["features"]
        prompt = prompts[index % len(prompts)]
        lengths = np.asarray([features.shape[1] + len(prompt)], np.int32)
        encoder.run({"features": features, "prompt_ids": prompt[None].astype(np.int32), "lengths": lengths})
    return {"vision": vision.largest(), "encoder": encoder.largest()}


def _stripped(
    model: ir.Model, folder: Path, *, name: PartName, table: Graph, precision: Precision, image_tokens: int
) -> LoweredPart:
    """Saves a graph once more, without its functions: TensorRT 10.3 would take those for the nodes."""
    model.functions.clear()
    stripped = folder / f"{name}.trt.onnx"
    ir.save(model, stripped)
    return LoweredPart(
        name=name,
        precision=precision,
        runnable=folder / table.file,
        tensorrt=stripped,
        plugins=dict(Counter(node.op_type for node in model.graph if node.domain == DOMAIN)),
        inputs=table.inputs,
        outputs=table.outputs,
        image_tokens=image_tokens,
    )
