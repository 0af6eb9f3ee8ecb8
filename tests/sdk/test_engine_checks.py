"""What keeps an engine from being opened: each thing has its own error, raised before TensorRT sees the file."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_convert.lowering import Buckets
from florence_edge.backends.registry import open_backend
from florence_edge.backends.tensorrt import plugins, surface
from florence_edge.backends.tensorrt.libraries import check_version, logger
from florence_edge.backends.tensorrt.sidecar import plan_version, read_sidecar, sidecar_path
from florence_edge.bundle import Bundle, seal
from florence_edge.errors import (
    BackendError,
    DependencyError,
    EngineDeviceError,
    EngineError,
    EngineFileError,
    EnginePluginError,
    EngineVersionError,
    InputError,
)
from support.fake_engines import fake_platform, fake_plugins, kernel_library, open_fake, write_engines
from support.fake_gpu import FakeGpu
from support.fake_tensorrt import FakeContext, FakeTensorRT
from support.nvidia_names import recorded

COMMAND = "florence-edge build somewhere"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    sizes = Buckets(batches=(1,), beams=(1,), prompts=(12,), capacity=16)
    return write_engines(Bundle.open("tabletop"), tmp_path_factory.mktemp("engines"), buckets=sizes)


@pytest.fixture
def bundle(built: Bundle, tmp_path: Path) -> Bundle:
    """A copy that a test may spoil."""
    shutil.copytree(built.folder, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(kernel_library())


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> Bundle:
    """The bundle with another sidecar of its decoder, whose manifest agrees."""
    path = sidecar_path(bundle.decoder)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    seal(bundle.folder, bundle.manifest)
    return Bundle.open(bundle.folder)


def test_an_untouched_bundle_opens(bundle: Bundle, gpu: FakeGpu) -> None:
    open_fake(bundle, gpu).close()
    assert plan_version(bundle.vision) == (10, 3, 0, 0)
    sidecar = read_sidecar(bundle.vision)
    sidecar.save(bundle.vision)
    assert read_sidecar(bundle.vision) == sidecar


def test_an_altered_engine_is_refused_whatever_the_bundle_was_opened_with(bundle: Bundle, gpu: FakeGpu) -> None:
    content = bytearray(bundle.vision.read_bytes())
    content[-1] ^= 1
    bundle.vision.write_bytes(content)
    by_size = Bundle.open(bundle.folder, verify="size")
    with pytest.raises(EngineFileError, match=rf"vision\.engine was altered.*; build it again, here: {COMMAND}"):
        open_fake(by_size, gpu)


@pytest.mark.parametrize("content", [b"", b"ftrt", b"\x7fELF" + bytes(40)])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(EngineFileError, match="build the bundle again"):
        plan_version(tmp_path / "x.engine")


def test_another_tensorrt_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    with pytest.raises(EngineVersionError, match=rf"by TensorRT 10\.3\.0, this machine has 10\.7\.0.*{COMMAND}"):
        open_fake(bundle, gpu, fake_platform(gpu, version="10.7.0"))


@pytest.mark.parametrize(("name", "sm", "processors"), [("Orin", 87, 8), ("Thor", 110, 20), ("Orin", 89, 16)])
def test_another_gpu_is_refused(bundle: Bundle, name: str, sm: int, processors: int) -> None:
    other = FakeGpu(kernel_library(), name=name, sm=sm, processors=processors)
    with pytest.raises(EngineDeviceError, match=rf"this machine has {name} \(sm_{sm}, {processors} .*{COMMAND}"):
        open_fake(bundle, other)


def test_a_tensorrt_that_does_not_start_is_explained(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the driver is too old for its CUDA, TensorRT logs that and its bindings raise a TypeError."""

    def start(tensorrt: FakeTensorRT, log: Any) -> None:
        log.log(tensorrt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(FakeTensorRT, "Runtime", start)
    with pytest.raises(
        EngineError, match=r"a newer driver \(florence-edge doctor\):\n  - CUDA .* failure with error: 35"
    ):
        open_fake(bundle, gpu)


def test_what_tensorrt_refuses_to_run_carries_its_log(
    bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = fake_platform(gpu)
    backend = open_fake(bundle, gpu, platform)

    def refuse(context: FakeContext, stream_handle: int) -> bool:
        log = logger(platform.tensorrt)
        log.log(log.Severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
        return False

    monkeypatch.setattr(FakeContext, "execute_async_v3", refuse)
    image = bundle.manifest.image
    with pytest.raises(BackendError, match=rf"refused to run, for vision\.engine;.*{COMMAND}\n.*- .*out of memory"):
        backend.encode_image(np.zeros((1, 3, image.height, image.width), np.float32))
    backend.close()


def test_another_plugin_abi_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    edited = edit(bundle, lambda values: values["plugins"].update(abi=2))
    with pytest.raises(EnginePluginError, match=rf"plugin ABI 2, .* has 1; build it again: {COMMAND}"):
        open_fake(edited, gpu)


def test_a_sidecar_that_does_not_belong_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    edited = edit(bundle, lambda values: values["machine"].update(tensorrt="10.5.0"))
    with pytest.raises(EngineFileError, match=r"was written by TensorRT 10\.3\.0\.0, its sidecar says 10\.5\.0"):
        open_fake(edited, gpu)
    edited = edit(bundle, lambda values: values.update(part="vision"))
    with pytest.raises(EngineFileError, match=r"decoder\.engine is the vision engine, not the decoder engine"):
        open_fake(edited, gpu)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda values: values.update(extra=1), "unknown key extra"),
        (lambda values: values.pop("origin"), "missing key origin"),
        (lambda values: values["machine"].update(sm="87"), "machine.sm is '87'; it must be an integer"),
        (lambda values: values.update(format=9), "has format 9"),
    ],
)
def test_an_invalid_sidecar_is_refused(
    bundle: Bundle, gpu: FakeGpu, change: Callable[[dict[str, Any]], None], shown: str
) -> None:
    with pytest.raises(EngineFileError, match=shown):
        open_fake(edit(bundle, change), gpu)


