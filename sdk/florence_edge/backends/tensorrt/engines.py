"""The three engines of a bundle: checked, opened, and the profile for each size found."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, EngineError, EngineFileError, EnginePluginError, InputError, listing
from florence_edge.manifest import Graph, Tensor

from . import surface
from .device import Device
from .libraries import logger
from .plugins import PluginLibrary, find_plugins, register
from .sidecar import Sidecar, check_engine, machine, read_sidecar
from .surface import ExecutionContext, Platform

_BYTES = {"bfloat16": 2}
"""Sizes of the types that NumPy does not have."""


@dataclass(frozen=True, eq=False)
class Part:
    """One engine: its inputs and outputs, and its profiles by their sizes."""

    graph: Graph
    sidecar: Sidecar
    engine: surface.Engine
    strategy: Any
    said: Collection[str] = ()
    """What TensorRT said last, at warning and worse; it goes on."""

    def profile(self, **sizes: int) -> int:
        """The profile that takes these sizes; the caller picked them from `choices`."""
        for index, bucket in enumerate(self.sidecar.buckets):
            if all(name not in bucket or bucket[name][0] <= size <= bucket[name][1] for name, size in sizes.items()):
                return index
        raise BackendError(f"the engine {self.graph.file} has no profile for {sizes}; build it again: {self.command}")

    def choices(self, name: str) -> tuple[int, ...]:
        """The values of a size that profiles were built for, in ascending order."""
        return tuple(sorted({bucket[name][1] for bucket in self.sidecar.buckets}))

    @property
    def command(self) -> str:
        """What builds this engine again."""
        return self.sidecar.command

    @property
    def scratch(self) -> int:
        """Bytes of working memory that a context needs, whichever its profile."""
        profiles = range(self.engine.num_optimization_profiles)
        return max(self.engine.get_device_memory_size_for_profile_v2(profile) for profile in profiles)

    def context(self) -> ExecutionContext:
        """A new context without memory of its own."""
        context = self.engine.create_execution_context(self.strategy)
        if context is None:
            raise self.refusal("a context; memory may have run out")
        return context

    def refusal(self, what: str) -> BackendError:
        """The error for something that TensorRT refused, of which it only tells its log why."""
        title = f"TensorRT refused {what}, for {self.graph.file}; if it goes on, build it again: {self.command}"
        return BackendError(listing(title, [*self.said]))


@dataclass(frozen=True, eq=False)
class Engines:
    """The engines of a bundle."""

    vision: Part
    encoder: Part
    decoder: Part

    @property
    def scratch(self) -> int:
        """Bytes of working memory for contexts that never run at the same time."""
        return max(part.scratch for part in (self.vision, self.encoder, self.decoder))


def tensor_bytes(tensor: Tensor, sizes: Mapping[str, int]) -> int:
    """Bytes of a tensor of these sizes."""
    return math.prod(shape_of(tensor, sizes)) * (_BYTES.get(tensor.dtype) or np.dtype(tensor.dtype).itemsize)


def shape_of(tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor, its letters replaced by sizes."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in tensor.shape)


def open_engines(
    bundle: Bundle,
    platform: Platform,
    device: Device,
    library: Callable[[str], PluginLibrary] = find_plugins,
) -> Engines:
    """Opens a bundle's engines; the device must be active.

    Raises `BackendError` for a bundle without engines and the named `EngineError` of whatever keeps one from running
    here, before TensorRT sees any file. `library` finds the plugins for a version of TensorRT.
    """
    if bundle.manifest.target is None:
        raise BackendError(
            f"{bundle.folder} holds ONNX graphs and no engines; build them here: florence-edge build {bundle.folder}"
        )
    here = machine(device, platform.tensorrt.__version__)
    graphs = dict(bundle.manifest.graphs.items())
    sidecars = {name: read_sidecar(bundle.path(graph.file)) for name, graph in graphs.items()}
    for name, graph in graphs.items():
        if sidecars[name].part != name:
            raise EngineFileError(f"{graph.file} is the {sidecars[name].part} engine, not the {name} engine")
        check_engine(bundle.path(graph.file), sidecars[name], here)
    load_plugins(platform, sidecars.values(), library)
    parts = {
        name: open_part(bundle.path(graph.file), graph, sidecars[name], platform) for name, graph in graphs.items()
    }
    return Engines(parts["vision"], parts["encoder"], parts["decoder"])


def open_part(path: Path, graph: Graph, sidecar: Sidecar, platform: Platform) -> Part:
    """Opens one engine that was checked and whose plugins are registered; the device must be active.

    `EngineError` carries what TensorRT said, since it raises nothing itself.
    """
    log = logger(platform.tensorrt)
    log.lines.clear()
    try:
        engine = platform.tensorrt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    except TypeError as error:  # what the bindings make of a runtime that TensorRT could not create
        title = (
            "TensorRT does not start on this machine; its CUDA version may need a newer driver (florence-edge doctor)"
        )
        raise EngineError(listing(f"{title}:", log.lines or [str(error)])) from error
    if engine is None:
        raise EngineError(listing(f"TensorRT cannot open {path}; build it again: {sidecar.command}", log.lines))
    _check_tensors(graph, engine)
    strategy = platform.tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
    return Part(graph, sidecar, engine, strategy, log.lines)


def load_plugins(platform: Platform, sidecars: Iterable[Sidecar], find: Callable[[str], PluginLibrary]) -> None:
    """Registers the plugins that the engines were built with, if any."""
    used = [sidecar for sidecar in sidecars if sidecar.plugins.layers]
    if not used:
        return
    library = find(platform.tensorrt.__version__)
    for sidecar in used:
        if sidecar.plugins.abi != library.abi:
            raise EnginePluginError(
                f"the {sidecar.part} engine was built with plugin ABI {sidecar.plugins.abi}, {library.path} has "
                f"{library.abi}; build it again: {sidecar.command}"
            )
    register(platform.tensorrt, library, sorted({name for sidecar in used for name in sidecar.plugins.layers}))


def _check_tensors(graph: Graph, engine: surface.Engine) -> None:
    """Raises `EngineFileError` where an engine has other inputs and outputs than the manifest says."""
    found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    wanted = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    if found != wanted:
        odd = ", ".join(sorted(found ^ wanted))
        raise EngineFileError(f"{graph.file} and the manifest disagree about the tensors {odd}; build the bundle again")


def fitting(choices: Sequence[int], wanted: int, what: str, command: str) -> int:
    """The smallest of the built sizes that takes `wanted`; `InputError` where all are smaller."""
    for size in choices:
        if size >= wanted:
            return size
    raise InputError(f"{wanted} {what} are asked for, the engines take at most {choices[-1]}; build others: {command}")


def chunks(choices: Sequence[int], total: int) -> list[tuple[int, int]]:
    """How `total` items run in batches of the built sizes: pairs (items, batch).

    The largest batch that is filled, again and again; what remains below the smallest runs padded.
    """
    parts = []
    while total:
        batch = max((size for size in choices if size <= total), default=choices[0])
        parts.append((min(batch, total), batch))
        total -= parts[-1][0]
    return parts
