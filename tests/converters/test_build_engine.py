"""One engine's build: Polygraphy's own code over a double of TensorRT, the process around it, memory and progress."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_convert.build import plan_builder
from florence_convert.build.gate import FLOOR, Sample, measure
from florence_convert.build.memory import Available, check_memory, needed
from florence_convert.build.phases import Phases
from florence_convert.build.plan_builder import build_plan
from florence_convert.build.settings import MEBIBYTE, BuildOptions, Job, Settings
from florence_convert.build.worker import WorkerBuilder
from florence_convert.lowering import Buckets, LoweredPart, lower
from florence_edge.backends.tensorrt.plugins import PluginLibrary
from florence_edge.bundle import Bundle
from florence_edge.errors import BuildError
from florence_edge.geometry import AnyArray
from support import fake_builder
from support.fake_engines import PLUGINS
from support.fake_tensorrt import FakeRegistry
from support.nvidia_names import recorded

BUCKETS = Buckets(batches=(1, 2), beams=(3,), prompts=(16, 64), capacity=128)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> LoweredPart:
    return lower(Bundle.open("tabletop"), tmp_path_factory.mktemp("graphs"), precision="fp16").decoder


def job_of(part: LoweredPart, folder: Path, *, low_memory: bool = False) -> Job:
    return Job(
        graph=str(part.tensorrt),
        out=str(folder / "decoder.engine"),
        profiles=tuple(dict(profile.shapes) for profile in part.profiles(BUCKETS)),
        settings=Settings.of(BuildOptions(low_memory=low_memory)),
        timing_cache=str(folder / "timing.cache"),
        plugin_library=str(folder / "plugins.so"),
        plugin_names=tuple(sorted(part.plugins)),
        plugin_layers=sum(part.plugins.values()),
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """Puts the double in TensorRT's place."""
    known = FakeRegistry(PLUGINS)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_builder.fake_module(known))
    monkeypatch.setattr(plan_builder, "probe", lambda path: PluginLibrary(path, 1, 100300))
    return known


