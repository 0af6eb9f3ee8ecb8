"""The functions of the plugin nodes, run by ONNX Runtime, against the definition of the kernels in float64 NumPy.

And their contract, against the tables of the plugins' own source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from florence_convert.lowering.functions import CHANNEL, CROSS, DOMAIN, PLUGINS, SELF, WINDOW, Plugin
from florence_edge.geometry import AnyArray
from support.kernel_references import attend, channel_attention, window_attention

SOURCES = Path(__file__).parents[2] / "kernels" / "plugins"
TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32, 3e-6),
    "fp16": (TensorProto.FLOAT16, np.float16, 2e-3),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 2e-2),
}
OPSETS = (18, 19, 20)


def model_of(plugin: Plugin, inputs: Mapping[str, AnyArray], opset: int, **attributes: float) -> onnx.ModelProto:
    """One node with its function; tensors of the element type enter and leave as they are."""
    kinds = {np.dtype(kind): number for number, kind, _ in TYPES.values()} | {np.dtype(np.int32): TensorProto.INT32}
    values = {
        name: ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType(kinds[array.dtype])))
        for name, array in inputs.items()
    }
    node = plugin.node(values, attributes, name="node", shape=ir.Shape([None] * next(iter(inputs.values())).ndim))
    node.outputs[0].name = "context"
    graph = ir.Graph([*values.values()], node.outputs, nodes=[node], opset_imports={"": opset, DOMAIN: 1}, name="g")
    function = plugin.function(opset)
    model = ir.Model(graph, ir_version=9, functions=[function])
    return ir.to_proto(model)


def run(plugin: Plugin, inputs: Mapping[str, AnyArray], *, opset: int = 20, **attributes: float) -> AnyArray:
    """The node's output as float64, computed by ONNX Runtime; bf16 travels as its bits."""
    model = model_of(plugin, inputs, opset, **attributes)
    onnx.checker.check_model(model, full_check=True)
    exact = helper.make_node("Cast", ["context"], ["exact"], to=TensorProto.FLOAT)
    model.graph.node.append(exact)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("exact", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(*_bits(a)) for name, a in inputs.items()}
    (found,) = session.run_with_ort_values(["exact"], feeds)
    return np.asarray(found.numpy(), np.float64)


def _bits(array: AnyArray) -> tuple[AnyArray, int]:
    if array.dtype == ml_dtypes.bfloat16:
        return array.view(np.uint16), TensorProto.BFLOAT16
    return array, helper.np_dtype_to_tensor_dtype(array.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("size", "window"), [((8, 8), 4), ((5, 7), 4), ((3, 13), 12), ((1, 1), 5)])
def test_window_attention(dtype: str, size: tuple[int, int], window: int) -> None:
    _, kind, tolerance = TYPES[dtype]
    rng = np.random.default_rng(window)
    qkv, bias = rng.normal(size=(2, *size, 192)).astype(kind), rng.normal(size=192).astype(kind)
    found = run(WINDOW, {"qkv": qkv, "bias": bias}, window=window)
    expected = window_attention(qkv.reshape(2, -1, 192), bias, size, window).reshape(2, *size, 64)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("tokens", "groups"), [(1, 1), (35, 3), (600, 2)])
def test_channel_attention(dtype: str, tokens: int, groups: int) -> None:
    _, kind, tolerance = TYPES[dtype]
    qkv = np.random.default_rng(tokens).normal(size=(2, tokens, 96 * groups)).astype(kind)
    np.testing.assert_allclose(run(CHANNEL, {"qkv": qkv}), channel_attention(qkv), atol=tolerance, rtol=tolerance)


def decoder_inputs(dtype: str, *, beams: int, length: int, head_dim: int) -> dict[str, AnyArray]:
    """Two images, two heads; slots that no history names hold NaN."""
    kind, rng = TYPES[dtype][1], np.random.default_rng(beams * length)
    rows, cache = (2 * beams, 2, head_dim), (2, beams, 2, length, head_dim)
    inputs = {name: rng.normal(size=rows).astype(kind) for name in ("q", "k", "v")}
    inputs |= {name: rng.normal(size=cache).astype(kind) for name in ("k_cache", "v_cache")}
    # 255 is as good a name for the last slot as any from `beams` on.
    slots = rng.choice([*range(beams), 255], (2, beams, length)).astype(np.uint8)
    return {**inputs, "indirection": slots.view("<i4"), "image_done": np.zeros(2, np.int32)}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("beams", "position", "length"), [(1, 0, 4), (3, 5, 12), (8, 19, 20)])
def test_self_attention(dtype: str, head_dim: int, beams: int, position: int, length: int) -> None:
    inputs = decoder_inputs(dtype, beams=beams, length=length, head_dim=head_dim)
    slots = np.minimum(inputs["indirection"].view(np.uint8), beams - 1)
    inputs["k_cache"][:, :, :, position:], inputs["v_cache"][:, :, :, position:] = np.nan, np.nan
    found = run(SELF, {**inputs, "position": np.asarray([position], np.int32)}, scale=head_dim**-0.5)
    for image in range(2):
        for beam in range(beams):
            row, history = image * beams + beam, slots[image, beam, :position]
            for head in range(2):
                past = [inputs[name][image, history, head, np.arange(position)] for name in ("k_cache", "v_cache")]
                keys, values = (
                    np.concatenate([p, inputs[n][row, head][None]]) for p, n in zip(past, "kv", strict=True)
                )
                expected = attend(inputs["q"][row, head], keys, values, head_dim**-0.5)
                np.testing.assert_allclose(found[row, head], expected, atol=TYPES[dtype][2], rtol=TYPES[dtype][2])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("lengths", [(7, 7), (3, 1), (0, 7)])
