"""A module `tensorrt` that can build: the part of its surface that Polygraphy and the plan builder touch.

Its parser reads the ONNX file, so that plugin layers, inputs and profiles are those of the real graph; its "plan" is a
header and nothing that could run.
"""

from __future__ import annotations

import enum
import struct
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

from support.fake_tensorrt import VERSION, ILogger


class LayerType(enum.IntEnum):
    ELEMENTWISE = 0
    PLUGIN_V3 = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0
    TACTIC_DRAM = 4


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.IntEnum):
    TF32 = 7


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class _Empty(enum.Enum):
    pass


class IProgressMonitor:
    def __init__(self) -> None:
        self.ready = True


class Logger(ILogger):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.layers, self.inputs = flags, list[Any](), list[Any]()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_flag(self, flag: int) -> bool:
        return bool(self.flags >> flag & 1)

    def __iter__(self) -> Any:
        return iter(self.layers)


class OnnxParser:
    """`inlines` makes it read plugin nodes as something else, as some versions do."""

    inlines = False

    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self.num_errors = network, 0

    def parse_from_file(self, path: str) -> bool:
        graph = onnx.load(path, load_external_data=False).graph
        for value in graph.input:
            shape = tuple(
                axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim
            )
            self._network.inputs.append(SimpleNamespace(name=value.name, shape=shape, dtype="T", is_shape_tensor=False))
        for node in graph.node:
            plugin = node.domain == "florence" and not self.inlines
            kind = LayerType.PLUGIN_V3 if plugin else LayerType.ELEMENTWISE
            self._network.layers.append(SimpleNamespace(type=kind, precision_is_set=False, name=node.name))
        return True


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[name] = (tuple(min), tuple(opt), tuple(max))

    def __bool__(self) -> bool:
        return bool(self.shapes)


class TimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def combine(self, other: TimingCache, ignore_mismatch: bool) -> bool:
        return True

    def serialize(self) -> Any:
        return _Buffer(b"timings of " + VERSION.encode())


class _Buffer(bytes):
    def __enter__(self) -> _Buffer:
        return self

    def __exit__(self, *reason: object) -> None:
        pass


class BuilderConfig:
    def __init__(self) -> None:
        self.profiles: list[OptimizationProfile] = []
        self.pools: dict[MemoryPoolType, int] = {}
        self.cleared: list[Any] = []
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = None
        self.engine_capability = "STANDARD"
        self.default_device_type, self.DLA_core = "GPU", -1
        self.cache: TimingCache | None = None

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.pools[pool] = size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self.pools.get(pool, 0)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def get_flag(self, flag: Any) -> bool:
        return False

    def get_tactic_sources(self) -> int:
        return 0

    def create_timing_cache(self, data: bytes) -> TimingCache:
        return TimingCache(bytes(data))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class Builder:
    last: Builder
    """The one that was made last, for tests to look into."""

    def __init__(self, logger: Any) -> None:
        Builder.last = self
        self.config = BuilderConfig()

    def create_network(self, flags: int) -> Network:
        self.network = Network(flags)
        return self.network

    def create_builder_config(self) -> BuilderConfig:
        return self.config

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes:
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 2)
        for step in range(2):
            monitor.phase_start("Timing", "Building Engine", 4)
            for inner in range(4):
                assert monitor.step_complete("Timing", inner)
            monitor.phase_finish("Timing")
            assert monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Building Engine")
        return struct.pack("<II16x4B", 0x74727466, 0, 10, 3, 0, 26) + b"plan"


def fake_module(plugins: Any) -> ModuleType:
    """The module, with a plugin registry."""
    module = ModuleType("tensorrt")
    enums: tuple[Any, ...] = (
        LayerType,
        MemoryPoolType,
        NetworkDefinitionCreationFlag,
        BuilderFlag,
        ProfilingVerbosity,
    )
    for kind in (*enums, IProgressMonitor, ILogger, Logger, OnnxParser, Builder):
        setattr(module, kind.__name__, kind)
    for name in ("TacticSource", "PreviewFeature", "QuantizationFlag"):
        setattr(module, name, _Empty)
    rest: dict[str, Any] = {
        "__version__": VERSION,
        "DeviceType": SimpleNamespace(DLA="DLA"),
        "get_plugin_registry": lambda: plugins,
        "init_libnvinfer_plugins": lambda logger, namespace: True,
    }
    for name, value in rest.items():
        setattr(module, name, value)
    return module