@pytest.mark.parametrize("low_memory", [False, True])
def test_polygraphy_builds_what_the_job_says(
    decoder: LoweredPart, registry: FakeRegistry, tmp_path: Path, low_memory: bool
) -> None:
    job, shares = job_of(decoder, tmp_path, low_memory=low_memory), list[float]()
    plan = build_plan(job, shares.append)
    assert plan.startswith(b"ftrt")
    assert registry.loads == 1
    builder = fake_builder.Builder.last
    assert builder.network.get_flag(fake_builder.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert fake_builder.BuilderFlag.TF32 in builder.config.cleared
    config = builder.config
    assert [profile.shapes for profile in config.profiles] == [dict(shapes) for shapes in job.profiles]
    assert config.profiles[0].shapes["cross_key_0"][0][2] < config.profiles[0].shapes["cross_key_0"][2][2]
    pool = fake_builder.MemoryPoolType
    limits = {pool.WORKSPACE: 256 * MEBIBYTE, pool.TACTIC_DRAM: 512 * MEBIBYTE} if low_memory else {}
    assert (config.pools, config.builder_optimization_level) == (limits, 2 if low_memory else 3)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    # The timings of this build are there for the next.
    assert Path(job.timing_cache).read_bytes().startswith(b"timings")
    build_plan(job, shares.append)
    cache = fake_builder.Builder.last.config.cache
    assert cache is not None
    assert cache.data.startswith(b"timings")


def test_plugins_that_were_parsed_as_something_else_are_noticed(
    decoder: LoweredPart, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_builder.OnnxParser, "inlines", True)
    count = sum(decoder.plugins.values())
    with pytest.raises(BuildError, match=rf"made 0 plugin layers of .*, which has {count} plugin nodes \(Florence"):
        build_plan(job_of(decoder, tmp_path), lambda share: None)


def test_every_name_that_building_uses_is_tensorrts() -> None:
    monitor = {"IProgressMonitor", "phase_start", "step_complete", "phase_finish"}
    limits = {"MemoryPoolType", "WORKSPACE", "TACTIC_DRAM"}
    assert {*monitor, *limits, "LayerType", "PLUGIN_V3", "num_layers", "get_layer"} <= recorded("tensorrt")


def test_building_needs_no_torch() -> None:
    """Engines are built on the device they run on, where torch would cost gigabytes."""
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
for name in ("torch", "onnxscript", "transformers", "tensorrt", "pycuda", "polygraphy"):
    sys.modules[name] = None
import florence_convert.build.acceptance, florence_convert.build.command, florence_convert.build.pipeline
import florence_convert.build.plan_builder
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def script(folder: Path, text: str) -> WorkerBuilder:
    """A builder whose process runs these lines."""
    path = folder / "process.py"
    path.write_text("import json, os, signal, sys\njob = json.load(open(sys.argv[1]))\n" + text)
    return WorkerBuilder([sys.executable, str(path)])


def test_the_process_tells_its_progress(decoder: LoweredPart, tmp_path: Path) -> None:
    shares: list[float] = []
    lines = """
print("noise that is no JSON")
print("42")
print(json.dumps({"done": 0.25}), flush=True)
print(json.dumps({"done": 1}), flush=True)
open(job["out"], "wb").write(b"plan of " + job["graph"].encode()[-16:])
"""
    job = job_of(decoder, tmp_path)
    script(tmp_path, lines).build(job, shares.append)
    assert shares == [0.25, 1.0]
    assert Path(job.out).read_bytes() == b"plan of decoder.trt.onnx"


KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (KILLED, r"was killed, as Linux does when memory runs out; pass --low-memory, stop the desktop"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal SIGSEGV"),
        ("sys.exit('no space left')", r"exit code 1. The end of its log:\n  - no space left"),
        ("print(json.dumps({'error': 'Could not parse ONNX'})); sys.exit(1)", "Could not parse ONNX"),
    ],
)
def test_a_process_that_dies_is_explained(decoder: LoweredPart, tmp_path: Path, lines: str, shown: str) -> None:
    with pytest.raises(BuildError, match=rf"decoder\.trt\.onnx could not be built(.|\n)*{shown}"):
        script(tmp_path, lines).build(job_of(decoder, tmp_path), lambda share: None)


def test_a_build_with_little_memory_that_is_killed_is_not_told_to_take_little_memory(
    decoder: LoweredPart, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=r"memory runs out; stop the desktop .* or add swap. What was built so far"):
        script(tmp_path, KILLED).build(job_of(decoder, tmp_path, low_memory=True), lambda share: None)


def test_without_tensorrt_the_builders_process_says_so(decoder: LoweredPart, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; sys.modules['tensorrt'] = None\n"
               "from florence_convert.build.plan_builder import main; sys.exit(main(sys.argv[1:]))"]  # fmt: skip
    with pytest.raises(BuildError, match="TensorRT is needed for the tensorrt backend"):
        WorkerBuilder(command).build(job_of(decoder, tmp_path), lambda share: None)


MEMINFO = "MemTotal: 7620000 kB\nMemFree: 100 kB\nMemAvailable: 4194304 kB\nSwapTotal: 9 kB\nSwapFree: 9999999 kB\n"
SWAPS = """Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/zram0                              partition\t635184\t\t0\t\t5
/dev/zram1                              partition\t635184\t\t1024\t\t5
/mnt/16GB.swap                          file\t\t1049600\t\t1024\t\t-2
"""


