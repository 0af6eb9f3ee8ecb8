"""Runs the vision and encoder graphs of a bundle in OpenVINO; the one module of this package that imports it.

It reads the ONNX files of the bundle as they are. Decoder steps stay in ONNX Runtime: at base size in fp32 a step costs
the same in both (13.8 against 13.3 ms with one beam, 17.1 against 18.3 with three, CPU time on AVX-512), but OpenVINO
compiles anew for every shape that it meets, and prompts and answers differ in length: 50 ms each time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, DependencyError, InputError, missing
from florence_edge.files import cache_folder
from florence_edge.geometry import AnyArray, Float32Array
from florence_edge.manifest import Graph, Tensor

from . import onnx
from .interface import check_interfaces
from .onnx import LARGE_PIXELS, HostFeatures, OnnxBackend, closed
from .request import Request

MINIMUM = (2025, 0)
"""Oldest OpenVINO whose ONNX frontend reads the graphs; 2024.6 takes their weights for scalars."""

CPU = "CPU"
DEVICES: Mapping[str, Mapping[str, Any]] = {
    "CPU": {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False},
    "GPU": {"EXECUTION_MODE_HINT": "ACCURACY"},
    "NPU": {},
}
"""What is set for each kind of device.

CPU: fp32 where the processor would offer bf16, and threads that the system may move: a process pinned to a core waits
for whatever else runs there. GPU: the precision of the bundle instead of fp16. An NPU knows fp16 only.
"""

STATIC_ONLY = ("NPU",)
"""Devices that take no dynamic shapes; the encoder, whose prompts differ in length, then stays on the CPU."""


class OpenVinoFeatures(HostFeatures):
    """Encoded images [B, N, D] float32 in host memory, made by OpenVINO."""


class OpenVinoBackend(OnnxBackend):
    """A bundle in OpenVINO, with the decoder in ONNX Runtime.

    `threads` is the number of CPU threads of an operator in both (None: one per core that the process may use).
    `providers` is None (the CPU) or names one of OpenVINO's devices, such as ["GPU"], ["GPU.1"] or ["NPU"].

    INT8 bundles run too, but OpenVINO rounds differently from ONNX Runtime, so ids may differ.

    What is compiled for a GPU or an NPU is kept in `cache_folder("openvino")`. For the CPU nothing is: at base size it
    would halve the 2.3 s of CPU time that compiling takes, for a second copy of the weights, 728 MB to write and read.
    """

    HERE = ("decoder",)
    FEATURES = OpenVinoFeatures

    def __init__(self, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        core = runtime().Core()
        device = _device(core, providers)
        super().__init__(bundle, threads=threads)
        kind = device.split(".")[0]
        image = bundle.manifest.image
        self._tidy = kind == CPU and image.height * image.width > LARGE_PIXELS
        self._models: dict[str, Any] = {
            "vision": _compiled(core, bundle, self._graphs.vision, device, threads),
            "encoder": _compiled(core, bundle, self._graphs.encoder, CPU if kind in STATIC_ONLY else device, threads),
        }

    def close(self) -> None:
        """Drops the models; later calls raise `BackendError`, one that is still running keeps what it uses."""
        super().close()
        self._models = {}

    def _features(self, pixels: Float32Array) -> Float32Array:
        (features,) = self._run("vision", self._graphs.vision, [pixels]).values()
        return features

    def _cross(self, features: Float32Array, request: Request) -> dict[str, Any]:
        made = self._run("encoder", self._graphs.encoder, [features, request.prompt_ids, request.prompt_mask])
        return {name: self._sessions.value(values) for name, values in made.items()}

    def _run(self, name: str, graph: Graph, inputs: Sequence[AnyArray]) -> dict[str, AnyArray]:
        """The outputs by name.

        A run has an inference request of its own (0.3 ms): threads do not meet, and the outputs are the memory of a
        request that nobody uses again, so they need no copy.
        """
        model = self._models.get(name)
        if model is None:
            raise closed()
        try:
            request = model.create_infer_request()
            request.infer(dict(zip([tensor.name for tensor in graph.inputs], inputs, strict=True)), share_inputs=True)
            made = {tensor.name: request.get_tensor(tensor.name).data for tensor in graph.outputs}
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed in {graph.file}: {error}") from error
        if self._tidy:
            with suppress(RuntimeError):  # refused while another thread runs the model, which does it then
                model.release_memory()
        return made


def _compiled(core: Any, bundle: Bundle, graph: Graph, device: str, threads: int | None) -> Any:
    """A graph compiled for a device; the vision graph for one image, since kernels for known shapes are 14 % faster."""
    kind = device.split(".")[0]
    settings = {"PERFORMANCE_HINT": "LATENCY", **DEVICES[kind]}
    if kind != CPU:
        settings["CACHE_DIR"] = str(cache_folder("openvino"))
    elif threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    path = bundle.path(graph.file)
    try:
        model = core.read_model(str(path))
        check_interfaces(bundle, [Graph(graph.file, _tensors(model.inputs), _tensors(model.outputs))])
        if graph is bundle.manifest.graphs.vision:
            shape = graph.inputs[0].shape
            model.reshape({graph.inputs[0].name: [1 if isinstance(size, str) else size for size in shape]})
        return core.compile_model(model, device, settings)
    except RuntimeError as error:
        raise BackendError(
            f"OpenVINO cannot compile {path} for {device}: {error}; verify the bundle (florence-edge verify), "
            "or use the onnx backend"
        ) from error


def _tensors(ports: Sequence[Any]) -> tuple[Tensor, ...]:
    """Inputs or outputs of a model in the manifest's words."""
    return tuple(
        Tensor(
            port.any_name,
            port.element_type.to_dtype().name,
            tuple(size.get_length() if size.is_static else str(size) for size in port.partial_shape),
        )
        for port in ports
    )


