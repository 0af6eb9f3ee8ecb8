"""Runs a bundle in ONNX Runtime; the one module of this package that imports it.

All three graphs are opened at once, so that a bundle which cannot run is refused before the first image. Calls from
several threads are safe: each keeps its caches to itself.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from florence_edge import search
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, DependencyError, InputError, missing
from florence_edge.geometry import AnyArray, Float32Array, Int64Array
from florence_edge.manifest import DType, Graph, Tensor
from florence_edge.options import SearchOptions

from . import Hypothesis, ImageFeatures
from ._onnx_decoder import OnnxDecoder, run_bound
from .interface import check_interfaces
from .request import Bounds, Request, check_pixels, foreign, make_request

MINIMUM = (1, 20)
"""Oldest ONNX Runtime that runs the graphs' operators (opset 20) on every platform of the project."""

LARGE_PIXELS = 512 * 512
"""Pictures beyond this are large: their working memory goes back to the system after every run.

That of smaller ones is kept (some 15 MiB at 160 x 160): a camera's next frame needs it again, and what several threads
free and take at every frame leaves gaps in malloc's heap, which hold more than that.
"""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_DTYPES: Mapping[str, DType] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True, eq=False)
class HostFeatures:
    """Encoded images [B, N, D] float32 in host memory."""

    values: Float32Array

    def __len__(self) -> int:
        return len(self.values)

    def numpy(self) -> Float32Array:
        """A copy, [B, N, D] float32."""
        copy: Float32Array = self.values.copy()
        return copy


