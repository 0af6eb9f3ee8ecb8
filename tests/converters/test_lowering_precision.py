"""Half precision written into the graphs: what has which type, and how far the results are from fp32.

bf16 has no arithmetic in ONNX Runtime on a CPU: there every operator is computed in fp32 and rounded to bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from florence_convert.comparison import CaseOptions, draw_cases
from florence_convert.lowering import Lowered, lower
from florence_convert.lowering.cut import converted
from florence_convert.lowering.functions import DOMAIN
from florence_convert.lowering.precision import DTYPES, STATISTICS
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge.geometry import AnyArray
from florence_edge.options import SearchOptions
from florence_edge.tokens import Tokens
from support.lowered import LoweredDecoder, LoweredModel

HALVES = ("fp16", "bf16")
ELEMENT = {"fp16": "float16", "bf16": "bfloat16"}
FEATURES = {"fp16": 1e-3, "bf16": 1e-2}
"""Root mean square error of features against fp32, relative to their spread. Measured: 2.7e-4 and 5.0e-3."""

LOGITS = {"fp16": 1e-3, "bf16": 0.03}
"""The same of logits, with caches and cross-attention in the type. Measured: 2.6e-4 and 8.2e-3."""


@pytest.fixture(scope="module")
def every(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Lowered]:
    return {name: lower(bundle, tmp_path_factory.mktemp(name), precision=name) for name in ("fp32", *HALVES)}  # type: ignore[arg-type]


def types(path: Path) -> dict[str, int]:
    """Element type of every value of a graph, inferred anew by ONNX from inputs, weights and functions."""
    model = onnx.load(str(path), load_external_data=False)
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    known = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in known} | {
        tensor.name: tensor.data_type for tensor in inferred.initializer
    }


@pytest.mark.parametrize("precision", HALVES)
def test_onnx_infers_the_types_that_are_meant(every: Mapping[str, Lowered], precision: str) -> None:
    element = DTYPES[ELEMENT[precision]].value  # type: ignore[index]
    fp32, fp16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    for part in every[precision].parts:
        found = types(part.runnable)
        for node in onnx.load(str(part.runnable), load_external_data=False).graph.node:
            kinds = {found[name] for name in (*node.input, *node.output)} & {fp32, fp16, element}
            if node.op_type in STATISTICS or (precision == "bf16" and node.op_type == "Conv"):
                assert kinds == {fp32}, node.name
            elif node.op_type == "Cast":
                assert found[node.input[0]] != found[node.output[0]], f"{node.name} changes nothing"
            elif node.op_type == "Gemm" or "embedding.weight.float16" in node.input:
                assert kinds == {fp16}, node.name
            elif kinds:
                assert kinds == {element}, node.name


@pytest.mark.parametrize("precision", HALVES)
def test_what_the_runtime_sees_has_the_types_stated(every: Mapping[str, Lowered], precision: str) -> None:
    for part in every[precision].parts:
        graph = onnx.load(str(part.tensorrt), load_external_data=False).graph
        for tensor, value in zip((*part.inputs, *part.outputs), (*graph.input, *graph.output), strict=True):
            assert value.name == tensor.name
            assert value.type.tensor_type.elem_type == DTYPES[tensor.dtype].value
    decoder = {
        tensor.name: tensor.dtype for tensor in (*every[precision].decoder.inputs, *every[precision].decoder.outputs)
    }
    assert decoder["logits"] == "float32"
    assert {decoder[name] for name in ("self_key_0", "cross_value_2", "new_key_1")} == {ELEMENT[precision]}


@pytest.mark.parametrize("precision", HALVES)
def test_weights_are_stored_once_and_in_half(every: Mapping[str, Lowered], precision: str) -> None:
    half, whole = ((every[name].folder / "weights.bin").stat().st_size for name in (precision, "fp32"))
    assert half < (0.52 if precision == "fp16" else 0.56) * whole  # bf16: convolutions in fp32


def relative(found: AnyArray, expected: AnyArray) -> float:
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected - expected.mean()).mean()))


@pytest.mark.parametrize("precision", HALVES)
def test_errors_against_fp32(bundle: Bundle, every: Mapping[str, Lowered], precision: str) -> None:
    options = CaseOptions(pairs=4, images=2)
    cases = draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, options)
    logits, features = {}, {}
    for name in ("fp32", precision):
        model = LoweredModel(every[name])
        features[name] = model.features(cases.pixels)
        decoder = LoweredDecoder(model, model.cross(features[name], cases.prompts[:2]), beams=2, capacity=8)
        rng, found = np.random.default_rng(5), []
        for position in range(8):
            ancestors = rng.integers(0, 2, (2, 2, position)).astype(np.int32)
            found.append(decoder.step(rng.integers(0, 700, (2, 2)), ancestors))
        logits[name] = np.concatenate(found)
    assert relative(features[precision], features["fp32"]) < FEATURES[precision]
    assert relative(logits[precision], logits["fp32"]) < LOGITS[precision]


def test_fp16_gives_the_answers_of_fp32(bundle: Bundle, every: Mapping[str, Lowered]) -> None:
    cases = draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, CaseOptions())
    backend, model = OnnxBackend(bundle, threads=1), LoweredModel(every["fp16"])
    options = SearchOptions(beams=3, max_new_tokens=12)
    expected = backend.generate(backend.encode_image(cases.pixels), cases.prompts, options, cases.image_of)
    cross = model.cross(model.features(cases.pixels)[list(cases.image_of)], cases.prompts)
    for wanted, found in zip(expected, model.generate(cross, bundle.manifest.search.over(options)), strict=True):
        np.testing.assert_array_equal(found.ids, wanted.ids)


def test_parts_of_different_precision_fit_together(bundle: Bundle, tmp_path: Path) -> None:
    """A part that fails its gate in fp16 is built in fp32; its neighbours stay."""
    mixed = lower(bundle, tmp_path, precision={"vision": "fp32", "encoder": "fp32", "decoder": "fp16"})
    assert [part.precision for part in mixed.parts] == ["fp32", "fp32", "fp16"]
    assert mixed.vision.outputs == mixed.encoder.inputs[:1]
    cross = {tensor.name: tensor.dtype for tensor in mixed.encoder.outputs}
    assert cross == {t.name: t.dtype for t in mixed.decoder.inputs if t.name.startswith("cross_")}
    assert set(cross.values()) == {"float16"}
    model = LoweredModel(mixed)
    pixels = np.zeros((1, 3, bundle.manifest.image.height, bundle.manifest.image.width), np.float32)
    found = model.generate(model.cross(model.features(pixels), [np.asarray([0, 5, 2])]), _greedy(bundle))
    assert len(found[0].ids) >= 1


def _greedy(bundle: Bundle):  # type: ignore[no-untyped-def]
    return bundle.manifest.search.over(SearchOptions(beams=1, max_new_tokens=4))


def test_the_embedding_is_one_tensor_in_encoder_and_decoder(every: Mapping[str, Lowered]) -> None:
    for lowered in every.values():
        places = set()
        for part in (lowered.encoder, lowered.decoder):
            (tensor,) = (
                t
                for t in ir.load(part.tensorrt).graph.initializers.values()
                if str(t.name).startswith("embedding.weight")
            )
            external = tensor.const_value
            assert isinstance(external, ir.ExternalTensor)
            places.add((external.offset, external.length))
        assert len(places) == 1


def test_plugin_nodes_have_one_element_type(every: Mapping[str, Lowered]) -> None:
    for precision in HALVES:
        for part in every[precision].parts:
            for node in ir.load(part.tensorrt).graph:
                if node.domain == DOMAIN:
                    kinds = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None} - {ir.DataType.INT32}
                    assert kinds == {DTYPES[ELEMENT[precision]]}  # type: ignore[index]


def test_weights_beyond_the_range_of_fp16_are_refused_by_name() -> None:
    large = ir.tensor(np.asarray([1.0, 1e5], np.float32), name="w")
    with pytest.raises(BundleError, match=r"some\.weight has values up to 100000, which float16 cannot hold"):
        converted(large, ir.DataType.FLOAT16, "some.weight").numpy()
    assert converted(large, ir.DataType.BFLOAT16, "some.weight").numpy().astype(np.float32)[1] == pytest.approx(
        1e5, rel=4e-3
    )
