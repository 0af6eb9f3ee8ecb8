"""Verification: a sound bundle passes, also against its checkpoint or another bundle; every kind of damage is found."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.numpy_helper
import pytest

from florence_convert.comparison import CaseOptions
from florence_convert.verify import Check, VerifyReport, verify_bundle
from florence_edge.bundle import MANIFEST, seal
from florence_edge.errors import BundleError, InputError
from florence_edge.manifest import Graphs, Manifest, Parity, Tensor
from support.bundles import tiny_bundle
from support.engines import Engines, tiny_engines

FEW = CaseOptions(pairs=2, images=1, new_tokens=4)
OWN_CHECKS = ["files", "onnx", "tokenizer", "sessions", "interface", "finite", "stored parity"]


@pytest.fixture(scope="module")
def engines() -> Engines:
    return tiny_engines()


@pytest.fixture
def copy(engines: Engines, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(engines.bundle.folder, tmp_path / "copy"))


def reseal(folder: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> None:
    """Makes the manifest agree with the damaged files, as whoever altered them on purpose would."""
    seal(folder, change(Manifest.from_json((folder / MANIFEST).read_text())))


def edit(path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(str(path), load_external_data=False)
    change(model.graph)
    path.write_bytes(model.SerializeToString())


def faults(report: VerifyReport) -> dict[str, tuple[str, ...]]:
    return {check.name: check.faults for check in report.checks if not check.ok}


def test_a_sound_bundle_passes_by_itself(engines: Engines) -> None:
    steps: list[str] = []
    report = verify_bundle(engines.bundle.folder, on_step=steps.append)
    assert report.ok
    assert steps == [check.name for check in report.checks] == OWN_CHECKS
    assert report.comparison is None


def test_against_its_checkpoint(engines: Engines) -> None:
    report = verify_bundle(engines.bundle.folder, engines.checkpoint, options=FEW)
    assert report.ok
    assert report.comparison is not None
    assert 0 < max(report.comparison.max_abs_error.values()) < 1e-4
    assert report.comparison.identical == {"greedy": 2, "beams_3": 2}


def test_against_an_equal_bundle_nothing_differs(engines: Engines, copy: Path) -> None:
    report = verify_bundle(engines.bundle.folder, copy, options=FEW)
    assert report.ok
    assert report.comparison is not None
    assert set(report.comparison.max_abs_error.values()) == {0.0}


def shift_bias(graph: onnx.GraphProto) -> None:
    bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("mlp.fc1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.5, bias.name))


def spoil_bias(graph: onnx.GraphProto) -> None:
    bias = next(tensor for tensor in graph.initializer if tensor.name.endswith("mlp.fc1.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * float("nan"), bias.name))


def test_other_weights_are_over_tolerance_in_their_own_graph_only(engines: Engines, copy: Path) -> None:
    edit(copy / "encoder.onnx", shift_bias)
    reseal(copy)
    report = verify_bundle(copy, engines.checkpoint, options=FEW)
    assert not report.ok
    assert list(faults(report)) == ["comparison"]
    over = [fault.split(":")[0] for fault in faults(report)["comparison"]]
    assert "encoder" in over
    assert not {"vision", "decoder"} & set(over)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["ok"] is False
    assert values["comparison"]["max_abs_error"]["encoder"] > 1e-3


def test_an_infinite_error_is_null_in_json() -> None:
    parity = Parity("torch", 0, 4, 8, {"vision": math.inf, "encoder": 0.5}, {"vision": 1.0, "encoder": 1.0}, {})
    values = VerifyReport("bundle", (Check("comparison", ("far off",)),), parity).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False))["comparison"]["max_abs_error"] == {
        "vision": None,
        "encoder": 0.5,
    }
    assert values["checks"] == [{"name": "comparison", "ok": False, "faults": ["far off"]}]


def test_an_altered_file_does_not_even_open(copy: Path) -> None:
    content = bytearray((copy / "weights.bin").read_bytes())
    content[-1] ^= 1
    (copy / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin was altered"):
        verify_bundle(copy)


def test_weights_that_are_not_finite_are_found(engines: Engines, copy: Path) -> None:
    edit(copy / "vision.onnx", spoil_bias)
    reseal(copy)
    report = verify_bundle(copy, engines.checkpoint)
    assert "vision: its outputs are not finite" in faults(report)["finite"]
    assert report.comparison is None
    assert report.checks[-1].name == "stored parity", "what is unsound is compared with nothing"


def test_a_graph_that_is_no_onnx_is_found(copy: Path) -> None:
    (copy / "decoder.onnx").write_bytes(b"\x08\x07nonsense")
    reseal(copy)
    report = verify_bundle(copy)
    assert set(faults(report)) == {"onnx", "sessions"}
    assert "decoder.onnx" in faults(report)["onnx"][0]


def test_weights_outside_the_listed_files_are_found(copy: Path) -> None:
    (copy / "weights.bin").rename(copy.parent / "weights.bin")

    def move(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../weights.bin"

    edit(copy / "encoder.onnx", move)
    shutil.copy(copy.parent / "weights.bin", copy / "weights.bin")
    reseal(copy)
    assert any("encoder" in fault for fault in faults(verify_bundle(copy))["onnx"])


def test_a_tensor_past_the_end_of_its_file_is_found(copy: Path) -> None:
    size = (copy / "weights.bin").stat().st_size
    with (copy / "weights.bin").open("r+b") as stream:
        stream.truncate(size - 4)
    reseal(copy)
    (fault,) = faults(verify_bundle(copy))["onnx"]
    assert f" ends at byte {size} of weights.bin, which has {size - 4}" in fault


def test_an_output_that_cannot_be_of_its_type_is_found(copy: Path) -> None:
    def declare(graph: onnx.GraphProto) -> None:
        graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64

    edit(copy / "vision.onnx", declare)
    reseal(copy)
    (fault,) = faults(verify_bundle(copy))["onnx"]
    assert fault.startswith("vision.onnx: [ShapeInferenceError]")


def test_a_manifest_with_another_interface_is_found(copy: Path) -> None:
    def rename(manifest: Manifest) -> Manifest:
        vision = manifest.graphs.vision
        (pixels,) = vision.inputs
        other = replace(vision, inputs=(Tensor("image", pixels.dtype, pixels.shape),))
        return replace(manifest, graphs=Graphs(other, manifest.graphs.encoder, manifest.graphs.decoder))

    reseal(copy, rename)
    (fault,) = faults(verify_bundle(copy))["interface"]
    shape = "float32 [B, 3, 64, 96]"
    assert fault == f"vision.onnx: its inputs are pixels {shape}; the manifest says image {shape}"


def test_models_with_other_inputs_cannot_be_compared(engines: Engines) -> None:
    with pytest.raises(
        InputError, match=r"vision: pixels is float32 \[B, 3, 64, 96\] here and float32 \[B, 3, 64, 64\]"
    ):
        verify_bundle(engines.bundle.folder, tiny_bundle())
    with pytest.raises(InputError, match="tabletop cannot be compared on the same inputs"):
        verify_bundle(engines.bundle.folder, "tabletop")


def test_a_manifest_with_another_vocabulary_is_found(copy: Path) -> None:
    reseal(copy, lambda manifest: replace(manifest, tokenizer=replace(manifest.tokenizer, bos=5)))
    assert "is of another model: it has" in faults(verify_bundle(copy))["tokenizer"][0]


def test_stored_numbers_over_tolerance_are_found(copy: Path) -> None:
    def worse(manifest: Manifest) -> Manifest:
        assert manifest.parity is not None
        errors = {**manifest.parity.max_abs_error, "vision": 0.5}
        return replace(manifest, parity=replace(manifest.parity, max_abs_error=errors, identical={"greedy": 1}))

    reseal(copy, worse)
    found = faults(verify_bundle(copy))["stored parity"]
    assert found == (
        "vision: the largest error is 0.5, allowed is 0.0001",
        "greedy: 1 of 4 answers have the same token ids",
    )
