"""What is OpenVINO's own: its presence and version, devices and their settings, graphs that it refuses, its memory.

That it answers like every other backend is in `test_backend_contract.py` and `test_backend_parity.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import openvino as engine
import pytest
from PIL import Image

from florence_edge import Florence, SearchOptions
from florence_edge.backends import openvino
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.openvino import OpenVinoBackend
from florence_edge.bundle import Bundle
from florence_edge.cli.main import main
from florence_edge.errors import BackendError, BundleError, DependencyError, InputError
from florence_edge.geometry import Float32Array

PROMPT = np.asarray([0, 5, 6, 7, 2])
PICTURE = Bundle.open("tabletop", verify="size").path("demo.png")
QUESTIONS = (
    ("<OD>", None),
    ("<MORE_DETAILED_CAPTION>", None),
    ("<OCR_WITH_REGION>", None),
    ("<OPEN_VOCABULARY_DETECTION>", ["cube", "bowl"]),
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("tabletop", verify="size")


@pytest.fixture
def backend(bundle: Bundle) -> Iterator[OpenVinoBackend]:
    opened = OpenVinoBackend(bundle, threads=1)
    yield opened
    opened.close()


def pixels(bundle: Bundle, count: int = 1) -> Float32Array:
    image = bundle.manifest.image
    return np.random.default_rng(0).normal(size=(count, 3, image.height, image.width)).astype(np.float32)


class FakeCore:
    """A machine with two Intel GPUs and an NPU; it notes what it is to compile."""

    available_devices = ("CPU", "GPU.0", "GPU.1", "NPU")

    def __init__(self) -> None:
        self.compiled: list[tuple[str, dict[str, Any]]] = []

    def read_model(self, path: str) -> Any:
        return engine.Core().read_model(path)

    def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> None:
        self.compiled.append((device, settings))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    core = FakeCore()
    found = SimpleNamespace(__version__="2025.0.0-1-release", Core=lambda: core)
    monkeypatch.setitem(sys.modules, "openvino", found)
    return core


def test_probe_tells_versions_and_devices() -> None:
    assert openvino.probe().startswith(f"openvino {engine.__version__.split('-')[0]} with CPU")
    assert f"onnxruntime {onnxruntime.__version__}" in openvino.probe()


@pytest.mark.parametrize(("library", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_without_its_libraries_the_pip_line_is_named(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for opening in (lambda: OpenVinoBackend(bundle), openvino.probe):
        with pytest.raises(DependencyError, match=rf"{library} is needed .*pip install 'florence-edge\[{extra}\]'"):
            opening()


@pytest.mark.parametrize("version", ["2024.6.0-17404-4c0f47d2335-releases/2024/6", "2023.3.0"])
def test_too_old_a_version_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(__version__=version))
    with pytest.raises(
        DependencyError, match=rf"{version.split('-')[0]} is too old.*pip install -U 'openvino>=2025.0'"
    ):
        openvino.probe()


@pytest.mark.parametrize("providers", [["TPU"], ["CPUExecutionProvider"], ["GPU.7"], ["CPU", "GPU"], ["AUTO"]])
def test_other_than_one_device_of_this_machine_is_refused(bundle: Bundle, core: FakeCore, providers: list[str]) -> None:
    with pytest.raises(InputError, match=r"takes one device.*finds here: CPU, GPU\.0, GPU\.1, NPU"):
        OpenVinoBackend(bundle, providers=providers)


@pytest.mark.parametrize(
    ("device", "vision", "encoder"),
    [("CPU", "CPU", "CPU"), ("GPU", "GPU", "GPU"), ("GPU.1", "GPU.1", "GPU.1"), ("NPU", "NPU", "CPU")],
)
def test_every_graph_goes_to_a_device_that_takes_it(
    bundle: Bundle, core: FakeCore, monkeypatch: pytest.MonkeyPatch, device: str, vision: str, encoder: str
) -> None:
    monkeypatch.setenv("FLORENCE_CACHE", "/cache")
    OpenVinoBackend(bundle, threads=3, providers=[device]).close()
    assert [where for where, _ in core.compiled] == [vision, encoder]
    for where, settings in core.compiled:
        assert settings["PERFORMANCE_HINT"] == "LATENCY"
        assert settings.get("CACHE_DIR") == (None if where == "CPU" else "/cache/openvino")
        assert settings.get("INFERENCE_NUM_THREADS") == (3 if where == "CPU" else None)
        precision = settings.get("INFERENCE_PRECISION_HINT"), settings.get("EXECUTION_MODE_HINT")
        assert precision == {"CPU": ("f32", None), "NPU": (None, None)}.get(where, (None, "ACCURACY"))


def test_openvino_takes_the_settings_of_the_cpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    compile_model = engine.Core.compile_model

    def noted(*given: Any) -> Any:
        made.append(compile_model(*given))
        return made[-1]

    monkeypatch.setattr(engine.Core, "compile_model", noted)
    OpenVinoBackend(bundle, threads=1).close()
    assert [model.inputs[0].partial_shape.is_static for model in made] == [True, False]
    for model in made:
        assert model.get_property("INFERENCE_PRECISION_HINT") == engine.Type.f32
        assert model.get_property("INFERENCE_NUM_THREADS") == 1
        assert model.get_property("ENABLE_CPU_PINNING") is False


def test_a_damaged_graph_is_refused_when_the_bundle_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("vision.onnx", "encoder.onnx", "decoder.onnx"):
        folder = Path(shutil.copytree(bundle.folder, tmp_path / name))
        (folder / name).write_bytes((folder / name).read_bytes()[:-200])
        with pytest.raises(BackendError, match=rf"cannot (open|compile) .*{name}(.|\n)*verify the bundle"):
            OpenVinoBackend(Bundle(folder, bundle.manifest))


def test_damaged_weights_are_noticed_while_running(bundle: Bundle, backend: OpenVinoBackend, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    weights = np.memmap(folder / "weights.bin", dtype=np.float32, mode="r+")
    features = backend.encode_image(pixels(bundle))
    weights[:] = np.nan
    weights.flush()
    damaged = OpenVinoBackend(Bundle(folder, bundle.manifest), threads=1)
    with pytest.raises(BackendError, match="non-finite features"):
        damaged.encode_image(pixels(bundle))
    with pytest.raises(BackendError, match="non-finite logits for prompt 0 at step 1"):
        damaged.generate(features, [PROMPT], SearchOptions(max_new_tokens=8))


@pytest.mark.parametrize(("name", "other"), [("vision", "encoder"), ("encoder", "decoder"), ("decoder", "encoder")])
def test_a_graph_with_other_inputs_is_refused(bundle: Bundle, tmp_path: Path, name: str, other: str) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    shutil.copy(folder / f"{other}.onnx", folder / f"{name}.onnx")
    with pytest.raises(BundleError, match=rf"not those of its manifest(.|\n)*{name}\.onnx: its inputs are .* says "):
        OpenVinoBackend(Bundle(folder, bundle.manifest))


def test_graphs_of_another_image_size_than_the_manifests_are_refused(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs
    (taken,) = graphs.vision.inputs
    vision = replace(graphs.vision, inputs=(replace(taken, shape=(*taken.shape[:2], 96, 240)),))
    image = replace(bundle.manifest.image, height=96)
    manifest = replace(bundle.manifest, image=image, graphs=replace(graphs, vision=vision))
    with pytest.raises(BundleError, match=r"float32 \[\?, 3, 240, 240\]; .* says pixels float32 \[B, 3, 96, 240\]"):
        OpenVinoBackend(Bundle(bundle.folder, manifest))


def test_giving_working_memory_back_between_runs_disturbs_nobody(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after every large picture, in four threads at once; what a run made outlives its request and all others."""
    images, options = pixels(bundle, 4), SearchOptions(max_new_tokens=8, min_new_tokens=8)
    prompts = [np.asarray([0, *range(5, 9 + row), 2]) for row in range(4)]
    reference = OnnxBackend(bundle, threads=1)
    features = reference.encode_image(images)
    expected = [reference.generate(features, [prompts[row]], options, [row])[0].ids.tolist() for row in range(4)]
    monkeypatch.setattr(openvino, "LARGE_PIXELS", 0)
    backend = OpenVinoBackend(bundle, threads=1)

    def answer(row: int) -> tuple[Float32Array, list[int]]:
        seen = backend.encode_image(images[row : row + 1])
        return seen.numpy(), backend.generate(seen, [prompts[row]], options)[0].ids.tolist()

    with ThreadPoolExecutor(4) as pool:
        for found in [list(pool.map(answer, range(4))) for _ in range(4)]:
            np.testing.assert_allclose(np.concatenate([seen for seen, _ in found]), features.numpy(), atol=1e-4)
            assert [ids for _, ids in found] == expected


