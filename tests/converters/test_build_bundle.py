"""From an ONNX bundle to engines, all of it but TensorRT itself: the builder and the device are doubles."""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_convert.build import pipeline
from florence_convert.build.command import default_output, read_sidecars
from florence_convert.build.engines import Bench
from florence_convert.build.faults import engine_faults
from florence_convert.build.gate import Sample, draw_samples
from florence_convert.build.pipeline import Tools, build_bundle
from florence_convert.build.settings import BuildOptions, Job, Settings
from florence_edge.bundle import Bundle
from florence_edge.cli.main import build_parser
from florence_edge.errors import BuildError, BundleError, EngineDeviceError, InputError, ParityError
from florence_edge.options import SearchOptions
from support.fake_engines import PLUGINS, FakeBuilder, fake_platform, fake_plugins, kernel_library, open_fake
from support.fake_gpu import FakeGpu

OPTIONS = BuildOptions(precision="fp16", batches=(1,), beams=(1, 3))


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu(kernel_library())


@pytest.fixture
def builder() -> FakeBuilder:
    return FakeBuilder()


@pytest.fixture
def tools(gpu: FakeGpu, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    monkeypatch.setenv("FLORENCE_CACHE", str(tmp_path / "cache"))
    return Tools(fake_platform(gpu), builder, fake_plugins)


def test_a_bundle_becomes_engines_that_are_measured(
    tools: Tools, gpu: FakeGpu, builder: FakeBuilder, tmp_path: Path
) -> None:
    shares: list[float] = []
    bundle = build_bundle(
        "tabletop", tmp_path / "out", OPTIONS, tools=tools, on_progress=lambda share, note: shares.append(share)
    )
    assert builder.built == ["vision", "encoder", "decoder"]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    manifest = bundle.manifest
    assert manifest.precision == "fp16"
    assert manifest.target is not None
    assert dataclasses.astuple(manifest.target) == ("10.3.0", "Orin", 87, 1)
    assert manifest.parity is not None
    assert manifest.parity.max_abs_error.keys() == {"vision", "encoder", "decoder"}
    assert manifest.parity.identical["greedy"] >= 3
    sidecars = read_sidecars(bundle)
    for sidecar in sidecars:
        assert sidecar.gate is not None
        assert sidecar.gate.rounding > 0
        assert sidecar.gate.error == pytest.approx(sidecar.gate.rounding, rel=0.5)
        assert sidecar.gate.error <= sidecar.gate.tolerance
        assert sidecar.command.startswith("florence-edge build tabletop --precision fp16 --batch 1 --beams 1,3 --out")
    for job, sidecar in zip(builder.jobs, sidecars, strict=True):
        assert set(job.plugin_names) <= set(PLUGINS)
        assert job.plugin_layers == sum(sidecar.plugins.layers.values())
    opened = open_fake(bundle, gpu, tools.platform)
    pixels = np.zeros((1, 3, manifest.image.height, manifest.image.width), np.float32)
    (answer,) = opened.generate(opened.encode_image(pixels), [np.asarray([0, 5, 2])], SearchOptions(max_new_tokens=4))
    assert len(answer.ids) <= 4
    assert list(engine_faults(bundle)) == []
    dataclasses.replace(sidecars[0], gate=None, part="encoder").save(bundle.vision)
    assert list(engine_faults(bundle)) == [
        "vision.engine is the encoder engine",
        "vision.engine was never measured: its build was interrupted",
    ]


def test_the_command_that_builds_again_holds_in_every_folder(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what every error about an engine names."""
    shutil.copytree(Bundle.open("tabletop").folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    commands: list[str] = []

    def stop(bench: Bench, *rest: object) -> None:
        commands.append(bench.command)
        raise BuildError("no further")

    monkeypatch.setattr(pipeline, "_check_memory", stop)
    options = dataclasses.replace(OPTIONS, precision="int8", calibration=("mine/demo.png",), low_memory=True)
    for source in ("mine", "tabletop"):
        with pytest.raises(BuildError, match="no further"):
            build_bundle(source, "out", options, tools=tools)
    mine, bundled = (build_parser(words[1:]).parse_args(words[1:]) for words in map(shlex.split, commands))
    assert (mine.bundle, bundled.bundle) == (str(tmp_path / "mine"), "tabletop")
    assert (mine.out, mine.calibration) == (tmp_path / "out", [str(tmp_path / "mine" / "demo.png")])
    assert (mine.precision, mine.batch, mine.beams, mine.low_memory) == ("int8", (1,), (1, 3), True)


def test_the_builder_has_the_memory_to_itself(
    tools: Tools, gpu: FakeGpu, builder: FakeBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What engines are measured with is made after they are built, and what measures them is gone afterwards."""
    built_before: list[int] = []

    def draw(*given: Any) -> dict[str, list[Sample]]:
        built_before.append(len(builder.built))
        return draw_samples(*given)

    monkeypatch.setattr(pipeline, "draw_samples", draw)
    build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    assert built_before == [3]
    assert gpu.blocks == {}


@pytest.mark.slow
def test_an_interrupted_build_goes_on(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    builder.fail_at = "decoder"
    with pytest.raises(BuildError, match="decoder was killed"):
        build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    assert not (tmp_path / "out").exists()
    builder.fail_at, builder.built = None, []
    build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    assert builder.built == ["decoder"]
    # Another precision makes other graphs, and so other engines.
    builder.built = []
    build_bundle(
        "tabletop", tmp_path / "out", dataclasses.replace(OPTIONS, precision="fp32", overwrite=True), tools=tools
    )
    assert builder.built == ["vision", "encoder", "decoder"]


@pytest.mark.slow
def test_what_is_not_exact_enough_is_built_in_fp32(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    builder.noise["encoder"] = 0.5
    bundle = build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    assert [sidecar.precision for sidecar in read_sidecars(bundle)] == ["fp16", "fp32", "fp16"]
    assert builder.built == ["vision", "encoder", "decoder", "encoder"]


@pytest.mark.slow
def test_int8_is_measured_on_the_users_pictures(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    pictures = (str(Bundle.open("tabletop").folder / "demo.png"),)
    options = dataclasses.replace(OPTIONS, precision="int8", calibration=pictures)
    bundle = build_bundle("tabletop", tmp_path / "out", options, tools=tools)
    assert bundle.manifest.precision == "int8"
    assert [sidecar.precision for sidecar in read_sidecars(bundle)] == ["int8", "int8", "fp16"]
    assert all("--calibration" in sidecar.command for sidecar in read_sidecars(bundle))


@pytest.mark.slow
def test_what_every_task_loses_is_measured_and_refused_beyond_a_limit(tools: Tools, tmp_path: Path) -> None:
    pictures = (str(Bundle.open("tabletop").folder / "demo.png"),)
    options = dataclasses.replace(OPTIONS, precision="int8", calibration=pictures, data="tabletop:test", limit=2)
    bundle = build_bundle("tabletop", tmp_path / "out", dataclasses.replace(options, max_loss=1.0), tools=tools)
    loss = bundle.manifest.loss
    assert loss is not None
    assert (loss.data, loss.images, loss.allowed) == ("tabletop:test", 2, 1.0)
    assert {"<OD>", "<CAPTION>", "<REGION_TO_CATEGORY>"} <= {metric.task for metric in loss.metrics}
    with pytest.raises(ParityError, match=r"int8 loses more than -100\.0 of 100.*\n.*in the engines"):
        build_bundle("tabletop", tmp_path / "other", dataclasses.replace(options, max_loss=-1.0), tools=tools)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_engines_that_are_wrong_in_fp32_are_refused(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    builder.noise["vision"], builder.everywhere = 0.5, True
    with pytest.raises(ParityError, match=r"no bundle was written:\n  - vision: the error is 0\.5"):
        build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_engines_belong_to_their_gpu(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    bundle = build_bundle("tabletop", tmp_path / "out", OPTIONS, tools=tools)
    other = FakeGpu(kernel_library(), processors=8)
    with pytest.raises(EngineDeviceError, match=r"8 multiprocessors\); .* florence-edge build tabletop"):
        open_fake(bundle, other)
    # Nor are engines of another GPU taken up by a build.
    builder.built = []
    elsewhere = Tools(fake_platform(other), builder, fake_plugins)
    build_bundle("tabletop", tmp_path / "out", dataclasses.replace(OPTIONS, overwrite=True), tools=elsewhere)
    assert builder.built == ["vision", "encoder", "decoder"]


def test_what_cannot_be_built_is_refused_at_once(tools: Tools, builder: FakeBuilder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="precision is 'int4'"):
        BuildOptions(precision="int4")  # type: ignore[arg-type]  # what is tested
    for given in ({"precision": "int8"}, {"calibration": ("pictures",)}):
        with pytest.raises(InputError, match="int8 needs pictures"):
            dataclasses.replace(OPTIONS, **given)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thing").touch()
    with pytest.raises(BundleError, match="holds other things"):
        build_bundle("tabletop", tmp_path / "taken", OPTIONS, tools=tools)
    with pytest.raises(InputError, match="beams is"):
        build_bundle("tabletop", tmp_path / "out", dataclasses.replace(OPTIONS, beams=(1, 9)), tools=tools)
    assert not builder.built


def test_a_job_travels_to_another_process(tmp_path: Path) -> None:
    job = Job("g", "o", ({"x": ((1, 2), (1, 2), (3, 2))},), Settings(3, 0, 0), "t", None, (), 0)
    job.save(tmp_path / "job.json")
    assert json.loads(json.dumps(dataclasses.asdict(Job.load(tmp_path / "job.json")))) == json.loads(
        json.dumps(dataclasses.asdict(job))
    )


def test_engines_are_written_beside_their_bundle(tmp_path: Path) -> None:
    assert default_output("tabletop", "fp16") == Path("tabletop-fp16")
    folder = Bundle.open("tabletop").folder
    assert default_output(str(folder), "fp32") == folder.with_name("tabletop-fp32")
