"""An INT8 bundle: smaller, it runs, its loss is measured and shown, and too much of it is refused."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from florence_convert import cli
from florence_convert.quantise import Measure, QuantiseOptions, quantise_bundle
from florence_convert.quantise import products as quantise_products
from florence_convert.quantise.loss import metric_losses
from florence_convert.verify import _loss_faults, verify_bundle
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.cli import info
from florence_edge.errors import InputError, ParityError
from florence_edge.loss import Loss, MetricLoss
from florence_edge.manifest import Manifest
from florence_edge.options import SearchOptions
from florence_train.evaluate import Metric, Report
from support.engines import random_pixels, random_prompts, tiny_engines

ANYTHING = QuantiseOptions(max_loss=1.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return quantise_bundle(tiny_engines().bundle, tmp_path_factory.mktemp("int8") / "bundle", options=ANYTHING)


def test_it_is_smaller_verified_and_says_what_it_lost(small: Bundle) -> None:
    whole = tiny_engines().bundle
    assert small.manifest.precision == small.manifest.storage == "int8"
    assert small.manifest.parity is None
    sizes = [bundle.manifest.files["weights.bin"].bytes for bundle in (small, whole)]
    assert sizes[0] < 0.5 * sizes[1]
    loss = small.manifest.loss
    assert loss is not None
    assert loss.agreement is not None
    assert 0.7 < loss.agreement <= 1
    assert loss.tokens > 100
    assert Manifest.from_json(small.manifest.to_json()) == small.manifest
    report = verify_bundle(small.folder)
    assert report.ok, report
    assert report.checks[-1].name == "stored loss"


def test_a_batch_equals_its_single_runs(small: Bundle) -> None:
    backend = OnnxBackend(small, threads=1)
    pixels = random_pixels(1, 2)
    features = backend.encode_image(pixels)
    np.testing.assert_array_equal(features.numpy()[1:], backend.encode_image(pixels[1:]).numpy())
    prompts = random_prompts(2, (5, 11, 8), vocabulary=1000)
    options = SearchOptions(beams=3, max_new_tokens=12)
    together = backend.generate(features, prompts, options, [0, 1, 1])
    for prompt, row, answer in zip(prompts, (0, 1, 1), together, strict=True):
        (alone,) = backend.generate(features, [prompt], options, [row])
        assert alone.ids.tolist() == answer.ids.tolist()
    backend.close()


def test_too_much_loss_is_refused_with_the_numbers_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven of eight bits gone are too many, also for a bundle that is only asked about drawn patterns."""
    monkeypatch.setattr(quantise_products, "_SEVEN_BITS", 1)
    with pytest.raises(ParityError, match=r"nothing was written(.|\n)*% of \d+ tokens differ"):
        quantise_bundle(tiny_engines().bundle, tmp_path / "out", options=QuantiseOptions(max_loss=0.02))
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_stays_in_fp32(small: Bundle, tmp_path: Path) -> None:
    kept = quantise_bundle(
        tiny_engines().bundle, tmp_path / "kept", options=QuantiseOptions(max_loss=1.0, keep=("vision.*", "projector*"))
    )
    whole, pixels = tiny_engines().bundle, random_pixels(2, 1)
    features = [OnnxBackend(bundle, threads=1).encode_image(pixels).numpy() for bundle in (whole, kept, small)]
    np.testing.assert_array_equal(features[0], features[1])
    assert not np.array_equal(features[0], features[2])


def test_what_cannot_be_done_is_said(small: Bundle, tmp_path: Path) -> None:
    whole = tiny_engines().bundle
    with pytest.raises(InputError, match="is in int8; an INT8 bundle is made of one in fp32"):
        quantise_bundle(small, tmp_path / "out")
    with pytest.raises(InputError, match=r"no product has a name like nothing\*"):
        quantise_bundle(whole, tmp_path / "out", options=QuantiseOptions(keep=("nothing*",)))
    with pytest.raises(InputError, match="max_loss is 3"):
        QuantiseOptions(max_loss=3)
    with pytest.raises(InputError, match="give one of them"):
        Measure(data="a.jsonl", pictures=("b.png",))
    with pytest.raises(InputError, match="in int8, which no reference equals"):
        verify_bundle(small.folder, whole.folder)


def test_the_commands(small: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.register(parser.add_subparsers(required=True))

    def run(*words: str | Path) -> str:
        arguments = parser.parse_args([str(word) for word in words])
        assert arguments.run(arguments) == 0
        return capsys.readouterr().out

    def told(*, as_json: bool) -> str:
        assert info.run(argparse.Namespace(bundle=str(out), json=as_json)) == 0
        return capsys.readouterr().out

    source, out = tiny_engines().bundle.folder, tmp_path / "out"
    picture = Path(__file__).parents[2] / "sdk/florence_edge/assets/tabletop/demo.png"
    options = ("--precision", "int8", "--max-loss", "1", "--calibration", picture, "--json")
    printed = json.loads(run("convert", source, out, *options))["manifest"]
    assert printed["loss"]["data"] == "pictures given"
    assert printed["loss"]["images"] == 1
    assert "tokens differ; 1 images of pictures given" in told(as_json=False)
    assert json.loads(told(as_json=True))["loss"] == printed["loss"]
    with pytest.raises(InputError, match="belong to --precision int8"):
        run("convert", source, tmp_path / "other", "--data", "tabletop")


def test_a_loss_by_metrics_counts_one_metric_per_task_with_more_being_better() -> None:
    def report(cider: float, rouge: float, cer: float) -> Report:
        rows = (("<CAPTION>", "CIDEr", cider, "higher"), ("<CAPTION>", "ROUGE-L", rouge, "higher"))
        metrics = (*rows, ("<OCR>", "CER", cer, "lower"), ("<OD>", "mAP", None, "higher"))
        return Report({}, "d", {}, 3, 9, tuple(Metric(t, n, v, None, None, 4, better) for t, n, v, better in metrics))

    found = metric_losses(report(6.0, 0.9, 0.1), report(5.0, 0.1, 0.15))
    assert [(m.task, m.metric) for m in found] == [("<CAPTION>", "CIDEr"), ("<OCR>", "CER")]
    assert [m.lost for m in found] == pytest.approx([0.1, 0.05])
    loss = Loss("fp32 abc", "val.jsonl", 3, 0.02, found)
    assert loss.lost == pytest.approx(0.075)
    assert "7.50 points of 100 over 2 tasks, most in <CAPTION> (CIDEr 60.0 to 50.0)" in loss.summary()
    assert loss.rows()[1] == ("<OCR> CER", "90.0", "85.0", "5.0")
    assert [fault.split(";")[-1] for fault in _loss_faults(loss)] == [" allowed are 2 of 100"]
    assert not list(_loss_faults(replace(loss, allowed=loss.lost)))
    assert list(_loss_faults(replace(loss, allowed=0.0749)))
    assert MetricLoss("t", "m", 0.5, 0.6, 1).lost < 0


@pytest.mark.slow
def test_the_bundled_model_loses_next_to_nothing(tmp_path: Path) -> None:
    options = QuantiseOptions(Measure(data="tabletop:test", limit=6))
    loss = quantise_bundle("tabletop", tmp_path / "int8", options=options).manifest.loss
    assert loss is not None
    assert len(loss.metrics) >= 12
    assert loss.lost <= 0.02
