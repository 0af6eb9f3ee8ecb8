"""A converted bundle: against transformers' model of the same weights, and what its files hold and do not hold.

The bundle is that of `support.engines`: rectangular images, feature maps that are no multiples of the window.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from florence_convert.comparison import CaseOptions, draw_cases, graph_errors
from florence_convert.export import STEPS, export_bundle, trace
from florence_convert.graphs import graph_sources, graph_tables
from florence_convert.parity import ROUNDING, TOLERANCE, compare, measure
from florence_convert.sides import OnnxSide, TorchSide
from florence_convert.simplify import simplify
from florence_convert.weights import INLINE_BELOW, PAGE, PAGED_FROM, WEIGHTS
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError, InputError, ParityError
from florence_edge.geometry import AnyArray, Float32Array, ImageSize, Int64Array
from florence_edge.manifest import Graph, Tensor
from florence_edge.tokens import Tokens
from florence_train.checkpoint import load_checkpoint
from support.engines import SIZE, Engines, random_pixels, tiny_engines
from support.oracle import reference_features, reference_logits
from support.published import write_published

GRAPHS = ("vision", "encoder", "decoder")
NUMPY = {"float32": np.float32, "int64": np.int64, "int32": np.int32, "bool": np.bool_}


@pytest.fixture(scope="module")
def engines() -> Engines:
    return tiny_engines()


def session(engines: Engines, name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    path = engines.bundle.folder / f"{name}.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(engines: Engines, name: str, inputs: dict[str, AnyArray]) -> dict[str, AnyArray]:
    opened = session(engines, name)
    outputs = [output.name for output in opened.get_outputs()]
    return dict(zip(outputs, opened.run(outputs, inputs), strict=True))


def proto(engines: Engines, name: str) -> onnx.ModelProto:
    return onnx.load(str(engines.bundle.folder / f"{name}.onnx"), load_external_data=False)


def place(tensor: onnx.TensorProto) -> tuple[int, int] | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return (int(entries["offset"]), int(entries["length"])) if entries else None


@pytest.mark.parametrize("batch", [1, 3])
def test_features_are_those_of_transformers(engines: Engines, batch: int) -> None:
    pixels = random_pixels(batch, batch)
    features = run(engines, "vision", {"pixels": pixels})["features"]
    expected = reference_features(engines.reference, torch.from_numpy(pixels)).numpy()
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < 1e-4


def prompts(rng: np.random.Generator, vocabulary: int, lengths: tuple[int, ...]) -> tuple[Int64Array, AnyArray]:
    """Prompts [B, T] of different lengths with their mask; what stands in the padding must not matter."""
    mask = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    return rng.integers(3, vocabulary - 1, mask.shape), mask


@pytest.mark.parametrize(("lengths", "capacity"), [((7,), 6), ((4, 9, 1), 64)])
def test_logits_of_every_step_and_beam_are_those_of_transformers(
    engines: Engines, lengths: tuple[int, ...], capacity: int
) -> None:
    """Two beams with different histories, in cache slots that their beams changed at every step."""
    text = engines.config.text
    rng = np.random.default_rng(capacity)
    batch, beams, steps = len(lengths), 2, 6
    features = run(engines, "vision", {"pixels": random_pixels(9, batch)})["features"]
    ids, mask = prompts(rng, text.vocab_size, lengths)
    cross = run(engines, "encoder", {"features": features, "prompt_ids": ids, "prompt_mask": mask})
    histories = rng.integers(3, text.vocab_size - 1, (batch, beams, steps))
    # The slot that each history's entry of each position is kept in: own or swapped, position by position.
    slots = np.stack([np.arange(2), np.arange(2)[::-1]])[rng.integers(0, 2, (batch, steps))].transpose(0, 2, 1)
    logits = decode(engines, cross, histories, slots, capacity)
    for beam in range(beams):
        expected = reference_logits(
            engines.reference,
            torch.from_numpy(features),
            torch.from_numpy(ids),
            torch.from_numpy(histories[:, beam]),
            torch.from_numpy(mask),
        ).numpy()
        assert np.abs(logits[:, beam] - expected).max() < 1e-3


def decode(
    engines: Engines, cross: dict[str, AnyArray], histories: Int64Array, slots: Int64Array, capacity: int
) -> Float32Array:
    """Logits [B, K, steps, V] of histories [B, K, steps] whose entries live in the slots [B, K, steps]."""
    text = engines.config.text
    batch, beams, steps = histories.shape
    shape = (batch, text.decoder_heads, capacity, beams, text.dim // text.decoder_heads)
    names = [f"self_{part}_{layer}" for layer in range(text.decoder_layers) for part in ("key", "value")]
    cache = {name: np.full(shape, 7, np.float32) for name in names}  # what no ancestor names must not matter
    opened = session(engines, "decoder")
    rows = np.arange(batch)[:, None]
    logits = []
    for step in range(steps):
        ancestors = np.full((batch, beams, capacity), -1, np.int32)
        holder = np.argsort(slots[:, :, step], axis=1)  # the history that feeds each beam slot at this step
        ancestors[:, :, :step] = slots[rows, holder, :step]
        inputs = {"token_ids": histories[rows, holder, step], "position": np.asarray(step), "ancestors": ancestors}
        outputs = [output.name for output in opened.get_outputs()]
        found = dict(zip(outputs, opened.run(outputs, {**inputs, **cache, **cross}), strict=True))
        for name in names:
            cache[name][:, :, step] = found[name.replace("self", "new")]
        logits.append(found["logits"][rows, slots[:, :, step]])
    return np.stack(logits, axis=2)


@pytest.mark.parametrize("name", GRAPHS)
def test_inputs_and_outputs_are_the_manifests(engines: Engines, name: str) -> None:
    types = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}
    opened, graph = session(engines, name), dict(engines.bundle.manifest.graphs.items())[name]
    for found, stated in ((opened.get_inputs(), graph.inputs), (opened.get_outputs(), graph.outputs)):
        assert tuple(Tensor(value.name, types[value.type], tuple(value.shape)) for value in found) == stated  # type: ignore[arg-type]


def test_the_manifest_describes_the_model(engines: Engines) -> None:
    manifest, config = engines.bundle.manifest, engines.config
    tokens = config.image_tokens(SIZE.height, SIZE.width)
    assert (manifest.image.height, manifest.image.width) == (SIZE.height, SIZE.width)
    assert manifest.limits.prompt_tokens == config.text.max_positions - tokens
    assert manifest.limits.new_tokens == config.text.max_positions - 1
    assert manifest.search.no_repeat_ngram == 3
    assert manifest.search.beams == 3
    assert manifest.source.layout == "native"
    assert manifest.graphs.vision.outputs[0].shape == ("B", tokens, config.text.dim)
    assert manifest.parity is not None
    assert manifest.parity.identical == {"greedy": manifest.parity.pairs, "beams_3": manifest.parity.pairs}
    assert all(manifest.parity.max_abs_error[graph] <= TOLERANCE[graph] for graph in GRAPHS)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_plain_and_tell_nothing_of_the_machine(engines: Engines, name: str) -> None:
    model = proto(engines, name)
    onnx.checker.check_model(str(engines.bundle.folder / f"{name}.onnx"), full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not model.functions
    used = {value for node in model.graph.node for value in node.input} | {v.name for v in model.graph.output}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    assert all(used & set(node.output) for node in model.graph.node)
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan", "Identity", "Dropout"}
    content = model.SerializeToString()
    for secret in (os.getcwd(), os.path.expanduser("~"), socket.gethostname(), "site-packages", ".py", "torch"):
        assert secret.encode() not in content, secret


def test_reshapes_have_constant_shapes(engines: Engines) -> None:
    for name, computed in (("vision", 0), ("encoder", 0), ("decoder", 1)):
        graph = proto(engines, name).graph
        constants = {tensor.name for tensor in graph.initializer}
        reshapes = [node for node in graph.node if node.op_type == "Reshape"]
        assert sum(node.input[1] not in constants for node in reshapes) == computed, name


def test_nodes_and_weights_carry_the_names_of_the_modules(engines: Engines) -> None:
    graph = proto(engines, "decoder").graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "decoder.layers.1.mlp.fc2/MatMul" in names
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    text = engines.config.text
    assert weights["decoder.layers.0.mlp.fc1.weight"] == [text.dim, text.decoder_ffn]
    assert weights["embedding.weight"] == [text.vocab_size, text.dim]


def test_every_content_is_stored_once(engines: Engines) -> None:
    """Counted in bytes: the file holds the model's parameters once, and nothing else but alignment."""
    content = (engines.bundle.folder / WEIGHTS).read_bytes()
    tensors = [tensor for name in GRAPHS for tensor in proto(engines, name).graph.initializer]
    places = Counter(where for where in map(place, tensors) if where is not None)
    assert len({content[offset : offset + length] for offset, length in places}) == len(places)
    ends = sorted((offset, offset + length) for offset, length in places)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
    model, _ = load_checkpoint(engines.checkpoint)
    stored = sum(length for _, length in places)
    assert stored + len(places) * PAGE >= len(content)
    whole = sum(parameter.nbytes for parameter in model.parameters() if parameter.nbytes >= INLINE_BELOW)
    assert abs(stored - whole) < 0.02 * whole
    assert all(offset % (PAGE if length >= PAGED_FROM else 64) == 0 for offset, length in places)