def _device(core: Any, providers: Sequence[str] | None) -> str:
    """The one device that is wanted; `InputError` for several, or one that is not here."""
    present = [name for name in core.available_devices if name.split(".")[0] in DEVICES]
    wanted = list(providers or [CPU])
    known = {*present, *(name.split(".")[0] for name in present)}
    if len(wanted) != 1 or wanted[0] not in known:
        raise InputError(
            f"providers is {wanted}; the openvino backend takes one device, and OpenVINO finds here: "
            f"{', '.join(present)}. For Intel GPUs and NPUs install their drivers"
        )
    return str(wanted[0])


def runtime() -> Any:
    """The openvino module without its telemetry; `DependencyError` where it is missing or too old."""
    try:
        with _no_telemetry():
            import openvino  # type: ignore[import-untyped, unused-ignore]  # typed in some releases only
    except ImportError as error:
        raise missing("openvino", extra="openvino", needed_for="the openvino backend") from error
    version = _version(openvino)
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        oldest = ".".join(map(str, MINIMUM))
        raise DependencyError(
            f"openvino {version} is too old, {oldest} or newer is needed; run: pip install -U 'openvino>={oldest}'"
        )
    return openvino


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hides the package through which importing OpenVINO reports to Google Analytics; it then uses a stub of its own.

    Neither OpenVINO nor that package has a setting for it that would hold for one process.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to say: not importable
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("openvino_telemetry", None)


def _version(found: Any) -> str:
    """Such as 2026.4.1, without the build that follows."""
    return str(found.__version__).split("-")[0]


def open_backend(
    bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> OpenVinoBackend:
    """Opens a bundle; the registry's way in."""
    return OpenVinoBackend(bundle, threads=threads, providers=providers)


def probe() -> str:
    """Version and devices of the OpenVINO found, and the ONNX Runtime; `DependencyError` where one is missing."""
    found = runtime()
    devices = ", ".join(found.Core().available_devices)
    return f"openvino {_version(found)} with {devices}; {onnx.probe()}"
