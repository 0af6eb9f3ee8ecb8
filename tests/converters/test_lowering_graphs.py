"""What lowered graphs look like: nodes, inputs and outputs, both forms, profiles; and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from florence_convert.lowering import Buckets, Lowered, LoweredPart, lower
from florence_convert.lowering.functions import DOMAIN, PLUGINS
from florence_convert.weights import WEIGHTS
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError, InputError


def protos(lowered: Lowered) -> Iterator[tuple[LoweredPart, onnx.ModelProto, onnx.ModelProto]]:
    for part in lowered.parts:
        runnable, stripped = (onnx.load(str(path), load_external_data=False) for path in (part.runnable, part.tensorrt))
        yield part, runnable, stripped


def test_plugins_are_counted(lowered: Lowered) -> None:
    """Stages 1 and 2 of three have heads of 32: 2 blocks of two attentions each; the decoder has 3 layers."""
    assert lowered.vision.plugins == {"FlorenceWindowAttention": 4, "FlorenceChannelAttention": 4}
    assert lowered.encoder.plugins == {}
    assert lowered.decoder.plugins == {"FlorenceDecoderSelfAttention": 3, "FlorenceDecoderCrossAttention": 3}


def test_both_forms_are_valid_and_differ_in_the_functions_alone(lowered: Lowered) -> None:
    for part, runnable, stripped in protos(lowered):
        for path in (part.runnable, part.tensorrt):
            onnx.checker.check_model(str(path), full_check=True)
        assert {function.name for function in runnable.functions} == part.plugins.keys()
        assert not stripped.functions
        del runnable.functions[:]
        assert runnable.SerializeToString(deterministic=True) == stripped.SerializeToString(deterministic=True)
        counted = Counter(node.op_type for node in stripped.graph.node if node.op_type in PLUGINS)
        assert counted == part.plugins
        assert all((node.domain == DOMAIN) == (node.op_type in PLUGINS) for node in stripped.graph.node)


def test_onnx_runtime_cannot_run_the_stripped_form(lowered: Lowered) -> None:
    with pytest.raises(Exception, match="Florence"):
        onnxruntime.InferenceSession(str(lowered.decoder.tensorrt), providers=["CPUExecutionProvider"])


def test_nothing_is_left_of_the_attentions_that_were_replaced(lowered: Lowered) -> None:
    stripped = {part.name: graph.graph for part, _, graph in protos(lowered)}
    kinds = {name: Counter(node.op_type for node in graph.node) for name, graph in stripped.items()}
    allowed = {"Reshape", "Gather", "Add", "LayerNormalization", "MatMul", "Gelu", "Gemm", *lowered.decoder.plugins}
    assert kinds["decoder"].keys() == allowed
    # Two attentions of the first stage keep their operators, the encoder keeps its one layer's.
    assert kinds["vision"]["Softmax"] == 2
    assert kinds["encoder"]["Softmax"] == 1
    assert not {"Pad", "Cast"} & kinds["vision"].keys()
    owners = [node.name for node in stripped["vision"].node if node.op_type == "Softmax"]
    assert all(owner.startswith("vision.stages.0.") for owner in owners)


def test_inputs_and_outputs_are_those_stated(lowered: Lowered) -> None:
    for part, runnable, _ in protos(lowered):
        for stated, found in ((part.inputs, runnable.graph.input), (part.outputs, runnable.graph.output)):
            described = [
                (
                    value.name,
                    onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
                    .lower()
                    .replace("float", "float32"),
                    tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
                )
                for value in found
            ]
            assert described == [(tensor.name, tensor.dtype, tensor.shape) for tensor in stated]


def test_state_of_the_search_enters_as_its_kernels_have_it(lowered: Lowered) -> None:
    found = {tensor.name: str(tensor) for tensor in lowered.decoder.inputs[:5]}
    assert found == {
        "token_ids": "int32 [B, K]",
        "position": "int32 [1]",
        "indirection": "int32 [B, K, W]",
        "lengths": "int32 [B]",
        "image_done": "int32 [B]",
    }


def test_reshapes_have_constant_shapes(lowered: Lowered) -> None:
    for part, _, stripped in protos(lowered):
        constants = {tensor.name for tensor in stripped.graph.initializer}
        computed = [n.name for n in stripped.graph.node if n.op_type == "Reshape" and n.input[1] not in constants]
        assert not computed, part.name


def test_windows_are_fed_with_the_bias_of_their_projection(lowered: Lowered, bundle: Bundle) -> None:
    nodes = [n for n in onnx.load(str(lowered.vision.tensorrt)).graph.node if n.op_type == "FlorenceWindowAttention"]
    for node in nodes:
        assert node.input[1] == f"{node.name.rpartition('/')[0]}.qkv.bias"
        assert {a.name: a.i for a in node.attribute}["window"] == bundle.manifest.model["vision"]["window"]


def test_every_weight_is_stored_once_for_both_forms_of_all_graphs(lowered: Lowered) -> None:
    content = (lowered.folder / WEIGHTS).read_bytes()
    places = set()
    for _, *forms in protos(lowered):
        for form in forms:
            for tensor in form.graph.initializer:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                if entries:
                    assert entries["location"] == WEIGHTS
                    places.add((int(entries["offset"]), int(entries["length"])))
    assert len({content[offset : offset + length] for offset, length in places}) == len(places)
    assert sum(length for _, length in places) > 0.98 * len(content)


def test_profiles_fix_every_size_but_the_prompt_in_the_decoder(lowered: Lowered) -> None:
    buckets = Buckets(batches=(1, 4), beams=(1, 3), prompts=(32, 64), capacity=128)
    assert [profile.name for profile in lowered.vision.profiles(buckets)] == ["B=1", "B=4"]
    encoder = {profile.name: profile.shapes for profile in lowered.encoder.profiles(buckets)}
    assert list(encoder) == ["B=1 P=32", "B=1 P=64", "B=4 P=32", "B=4 P=64"]
    assert encoder["B=4 P=64"]["prompt_ids"] == ((4, 64),) * 3
    decoder = lowered.decoder.profiles(buckets)
    assert [profile.name for profile in decoder] == ["B=1 K=1", "B=1 K=3", "B=4 K=1", "B=4 K=3"]
    shapes = decoder[-1].shapes
    assert list(shapes) == [tensor.name for tensor in lowered.decoder.inputs]
    assert shapes["self_key_0"] == ((4, 3, 6, 128, 32),) * 3
    assert shapes["indirection"] == ((4, 3, 32),) * 3
    assert shapes["cross_key_0"] == ((4, 6, 133, 32), (4, 6, 133, 32), (4, 6, 165, 32))
    assert shapes["position"] == ((1,),) * 3


def test_a_bundle_says_what_buckets_it_needs(bundle: Bundle) -> None:
    found = Buckets.of(bundle.manifest, batches=(4, 1))
    assert found == Buckets(batches=(1, 4), beams=(1, 3), prompts=(32, 283), capacity=384)
    search = replace(bundle.manifest.search, max_new_tokens=100, beams=2)
    assert Buckets.of(replace(bundle.manifest, search=search)).capacity == 104


def test_sizes_that_no_engine_can_have_are_all_named() -> None:
    with pytest.raises(InputError, match=r"batches is \(\)(.|\n)*beams is \(3, 1\)(.|\n)*capacity is 30"):
        Buckets(batches=(), beams=(3, 1), prompts=(8,), capacity=30)
    with pytest.raises(InputError, match="at most 8"):
        Buckets(batches=(1,), beams=(9,), prompts=(8,), capacity=32)


def test_precisions_are_checked_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'fp64' is no precision for vision"):
        lower(bundle, tmp_path / "out", precision="fp64")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no precision is given for encoder"):
        lower(bundle, tmp_path / "out", precision={"vision": "fp16", "decoder": "fp16"})
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_lowered_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a bundle"):
        lower(bundle, bundle.folder)
    for other in (replace(bundle.manifest, precision="fp16"), replace(bundle.manifest, storage="int8")):
        with pytest.raises(InputError, match="lower the fp32 bundle"):
            lower(Bundle(bundle.folder, other), tmp_path / "out")
    graphs = bundle.manifest.graphs
    narrow = tuple(replace(tensor, shape=(*tensor.shape[:-1], 16)) for tensor in graphs.decoder.outputs[1:])
    decoder = replace(graphs.decoder, outputs=(graphs.decoder.outputs[0], *narrow))
    with pytest.raises(BundleError, match="decoder heads of 16; the kernels take heads of 32 or 64"):
        lower(
            Bundle(bundle.folder, replace(bundle.manifest, graphs=replace(graphs, decoder=decoder))), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_a_graph_of_another_make_is_refused_with_what_is_missing(bundle: Bundle, tmp_path: Path) -> None:
    for name in bundle.manifest.files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bundle.path(name).read_bytes())
    graph = ir.load(tmp_path / "decoder.onnx")
    value = next(
        v for node in graph.graph for v in node.outputs if v.name == "decoder.layers.1.cross_attention.out.weight"
    )
    value.name = "some.other.weight"
    ir.save(graph, tmp_path / "decoder.onnx")
    with pytest.raises(BundleError, match=r"no weight decoder\.layers\.1\.cross_attention\.out\.weight"):
        lower(Bundle(tmp_path, bundle.manifest), tmp_path / "out")
