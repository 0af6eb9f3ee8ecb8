"""A bundle of engines for the doubles of GPU and TensorRT: lowered by the real code, planned by the double's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from florence_convert.build.assemble import engine_name, profile_sizes, write_bundle
from florence_convert.build.origin import origin_of
from florence_convert.build.settings import Job
from florence_convert.lowering import Buckets, Lowered, LoweredPart, PartName, Precision, lower
from florence_edge.backends.kernel_library import KernelLibrary
from florence_edge.backends.tensorrt.backend import TensorRTBackend
from florence_edge.backends.tensorrt.plugins import PluginLibrary
from florence_edge.backends.tensorrt.sidecar import Machine, Plugins, Sidecar
from florence_edge.backends.tensorrt.surface import Platform
from florence_edge.bundle import Bundle, file_record
from florence_edge.errors import BuildError
from support.fake_gpu import FakeDriver, FakeGpu, FakeKernels
from support.fake_tensorrt import VERSION, FakeTensorRT, plan_bytes
from support.kernels import native_library

PLUGINS = (
    "FlorenceWindowAttention",
    "FlorenceChannelAttention",
    "FlorenceDecoderSelfAttention",
    "FlorenceDecoderCrossAttention",
)


def kernel_library() -> KernelLibrary:
    """The CPU twins."""
    return KernelLibrary(native_library())


def fake_platform(gpu: FakeGpu, *, version: str = VERSION) -> Platform:
    """The doubles over one device."""
    tensorrt: Any = FakeTensorRT(gpu, version=version, plugins=PLUGINS)
    driver: Any = FakeDriver(gpu)
    return Platform(tensorrt, driver, FakeKernels(gpu))


def fake_plugins(version: str) -> PluginLibrary:
    """Stands for the library that a build would have found."""
    return PluginLibrary(Path(__file__), abi=1, headers=100300)


def fake_plan(part: LoweredPart, buckets: Buckets, version: str = VERSION) -> bytes:
    """The plan of a lowered part."""
    profiles = [dict(profile.shapes) for profile in part.profiles(buckets)]
    return plan_bytes(part.runnable.resolve(), profiles, version, sorted(part.plugins))


def write_engines(
    source: Bundle,
    folder: Path,
    *,
    precision: Precision = "fp32",
    buckets: Buckets | None = None,
    gpu: FakeGpu | None = None,
) -> Bundle:
    """Lowers a bundle below `folder` and writes the bundle of its engines there, for a device like `gpu`."""
    lowered = lower(source, folder / "graphs", precision=precision)
    sizes = buckets or Buckets.of(source.manifest, batches=(1, 2))
    made: dict[PartName, tuple[Path, Sidecar]] = {
        part.name: _engine(lowered, part, sizes, folder, gpu) for part in lowered.parts
    }
    return write_bundle(source, lowered, made, folder / "engines", precision=precision)


def _engine(
    lowered: Lowered, part: LoweredPart, buckets: Buckets, folder: Path, gpu: FakeGpu | None
) -> tuple[Path, Sidecar]:
    path = folder / engine_name(part.name)
    path.write_bytes(fake_plan(part, buckets))
    here = Machine("Orin", 87, 16, VERSION) if gpu is None else Machine(gpu.name, gpu.sm, gpu.processors, VERSION)
    sidecar = Sidecar(
        part=part.name,
        engine=file_record(path),
        precision=part.precision,
        machine=here,
        origin=origin_of(part.tensorrt),
        plugins=Plugins(1, "0" * 64, part.plugins),
        buckets=profile_sizes(part, buckets),
        settings={},
        seconds=1.0,
        command="florence-edge build somewhere",
    )
    return path, sidecar


def open_fake(bundle: Bundle, gpu: FakeGpu, platform: Platform | None = None) -> TensorRTBackend:
    """The tensorrt backend over the doubles."""
    return TensorRTBackend(bundle, platform or fake_platform(gpu), plugins=fake_plugins)


class FakeBuilder:
    """Writes a plan that runs the graph's runnable twin. `noise` spoils parts in a precision other than fp32."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.jobs: list[Job] = []
        self.noise: dict[str, float] = {}
        self.everywhere = False
        self.fail_at: str | None = None

    def build(self, job: Job, on_progress: Callable[[float], None]) -> None:
        part = Path(job.graph).name.removesuffix(".trt.onnx")
        if part == self.fail_at:
            raise BuildError(f"{part} was killed")
        self.jobs.append(job)
        self.built.append(part)
        on_progress(0.5)
        runnable = Path(job.graph).with_name(f"{part}.onnx").resolve()
        exact = self._is_exact(runnable)
        noise = self.noise.get(part, 0.0) if self.everywhere or not exact else 0.0
        # A plan does not read the graph it was built of, which a later round or the end of the build removes.
        own = Path(tempfile.mkdtemp(dir=runnable.parents[2]))
        for name in (runnable.name, "weights.bin"):
            (own / name).write_bytes((runnable.parent / name).read_bytes())
        plan = plan_bytes(own / runnable.name, job.profiles, plugins=job.plugin_names, noise=noise)
        Path(job.out).write_bytes(plan)
        on_progress(1.0)

    @staticmethod
    def _is_exact(graph: Path) -> bool:
        initializers = onnx.load(str(graph), load_external_data=False).graph.initializer
        return not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in initializers)