class OnnxBackend:
    """A bundle in ONNX Runtime.

    `threads` is the number of CPU threads of an operator (None: one per core that the process may use). `providers` are
    execution providers in order of preference, by ONNX Runtime's names; the CPU is used without and behind them. With
    the CUDA provider the cross-attention cache stays on the GPU, while the small self-attention cache is copied there
    at every step.
    """

    HERE: ClassVar[Sequence[str]] = ("vision", "encoder", "decoder")
    """The graphs that ONNX Runtime opens; a subclass runs the others in an engine of its own."""
    FEATURES: ClassVar[type[HostFeatures]] = HostFeatures

    def __init__(self, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> None:
        manifest = bundle.manifest
        self._sessions = _Sessions(bundle, self.HERE, threads, providers)
        self._graphs = manifest.graphs
        self._bounds = Bounds.of(manifest)

    def encode_image(self, pixels: Float32Array) -> HostFeatures:
        """Encodes images [B, 3, H, W] float32 one after another: a batch would only multiply the memory needed.

        Raises `InputError` for another dtype or shape, `BackendError` for features that are not finite.
        """
        check_pixels(pixels, self._graphs.vision.inputs[0].shape)
        features = np.concatenate([self._features(image[None]) for image in pixels])
        if not np.isfinite(features).all():
            raise BackendError("the vision graph gave non-finite features: the pixels or the weights are not finite")
        return self.FEATURES(features)

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        """Answers prompts; see `Backend.generate`. Prompts of different lengths are padded and masked."""
        if not len(prompt_ids):
            return []
        request = make_request(self._bounds, len(features), prompt_ids, options, image_of)
        return search.generate(self._decoder(features, request), len(prompt_ids), request.config)

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        """Answers one prompt about one image piece by piece; see `StreamingBackend.stream`."""
        request = make_request(self._bounds, len(features), [prompt_ids], options, None)
        return (yield from search.stream(self._decoder(features, request), request.config))

    def close(self) -> None:
        """Closes the sessions; later calls raise `BackendError`."""
        self._sessions.close()

    def _features(self, pixels: Float32Array) -> Float32Array:
        """Features [1, N, D] of one image; working memory, by far the largest of all, is kept or not by its size."""
        session, graph = self._sessions["vision"], self._graphs.vision
        try:
            (features,) = session.run(None, {graph.inputs[0].name: pixels}, self._sessions.tidy)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise BackendError(f"ONNX Runtime failed in {graph.file}: {error}") from error
        return cast(Float32Array, features)

    def _decoder(self, features: ImageFeatures, request: Request) -> OnnxDecoder:
        """Encodes image and prompt together; what comes out is bound to the decoder as it lies."""
        if not isinstance(features, HostFeatures) or type(features) is not self.FEATURES:
            raise foreign(features)
        cross = self._cross(features.values[request.image_of], request)
        return OnnxDecoder(self._sessions["decoder"], self._graphs.decoder, cross, request)

    def _cross(self, features: Float32Array, request: Request) -> dict[str, Any]:
        """The encoder's outputs by name as values of ONNX Runtime, for features [B, N, D], one row per prompt."""
        session, graph = self._sessions["encoder"], self._graphs.encoder
        binding = session.io_binding()
        for tensor, values in zip(graph.inputs, (features, request.prompt_ids, request.prompt_mask), strict=True):
            binding.bind_cpu_input(tensor.name, values)
        for tensor in graph.outputs:
            binding.bind_output(tensor.name, self._sessions.device)
        run_bound(session, binding, graph.file, self._sessions.tidy)
        return dict(zip([tensor.name for tensor in graph.outputs], binding.get_outputs(), strict=True))


class _Sessions:
    """The sessions of those graphs of a bundle that are named."""

    def __init__(
        self, bundle: Bundle, graphs: Sequence[str], threads: int | None, providers: Sequence[str] | None
    ) -> None:
        runtime = self._runtime = _runtime()
        names = _provider_list(providers, runtime.get_available_providers())
        files = {name: graph.file for name, graph in bundle.manifest.graphs.items() if name in graphs}
        self._graphs = {
            name: open_session(bundle.path(file), threads=threads, providers=names) for name, file in files.items()
        }
        check_interfaces(bundle, [interface(self._graphs[name], file) for name, file in files.items()])
        self.device = "cuda" if names[0] == CUDA else "cpu"
        self.tidy = runtime.RunOptions()
        image = bundle.manifest.image
        if self.device == "cpu" and image.height * image.width > LARGE_PIXELS:
            self.tidy.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def __getitem__(self, graph: str) -> Any:
        if graph not in self._graphs:
            raise closed()
        return self._graphs[graph]

    def value(self, values: AnyArray) -> Any:
        """An array in host memory as a value of ONNX Runtime, over the same memory."""
        return self._runtime.OrtValue.ortvalue_from_numpy(values)

    def close(self) -> None:
        """Drops the sessions; a call that is still running keeps those that it uses."""
        self._graphs = {}


def closed() -> BackendError:
    """The error for a call after `close`."""
    return BackendError("the backend was closed; open the bundle again")


def open_session(path: Path, *, threads: int | None = None, providers: Sequence[str] = (CPU,)) -> Any:
    """An open graph, its weights mapped from the file, not read; `BackendError` where it cannot be opened."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _default_threads() if threads is None else threads
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BackendError(
            f"onnxruntime {runtime.__version__} cannot open {path}: {error}; verify the bundle (florence-edge verify), "
            "or install a newer onnxruntime"
        ) from error


def interface(session: Any, file: str) -> Graph:
    """Inputs and outputs of an open graph, which is that of `file`."""
    inputs, outputs = (
        tuple(Tensor(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape)) for value in values)
        for values in (session.get_inputs(), session.get_outputs())
    )
    return Graph(file, inputs, outputs)


def _default_threads() -> int:
    """0, ONNX Runtime's own choice (a thread per physical core), unless the process may use only some of the CPUs.

    ONNX Runtime counts the machine's cores whatever the process is allowed, and too many threads wait for each other.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if allowed == os.cpu_count() else allowed or 0


def _provider_list(wanted: Sequence[str] | None, present: Sequence[str]) -> list[str]:
    """The wanted execution providers with the CPU behind them; `InputError` for one that is not in this build."""
    absent = [name for name in wanted or () if name not in present]
    if absent:
        raise InputError(
            f"this onnxruntime has no {', '.join(absent)}; it has {', '.join(present)}. For CUDA: pip uninstall "
            "onnxruntime, then pip install onnxruntime-gpu"
        )
    return list(dict.fromkeys([*(wanted or ()), CPU]))


def _runtime() -> Any:
    """The onnxruntime module; `DependencyError` where it is missing or too old."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", extra="onnx", needed_for="the onnx backend") from error
    version = getattr(onnxruntime, "__version__", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM:
        oldest = ".".join(map(str, MINIMUM))
        raise DependencyError(
            f"onnxruntime {version} is too old, {oldest} or newer is needed; run: "
            f"pip install -U 'onnxruntime>={oldest}'"
        )
    return onnxruntime


def open_backend(bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> OnnxBackend:
    """Opens a bundle; the registry's way in."""
    return OnnxBackend(bundle, threads=threads, providers=providers)


def probe() -> str:
    """Version and execution providers of the ONNX Runtime found; `DependencyError` where there is no usable one."""
    runtime = _runtime()
    return f"onnxruntime {runtime.__version__} with {', '.join(runtime.get_available_providers())}"