def test_the_tied_embedding_is_one_tensor_in_encoder_and_decoder(engines: Engines) -> None:
    found = [tensor for name in ("encoder", "decoder") for tensor in proto(engines, name).graph.initializer]
    embeddings = [place(tensor) for tensor in found if tensor.name == "embedding.weight"]
    assert len(embeddings) == 2
    assert embeddings[0] == embeddings[1] is not None
    nodes = proto(engines, "decoder").graph.node
    readers = [node for node in nodes if "embedding.weight" in node.input]
    assert [node.op_type for node in readers] == ["Gather", "Gemm"]
    assert {a.name: a.i for a in readers[1].attribute}["transB"] == 1


def test_a_model_with_other_weights_fails_the_measurement(engines: Engines) -> None:
    model, _ = load_checkpoint(engines.checkpoint)
    model.config = engines.config
    with torch.no_grad():
        dict(model.named_parameters())["decoder.layers.0.mlp.fc1.bias"].add_(0.5)
    with pytest.raises(ParityError, match=r"nothing was written(.|\n)*decoder: the largest error is"):
        measure(model, engines.bundle, CaseOptions(pairs=2, images=1, new_tokens=4))


def test_what_rounding_does_to_the_reference_itself_is_allowed(engines: Engines) -> None:
    model, _ = load_checkpoint(engines.checkpoint)
    model.config = replace(engines.config, image=engines.bundle.manifest.image)
    reference, few = TorchSide(model, engines.bundle.manifest.search, name="torch"), CaseOptions(pairs=2, images=1)
    none = dict.fromkeys(GRAPHS, 0.0)
    parity = compare(reference, OnnxSide(engines.bundle), engines.bundle, few, tolerance=none)
    tokens = Tokens.load(engines.bundle.tokenizer)
    cases = draw_cases(engines.bundle.manifest.image, tokens, engines.bundle.manifest.limits, few)
    rounding = graph_errors(reference.exact(), reference, cases, tokens)
    assert parity.tolerance == {graph: ROUNDING * error for graph, error in rounding.items()}
    assert all(0 < error < 1e-4 for error in rounding.values())


