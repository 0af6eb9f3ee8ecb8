"""The whole command on a small real bundle: measuring, the three documents, comparing, and every fault."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from florence_bench import plots
from florence_bench.bench import run_benchmark
from florence_bench.cli import register, save
from florence_bench.compare import compare
from florence_bench.errors import BenchmarkError
from florence_bench.html import to_html
from florence_bench.json_schema import text as schema_text
from florence_bench.markdown import to_markdown
from florence_bench.report import SCHEMA, Report
from florence_bench.settings import RaceSettings, Rival, Settings
from florence_edge.cli import FAILED, SLOWER, USAGE
from florence_edge.cli import main as command
from florence_edge.drawing.scene import scene
from florence_edge.errors import BundleError, ImageError, InputError
from support.bundles import tiny_bundle

pytest.importorskip("onnxruntime")
jsonschema = pytest.importorskip("jsonschema")

SHORT = Settings(
    tokens=6,
    threads=1,
    warmup_seconds=0,
    seconds=0.05,
    runs=3,
    cold_starts=1,
    camera_rates=(10.0, 30.0),
    growth=("tokens", "beams", "batch", "pixels"),
)


@pytest.fixture(scope="module")
def report() -> Report:
    race = RaceSettings(rivals=(Rival("florence-edge", str(tiny_bundle())),), rounds=2, tasks=("<CAPTION>", "<OD>"))
    return run_benchmark(tiny_bundle(), settings=SHORT, race_settings=race)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Entry:
        name, value = "benchmarks", "florence_bench.cli:register"

        def load(self) -> Any:
            return register

    monkeypatch.setattr(command, "entry_points", lambda group: [Entry()])
    return lambda *arguments: command.main(["bench", *map(str, arguments)])


def test_everything_is_measured(report: Report) -> None:
    stages = report.stages
    assert stages.tokens == 6
    assert stages.beams == 3
    assert all(len(series.samples) >= 3 for series in (stages.total_ms, *stages.stages.values()))
    parts = sum(series.summary.mean for series in stages.stages.values())
    assert 0 < parts <= stages.total_ms.summary.mean * 1.001
    assert stages.streaming
    assert len(stages.streaming.inter_token_ms.samples) >= 3 * (6 - 2)
    assert stages.observed.tokens.summary.max <= 64
    assert [found.name for found in report.scenarios] == ["SingleStream", "MultiStream", "Offline", "Server"]
    assert report.camera
    assert [run.rate for run in report.camera.runs] == [10.0, 30.0]
    assert report.footprint
    assert report.footprint.peak_resident_bytes > 2**24
    assert report.roofline
    assert [point.stage for point in report.roofline.points] == ["vision", "encoder", "step"]
    assert [growth.varied for growth in report.growth] == list(SHORT.growth)
    assert report.machine.libraries["numpy"]


def test_equal_bundles_race_with_equal_ids(report: Report) -> None:
    assert report.race
    first, second = report.race.finishes
    assert first.name == "florence-edge"
    assert second.name == f"florence-edge ({tiny_bundle().name})"
    assert all(len(finish.times_ms["answer"].samples) == 2 for finish in (first, second))
    assert len(report.race.duels) == 2
    for duel in report.race.duels:
        assert duel.identical == {"answer": True, "first": True, "tasks": True}
        assert duel.ratios["answer"].low <= duel.ratios["answer"].value <= duel.ratios["answer"].high


def test_results_hold_no_paths(report: Report) -> None:
    assert str(tiny_bundle().parent) not in report.to_json()


def test_the_json_comes_back_and_keeps_its_schema(report: Report) -> None:
    values = json.loads(report.to_json())
    assert Report.from_dict(values) == report
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(values)
    for where, key, value in (("", "machine", None), ("", "more", 1), ("stages", "tokens", "six")):
        damaged = deepcopy(values)
        (damaged[where] if where else damaged)[key] = value
        assert not validator.is_valid(damaged)
        with pytest.raises(BenchmarkError):
            Report.from_dict(damaged)


def test_the_schema_file_is_that_of_the_dataclasses() -> None:
    assert SCHEMA.read_text() == schema_text(), "run: python -m florence_bench.json_schema"


def test_the_markdown_has_every_table_in_full_rows(report: Report) -> None:
    text = to_markdown(report)
    for title in ["Stages", "Tokens", "Cold", "Race", "Ratios", "MLPerf", "Camera", "Roofline", "Growth", "Machine"]:
        assert f"## {title}" in text
    widths: set[int] = set()
    for line in text.splitlines():
        if line.startswith("|"):
            widths.add(line.count("|"))
            assert line.count("|") == max(widths)
        else:
            widths.clear()


def test_the_page_stands_alone_and_its_pictures_are_xml(report: Report) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.outside, self.depth = list[str](), list[str]()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.outside += [tag] if tag in ("script", "link", "img", "iframe") else []
            self.depth += [] if tag == "meta" else [tag]

        def handle_endtag(self, tag: str) -> None:
            assert self.depth.pop() == tag

    reader = Reader()
    reader.feed(to_html(report))
    assert reader.outside == []
    assert reader.depth == []
    assert report.roofline
    assert report.race
    pictures = [
        plots.stage_bars(report.stages),
        plots.latency_distribution(report.stages.total_ms),
        plots.roofline_plot(report.roofline),
        plots.race_bars(report.race, "tasks", beams=3),
        *map(plots.growth_plot, report.growth),
    ]
    for picture in pictures:
        assert "e+" not in picture
        root = ElementTree.fromstring(picture)
        width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
        for mark in root.iter("{http://www.w3.org/2000/svg}rect"):
            assert 0 <= float(mark.attrib["x"]) <= float(mark.attrib["x"]) + float(mark.attrib["width"]) <= width
            assert 0 <= float(mark.attrib["y"]) <= height


def test_the_command_writes_three_documents(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "scene.png"
    scene().save(picture)
    options = ("--quick", "--threads", 1, "--scenarios", "none", "--rates", "none", "--out", tmp_path / "results")
    assert bench(tiny_bundle(), picture, *options) == 0
    (folder,) = (tmp_path / "results").iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".html", ".json", ".md"]
    result = next(folder.glob("*.json"))
    found = Report.read(result)
    assert [image.name for image in found.images] == ["scene.png"]
    assert (found.camera, found.scenarios, found.race) == (None, (), None)
    assert "STAGES" in capsys.readouterr().out
    assert bench("--compare", result, result, "--json") == 0
    assert {change["verdict"] for change in json.loads(capsys.readouterr().out)["changes"]} == {"same"}


def test_what_was_measured_before_a_race_is_kept_and_failed_rivals_are_warned_of(tmp_path: Path) -> None:
    kept = list[Report]()
    brief = replace(SHORT, scenarios=(), camera_rates=(), growth=(), cold_starts=0)
    tasks = ("<CAPTION>", "<OD>")
    race = RaceSettings(rivals=(Rival("transformers", str(tmp_path)),), rounds=2, tasks=tasks)
    last = run_benchmark(tiny_bundle(), settings=brief, race_settings=race, keep=kept.append)
    assert [report.race for report in kept] == [None]
    assert last.race
    assert [finish.name for finish in last.race.finishes] == ["florence-edge"]
    assert [failure.name for failure in last.race.failures] == ["transformers, eager"]
    assert "transformers, eager was left out of the race" in last.warnings[-1]
    assert "left out of the race" in to_html(last)
    paths = save(last, tmp_path, "race")
    assert [path.name.removeprefix(last.model.name) for path in paths] == [
        f"-fp32-race{suffix}" for suffix in (".html", ".md", ".json")
    ]
    assert Report.read(paths[-1]) == last


def slowed(report: Report, factor: float) -> Report:
    values = json.loads(report.to_json())
    for place in (values["stages"]["total_ms"], *values["stages"]["stages"].values()):
        place["samples"] = [value * factor for value in place["samples"]]
    return Report.from_dict(values)


def altered(report: Report, where: str, key: str, value: object) -> Report:
    values = json.loads(report.to_json())
    values[where][key] = value
    return Report.from_dict(values)


def test_slower_and_faster_are_told_apart_from_the_same(report: Report) -> None:
    # Twenty times is more than any scatter of three runs on a busy machine.
    verdicts = {
        factor: {change.figure: change.verdict for change in compare(report, slowed(report, factor)).changes}
        for factor in (0.05, 1.0, 20.0)
    }
    assert verdicts[20.0]["total"] == "slower"
    assert verdicts[0.05]["total"] == "faster"
    assert set(verdicts[1.0].values()) == {"same"}
    assert verdicts[20.0]["per token"] == "same"


def test_a_slower_result_has_an_exit_code_of_its_own(
    bench: Any, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, elsewhere = (tmp_path / f"{name}.json" for name in ("before", "after", "elsewhere"))
    before.write_text(report.to_json())
    after.write_text(slowed(report, 20.0).to_json())
    elsewhere.write_text(altered(report, "machine", "processor", "Another").to_json())
    assert bench("--compare", before, after) == SLOWER
    assert bench("--compare", after, before) == 0
    assert bench("--compare", before, elsewhere) == FAILED
    assert "different machines" in capsys.readouterr().err
    assert bench("--compare", before, elsewhere, "--force") == 0
    assert "in spite of different machines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "key", "value", "said"),
    [
        ("machine", "cores", 999, "different machines"),
        ("settings", "tokens", 31, "tokens is 6 and 31"),
        ("settings", "task", "<OD>", "task is"),
        ("stages", "beams", 1, "numbers of beams"),
        ("before", "power_mode", "15W", "power modes"),
    ],
)
def test_what_does_not_compare_is_refused(report: Report, where: str, key: str, value: object, said: str) -> None:
    other = altered(report, where, key, value)
    with pytest.raises(BenchmarkError, match=said):
        compare(report, other)
    assert compare(report, other, force=True).forced


def test_another_bundle_is_what_comparing_is_for(report: Report) -> None:
    assert compare(report, altered(report, "model", "identity", "0" * 64)).forced == ()


def test_other_images_do_not_compare(report: Report) -> None:
    values = json.loads(report.to_json())
    values["images"][0]["sha256"] = "0" * 64
    with pytest.raises(BenchmarkError, match="different images"):
        compare(report, Report.from_dict(values))


def test_faults_are_found_before_anything_is_measured(tmp_path: Path) -> None:
    def note(text: str) -> None:
        raise AssertionError(f"measuring began: {text}")

    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no picture")
    with pytest.raises(BundleError):
        run_benchmark(tmp_path, settings=SHORT, note=note)
    with pytest.raises(ImageError, match=r"absent\.jpg"):
        run_benchmark(tiny_bundle(), [tmp_path / "absent.jpg"], settings=SHORT, note=note)
    with pytest.raises(ImageError):
        run_benchmark(tiny_bundle(), [damaged], settings=SHORT, note=note)
    race = RaceSettings(rivals=(Rival("nothing", "."),))
    with pytest.raises(InputError, match="no kind"):
        run_benchmark(tiny_bundle(), settings=SHORT, race_settings=race, note=note)
    nowhere = RaceSettings(rivals=(Rival("transformers", str(tmp_path / "nowhere")),))
    with pytest.raises(InputError, match="is no folder"):
        run_benchmark(tiny_bundle(), settings=SHORT, race_settings=nowhere, note=note)
    with pytest.raises(InputError, match="takes a phrase"):
        run_benchmark(tiny_bundle(), settings=Settings(task="<CAPTION_TO_PHRASE_GROUNDING>"), note=note)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give a bundle"),
        (("bundle", "--compare", "a", "b"), "not both"),
        (("bundle", "--rival", "transformers"), "names no folder"),
        (("bundle", "--tokens", "1"), "tokens is 1"),
    ],
)
def test_wrong_command_lines_are_told_what_is_wrong(
    bench: Any, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert bench(*arguments) in (FAILED, USAGE)
    assert said in capsys.readouterr().err


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for content in ("{}", "no json", '{"format": 99}', "[]"):
        other.write_text(content)
        with pytest.raises(BenchmarkError, match=r"other\.json"):
            Report.read(other)