def test_a_missing_sidecar_is_refused(bundle: Bundle, gpu: FakeGpu) -> None:
    sidecar_path(bundle.encoder).unlink()
    with pytest.raises(EngineFileError, match=r"encoder\.engine\.json cannot be read.*florence-edge build"):
        open_fake(bundle, gpu)


def test_tensorrt_refusing_an_engine_is_quoted(bundle: Bundle, gpu: FakeGpu) -> None:
    """The plugins are not loaded, as if the sidecar forgot them: TensorRT returns None and says why in its log."""
    edited = edit(bundle, lambda values: values["plugins"].update(layers={}))
    others = {name: read_sidecar(bundle.path(graph.file)) for name, graph in bundle.manifest.graphs.items()}
    assert others["vision"].plugins.layers
    path = bundle.vision
    dataclasses.replace(others["vision"], plugins=dataclasses.replace(others["vision"].plugins, layers={})).save(path)
    seal(bundle.folder, edited.manifest)
    with pytest.raises(EngineError, match=rf"TensorRT cannot open (.|\n)*{COMMAND}(.|\n)*Error Code 4"):
        open_fake(Bundle.open(bundle.folder), gpu)


def test_tensors_must_be_the_manifests(bundle: Bundle, gpu: FakeGpu) -> None:
    (features,) = bundle.manifest.graphs.vision.outputs
    graph = dataclasses.replace(bundle.manifest.graphs.vision, outputs=(dataclasses.replace(features, name="renamed"),))
    manifest = dataclasses.replace(bundle.manifest, graphs=dataclasses.replace(bundle.manifest.graphs, vision=graph))
    seal(bundle.folder, manifest)
    with pytest.raises(EngineFileError, match="disagree about the tensors features, renamed"):
        open_fake(Bundle.open(bundle.folder), gpu)


def test_registering_twice_is_harmless_and_half_a_library_is_not(gpu: FakeGpu) -> None:
    library, wanted = fake_plugins("10.3.0"), ["FlorenceWindowAttention", "FlorenceChannelAttention"]
    tensorrt: Any = FakeTensorRT(gpu, plugins=wanted)
    for _ in range(3):
        plugins.register(tensorrt, library, wanted)
    assert tensorrt.registry.loads == 1
    poor: Any = FakeTensorRT(gpu, plugins=wanted[:1])
    with pytest.raises(EnginePluginError, match="did not take FlorenceChannelAttention from"):
        plugins.register(poor, library, wanted)


def test_the_registered_backend_says_what_is_missing(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="threads is 2; the tensorrt backend has no use for it"):
        open_backend("tensorrt", bundle, threads=2)
    with pytest.raises(DependencyError, match="TensorRT"):
        open_backend("tensorrt", bundle)
    with pytest.raises(DependencyError, match=r"TensorRT 8\.6\.2 is too old, 10\.3 or later .*JetPack 6\.1"):
        check_version("8.6.2")
    check_version("10.13.3.9")
    with pytest.raises(BackendError):
        open_backend("onnx", bundle)


def test_only_warnings_and_worse_are_kept() -> None:
    found = logger(FakeTensorRT)
    for severity, text in enumerate(("internal", "error", "warning", "info", "verbose")):
        found.log(severity, text)
    assert [*found.lines] == ["internal", "error", "warning"]
    assert logger(FakeTensorRT) is found, "TensorRT keeps the first that it is given"


@pytest.mark.parametrize(
    ("protocol", "section"),
    [
        *((kind, "pycuda") for kind in (surface.Allocation, surface.CudaStream, surface.PrimaryContext)),
        *((kind, "pycuda") for kind in (surface.CudaDevice, surface.Driver)),
        *((kind, "tensorrt") for kind in (surface.ExecutionContext, surface.Engine, surface.Runtime)),
        *((kind, "tensorrt") for kind in (surface.PluginRegistry, surface.TensorRT)),
    ],
)
def test_every_name_used_is_nvidias(protocol: type, section: str) -> None:
    """Against what the sources of the oldest and the newest version define; a module's version is Python's own."""
    members = {name for name in vars(protocol) if not name.startswith("_")} | set(inspect.get_annotations(protocol))
    assert members
    assert members - {"__version__"} <= recorded(section)