def test_what_cannot_be_converted_is_refused_before_any_work(engines: Engines, tmp_path: Path) -> None:
    steps: list[str] = []

    def refused(error: type[Exception], match: str, **options: object) -> None:
        with pytest.raises(error, match=match):
            export_bundle(engines.checkpoint, tmp_path / "out", on_step=steps.append, **options)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []

    refused(InputError, "opset is 17; it must be one of 18, 19, 20", opset=17)
    refused(InputError, r"feature map exceeds the 16x16(.|\n)*largest square is 480x480", image_size=ImageSize(520, 64))
    with pytest.raises(BundleError, match="already holds a bundle"):
        export_bundle(engines.checkpoint, engines.bundle.folder, on_step=steps.append)
    assert steps == []


@pytest.mark.slow
def test_a_failed_measurement_leaves_what_was_there(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: ir.Model, table: Graph) -> None:
        simplify(model, table)
        bias = next(value for name, value in model.graph.initializers.items() if name.endswith("norm.bias"))
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() + 1, name=bias.name)

    monkeypatch.setattr("florence_convert.export.simplify", spoil)
    with pytest.raises(ParityError):
        export_bundle(engines.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 19])
def test_older_opsets_are_written_on_demand(engines: Engines, tmp_path: Path, opset: int) -> None:
    model, config = load_checkpoint(engines.checkpoint)
    source = graph_sources(model, graph_tables(config))[1]
    traced = trace(source, opset=opset)
    simplify(traced, source.table)
    assert traced.opset_imports == {"": opset}
    assert "Gelu" not in {node.op_type for node in traced.graph}


@pytest.mark.slow
def test_base_size_converts_within_tolerance(tmp_path: Path) -> None:
    write_published(tmp_path / "checkpoint", layout="microsoft", size="base")
    steps: list[str] = []
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", on_step=steps.append)
    assert steps == list(STEPS)
    assert sum(record.bytes for record in bundle.manifest.files.values()) < 1.02 * 4 * 231.4e6
    assert Bundle.open(tmp_path / "bundle").manifest == bundle.manifest
