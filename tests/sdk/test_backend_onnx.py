"""What is ONNX Runtime's own: its presence and version, execution providers, threads, graphs that it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from florence_edge.backends import _onnx_decoder, onnx
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError, DependencyError, InputError
from florence_edge.geometry import Float32Array
from florence_edge.manifest import Graphs
from florence_edge.options import SearchOptions
from support.bundles import tiny_bundle

PROMPT = np.asarray([0, 5, 6, 7, 2])


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(tiny_bundle(), verify="size")


def pixels(bundle: Bundle) -> Float32Array:
    image = bundle.manifest.image
    return np.random.default_rng(0).normal(size=(1, 3, image.height, image.width)).astype(np.float32)


def test_probe_tells_version_and_providers() -> None:
    assert onnx.probe().startswith(f"onnxruntime {onnxruntime.__version__} with ")
    assert "CPUExecutionProvider" in onnx.probe()


def test_without_onnxruntime_the_pip_line_is_named(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"pip install 'florence-edge\[onnx\]'"):
        OnnxBackend(bundle)


@pytest.mark.parametrize(("version", "fits"), [("1.19.2", False), ("0.9", False), ("1.20.0", True), ("2.0.1", True)])
def test_too_old_a_version_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    found = SimpleNamespace(__version__=version, get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", found)
    if fits:
        assert version in onnx.probe()
    else:
        with pytest.raises(DependencyError, match=r"too old.*pip install -U 'onnxruntime>=1.20'"):
            onnx.probe()


def test_a_provider_of_another_build_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"no TensorrtExecutionProvider; it has .*CPUExecutionProvider"):
        OnnxBackend(bundle, providers=["TensorrtExecutionProvider"])
    OnnxBackend(bundle, providers=["CPUExecutionProvider"]).close()


def test_a_damaged_graph_is_refused_when_the_bundle_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    graph = folder / bundle.manifest.graphs.decoder.file
    graph.write_bytes(graph.read_bytes()[:-200])
    with pytest.raises(BackendError, match=r"cannot open .*decoder\.onnx.*verify the bundle"):
        OnnxBackend(Bundle(folder, bundle.manifest))


def test_graphs_of_another_image_size_than_the_manifests_are_refused(bundle: Bundle) -> None:
    image, graphs = bundle.manifest.image, bundle.manifest.graphs
    (taken,) = graphs.vision.inputs
    vision = replace(graphs.vision, inputs=(replace(taken, shape=("B", 3, 96, image.width)),))
    manifest = replace(
        bundle.manifest, image=replace(image, height=96), graphs=Graphs(vision, graphs.encoder, graphs.decoder)
    )
    with pytest.raises(BundleError, match=r"pixels float32 \[B, 3, 64, 64\]; .* says pixels float32 \[B, 3, 96, 64\]"):
        OnnxBackend(Bundle(bundle.folder, manifest))


def test_damaged_weights_are_noticed_while_running(bundle: Bundle, tmp_path: Path) -> None:
    """Values that are no numbers pass ONNX Runtime in silence; they must not pass the search."""
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    weights = np.memmap(folder / "weights.bin", dtype=np.float32, mode="r+")
    features = OnnxBackend(bundle).encode_image(pixels(bundle))
    weights[:] = np.nan
    weights.flush()
    damaged = OnnxBackend(Bundle(folder, bundle.manifest), threads=1)
    with pytest.raises(BackendError, match="non-finite features"):
        damaged.encode_image(pixels(bundle))
    with pytest.raises(BackendError, match="non-finite logits for prompt 0 at step 1"):
        damaged.generate(features, [PROMPT], SearchOptions(max_new_tokens=8))


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_the_first_capacity_of_the_cache_changes_nothing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capacity: int
) -> None:
    backend = OnnxBackend(bundle, threads=1)
    features = backend.encode_image(pixels(bundle))
    options = SearchOptions(beams=3, max_new_tokens=20, min_new_tokens=20)
    (expected,) = backend.generate(features, [PROMPT], options)
    monkeypatch.setattr(_onnx_decoder, "FIRST_CAPACITY", capacity)
    (answer,) = backend.generate(features, [PROMPT], options)
    assert answer.ids.tolist() == expected.ids.tolist()
    assert answer.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize(("allowed", "cores", "threads"), [(8, 8, 0), (2, 64, 2), (1, 4, 1)])
def test_a_process_confined_to_some_cpus_gets_as_many_threads(
    monkeypatch: pytest.MonkeyPatch, allowed: int, cores: int, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert onnx._default_threads() == threads


def test_importing_the_backend_imports_no_runtime() -> None:
    script = (
        "import sys, florence_edge.backends.onnx, florence_edge.backends.registry; print('onnxruntime' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