def machine(root: Path, *, jetson: bool) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/swaps").write_text(SWAPS)
    if jetson:
        (root / "etc").mkdir()
        (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3")
    return root


def test_memory_is_one_on_a_jetson_and_two_elsewhere(tmp_path: Path) -> None:
    """Swap on a disk adds to it; compressed swap lies in it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    five = 5 << 30
    assert Available.now(7, machine(tmp_path / "a", jetson=True)) == Available(five, None)
    assert Available.now(7, machine(tmp_path / "b", jetson=False)) == Available(five, 7)


def test_a_build_that_would_not_fit_is_refused_before_it_starts() -> None:
    small, usual = Settings.of(BuildOptions(low_memory=True)), Settings.of(BuildOptions())
    weights = 460 * MEBIBYTE
    assert needed(weights, small) < needed(weights, usual)
    check_memory(weights, usual, Available(8 << 30, 8 << 30))
    with pytest.raises(BuildError, match=r"are free; pass --low-memory, stop the desktop .* or add swap"):
        check_memory(weights, usual, Available(2 << 30, None))
    with pytest.raises(BuildError, match=r"1\.0 GiB of GPU memory are free; stop the desktop"):
        check_memory(weights, small, Available(64 << 30, 1 << 30))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["start", "step", "finish"]), st.integers(0, 5))))
def test_progress_never_goes_back_and_stays_within_bounds(events: list[tuple[str, str, int]]) -> None:
    """Whatever order TensorRT reports in: phases that were never started, ended twice, or are their own parents."""
    phases, last = Phases(), 0.0
    calls: dict[str, Any] = {
        "start": lambda name, number: phases.start(name, "abc"[number % 3], number),
        "step": phases.step,
        "finish": lambda name, number: phases.finish(name),
    }
    for name, kind, number in events:
        calls[kind](name, number)
        share = phases.fraction()
        assert last <= share <= 1.0
        last = share


def gate_of(part: LoweredPart, sample: Sample, error: float, *, start: int = 0) -> tuple[float, ...]:
    """Error, tolerance and rounding of an engine that is off by `error` from a place of the third axis on."""

    class Off:
        def run(self, inputs: Mapping[str, AnyArray], sizes: Mapping[str, int]) -> dict[str, AnyArray]:
            found = inputs["x"].copy()
            found[:, :, start:] += error
            return {"y": found}

    engine: Any = Off()
    return astuple(measure(part, engine, [sample, sample]))


def rounding_part(folder: Path, error: float) -> LoweredPart:
    """A part in fp16 whose own graph is off by `error` in ONNX Runtime."""
    vector = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 4, 1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 4, 1])
    offset = onnx.numpy_helper.from_array(np.float32(error), "offset")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "offset"], ["y"])], "g", [vector], [result], [offset]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "part.onnx"
    onnx.save(model, str(path))
    return LoweredPart("encoder", "fp16", path, path, {}, (), (), 0)


@pytest.mark.parametrize(("rounding", "tolerance"), [(0.0, 8 * FLOOR["fp16"]), (0.25, 0.5)])
def test_an_engine_may_err_twice_as_much_as_rounding_and_never_less_than_its_floor(
    tmp_path: Path, rounding: float, tolerance: float
) -> None:
    values = np.asarray([2, -8, 1, 0], np.float32).reshape(1, 1, 4, 1)
    sample = Sample({"x": values}, {}, {"y": values})
    part = rounding_part(tmp_path, rounding)
    for error in (0.125, -1.0):
        assert gate_of(part, sample, error) == pytest.approx((abs(error), tolerance, rounding))
    assert gate_of(part, sample, np.nan)[0] == np.finfo(np.float32).max, "JSON has no infinity"


def test_what_padding_gives_is_not_measured(tmp_path: Path) -> None:
    values = np.asarray([2, -8, 1, 99], np.float32).reshape(1, 1, 4, 1)
    inputs: dict[str, AnyArray] = {"x": values, "prompt_ids": np.zeros((1, 2)), "lengths": np.asarray([3])}
    sample = Sample(inputs, {"S": 4}, {"y": values})
    part = rounding_part(tmp_path, 0.0)
    assert gate_of(part, sample, 5.0, start=3) == pytest.approx((0.0, 8 * FLOOR["fp16"], 0.0))
    assert gate_of(part, sample, 5.0, start=2)[0] == 5.0