def test_cross_attention(dtype: str, lengths: tuple[int, int]) -> None:
    kind, rng = TYPES[dtype][1], np.random.default_rng(sum(lengths))
    q, k, v = (rng.normal(size=size).astype(kind) for size in ((6, 2, 32), (2, 2, 7, 32), (2, 2, 7, 32)))
    known = {"lengths": np.asarray(lengths, np.int32), "image_done": np.zeros(2, np.int32)}
    found = run(CROSS, {"q": q, "k": k, "v": v, **known}, scale=0.2)
    for row in range(6):
        image, seen = row // 3, lengths[row // 3]
        for head in range(2):
            expected = attend(q[row, head], k[image, head, :seen], v[image, head, :seen], 0.2)
            np.testing.assert_allclose(found[row, head], expected, atol=TYPES[dtype][2], rtol=TYPES[dtype][2])


def test_rows_of_finished_images_do_not_depend_on_anything() -> None:
    inputs = {**decoder_inputs("fp32", beams=2, length=4, head_dim=32), "position": np.asarray([2], np.int32)}
    whole = run(SELF, inputs, scale=1.0)
    inputs["image_done"] = np.asarray([0, 7], np.int32)
    found = run(SELF, inputs, scale=1.0)
    np.testing.assert_array_equal(found[:2], whole[:2])
    assert not found[2:].any()


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_of_a_bundle_takes_the_functions(opset: int) -> None:
    qkv = np.random.default_rng(0).normal(size=(1, 5, 3, 96)).astype(np.float32)
    found = run(WINDOW, {"qkv": qkv, "bias": qkv[0, 0, 0]}, opset=opset, window=2)
    assert np.isfinite(found).all()
    inputs = {**decoder_inputs("fp32", beams=2, length=4, head_dim=32), "position": np.asarray([1], np.int32)}
    assert np.isfinite(run(SELF, inputs, opset=opset, scale=1.0)).all()


def declared() -> dict[str, tuple[list[str], int, dict[str, tuple[str, bool]]]]:
    """Inputs, how many of them are required, and attributes of every plugin, as its C++ source has them."""
    text = "".join(path.read_text() for path in sorted(SOURCES.glob("*_attention.cpp")))
    found = {}
    for part in text.split("final : public Operation")[1:]:
        name, ports, required = re.search(r'signature\{\s*"(\w+)",\s*(\{\{.*?\}\}),\s*(\w+)\}', part, re.S).groups()  # type: ignore[union-attr]
        inputs = re.findall(r'\{"(\w+)", Kind', ports)
        numbers = {kind: index for index, kind in enumerate(re.findall(r"k\w+", _first_enum(part)))}
        attributes = {
            attribute: (kind, needed == "true")
            for attribute, kind, needed in re.findall(r'\{"(\w+)", PluginFieldType::k(\w+), &\w+\.\w+, (\w+)\}', part)
        }
        found[name] = (inputs, int(numbers.get(required, required)), attributes)
    return found


def _first_enum(text: str) -> str:
    enum = re.search(r"enum Input \{(.*?)\}", text)
    return enum[1] if enum else ""


def test_the_nodes_are_those_that_the_plugins_declare() -> None:
    found = declared()
    assert found.keys() == PLUGINS.keys()
    kinds = {"int": "INT32", "float": "FLOAT32"}
    for name, plugin in PLUGINS.items():
        inputs, required, attributes = found[name]
        assert list(plugin.inputs) == inputs, name
        assert required <= len(plugin.inputs), name
        assert {key for key, (_, needed) in attributes.items() if needed} <= plugin.attributes.keys(), name
        for attribute, kind in plugin.attributes.items():
            assert attributes[attribute][0] == kinds[kind], name


def test_a_node_names_version_and_namespace_for_tensorrts_parser() -> None:
    qkv = np.zeros((1, 4, 96), np.float32)
    node = model_of(CHANNEL, {"qkv": qkv}, 20).graph.node[0]
    assert node.op_type == "FlorenceChannelAttention"
    assert {attribute.name: attribute.s for attribute in node.attribute} == {
        "plugin_version": b"1",
        "plugin_namespace": b"",
    }


def test_a_node_with_other_inputs_or_attributes_is_refused() -> None:
    value = ir.Value(name="qkv")
    with pytest.raises(AssertionError, match="FlorenceWindowAttention"):
        WINDOW.node({"qkv": value}, {"window": 12}, name="n", shape=ir.Shape([]))
    with pytest.raises(AssertionError, match="FlorenceChannelAttention"):
        CHANNEL.node({"qkv": value}, {"scale": 1.0}, name="n", shape=ir.Shape([]))