def test_the_bundled_model_answers_as_in_onnx_runtime() -> None:
    with Florence.load("tabletop", threads=1) as one, Florence.load("tabletop", backend="openvino", threads=1) as other:
        views = one.encode(PICTURE), other.encode(PICTURE)
        for beams in (1, 3):
            options = SearchOptions(beams=beams)
            for task, given in QUESTIONS:
                ours, theirs = (
                    one.run(task, views[0], given, search=options),
                    other.run(task, views[1], given, search=options),
                )
                assert ours.raw == theirs.raw
                np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


def test_an_int8_bundle_answers_as_well_as_in_onnx_runtime(tmp_path: Path) -> None:
    """Not with the same ids: the two round differently, and neither is nearer to fp32."""
    from florence_convert.quantise import QuantiseOptions, quantise_bundle  # needs onnx, which the backend does not

    quantised = quantise_bundle("tabletop", tmp_path / "int8", options=QuantiseOptions(max_loss=1.0))
    features, answers = [], []
    for source, name in (("tabletop", "onnx"), (quantised, "onnx"), (quantised, "openvino")):
        with Florence.load(source, backend=name, threads=1) as model:
            view = model.encode(PICTURE)
            features.append(view.features.numpy())
            answers.append(model.detect(view, search=SearchOptions(beams=1)))
    exact, theirs, ours = features
    assert np.linalg.norm(ours - exact) < 1.5 * np.linalg.norm(theirs - exact)
    assert answers[2].labels == answers[1].labels
    assert len(answers[1]) >= 3
    np.testing.assert_allclose(answers[2].boxes, answers[1].boxes, atol=0.01 * max(Image.open(PICTURE).size))
    np.testing.assert_allclose(answers[2].scores, answers[1].scores, atol=0.02)


def test_the_command_runs_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "detect", str(PICTURE), "--backend", "openvino", "--threads", "1", "--json"]) == 0
    assert "cube" in json.loads(capsys.readouterr().out)["result"]["labels"]


OFFLINE = """
import socket, sys, threading

opened = []

class Refused(socket.socket):
    def __init__(self, *arguments, **options):
        opened.append(arguments)
        raise OSError("no network")

def refuse(*arguments, **options):
    opened.append(arguments)
    raise OSError("no network")

socket.socket = Refused
socket.getaddrinfo = socket.gethostbyname = refuse

import florence_edge.backends.openvino
print({"openvino", "onnxruntime"} & set(sys.modules))
from florence_edge import Florence
with Florence.load("tabletop", backend="openvino", threads=1) as model:
    assert model.caption(sys.argv[1]).text
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(10)
print(opened, "openvino_telemetry" in sys.modules)
"""


def test_it_is_imported_when_it_is_asked_for_and_without_its_telemetry() -> None:
    """Importing OpenVINO by itself looks up www.google-analytics.com."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    script = [sys.executable, "-c", OFFLINE, str(PICTURE)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "[] False"]
