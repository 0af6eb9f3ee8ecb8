"""What a loss is measured on, and how tokens and metrics are compared: against the torch model and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from florence_convert.comparison import CaseOptions, Cases, draw_cases
from florence_convert.quantise import Measure
from florence_convert.quantise import loss as quantise_loss
from florence_convert.quantise.loss import MAX_LOSS, _cases, _likeliest, agreement, measure_tasks, metric_losses
from florence_convert.sides import OnnxSide
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.geometry import Int64Array
from florence_edge.images import load_image
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.preprocess import to_pixels
from florence_edge.tokens import Tokens
from florence_train.checkpoint import load_checkpoint
from florence_train.evaluate import Metric, Report
from support.engines import tiny_engines
from support.fake_backend import ANSWERS, FakeBackend, make_bundle


def cases_of(bundle: Bundle) -> Cases:
    options = CaseOptions(pairs=4, images=2, new_tokens=10)
    return draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, options)


def test_the_likeliest_tokens_are_those_of_the_torch_model_without_a_cache() -> None:
    engines = tiny_engines()
    cases = cases_of(engines.bundle)
    fed = np.random.default_rng(0).integers(0, 1000, (4, 6))
    found = _likeliest(OnnxSide(engines.bundle), cases, fed)
    model, _ = load_checkpoint(engines.checkpoint)
    for row, (prompt, image) in enumerate(zip(cases.prompts, cases.image_of, strict=True)):
        pixels = torch.from_numpy(cases.pixels[image : image + 1])
        with torch.no_grad():
            logits = model.eval()(pixels, torch.from_numpy(prompt)[None], torch.from_numpy(fed[row : row + 1]))
        np.testing.assert_array_equal(found[row], logits[0].argmax(dim=-1).numpy())


def test_tokens_count_from_the_second_to_the_end_of_each_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_engines().bundle
    cases, seen = cases_of(bundle), list[Int64Array]()

    def likeliest(side: OnnxSide, cases: Cases, fed: Int64Array) -> Int64Array:
        """All alike but, for the other bundle, the first tokens, one other, and what lies behind the answers."""
        found = np.zeros_like(fed)
        if side.name == "other":
            found[:, 0] = found[2, 1] = 1
            found[np.arange(fed.shape[1]) >= lengths[:, None]] = 1
        seen.append(fed)
        return found

    backend = OnnxBackend(bundle, threads=1)
    options = SearchOptions(beams=1, max_new_tokens=10)
    answers = [
        hypothesis.ids
        for hypothesis in backend.generate(backend.encode_image(cases.pixels), cases.prompts, options, cases.image_of)
    ]
    backend.close()
    lengths = np.array([len(ids) for ids in answers])
    monkeypatch.setattr(quantise_loss, "_likeliest", likeliest)
    count = int((lengths - 1).sum())
    same, tokens = agreement(bundle, Bundle(Path("other"), bundle.manifest), cases)
    assert same == pytest.approx(1 - 1 / count)
    assert tokens == count
    for row, ids in enumerate(answers):
        assert seen[0][row, : len(ids)].tolist() == [bundle.manifest.search.decoder_start, *ids[:-1]]
    assert seen[1] is seen[0]


def test_pictures_are_asked_about_in_turn_up_to_the_limit(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    pictures = [str(tmp_path / f"{name}.png") for name in "abc"]
    for place, path in enumerate(pictures):
        Image.new("RGB", (40, 30), (80 * place, 10, 10)).save(path)
    cases = _cases(bundle, Measure(pictures=pictures, limit=2))
    expected = [to_pixels(load_image(path), bundle.manifest.image) for path in pictures[:2]]
    np.testing.assert_array_equal(cases.pixels, np.concatenate(expected))
    assert (len(cases.prompts), cases.image_of) == (6, (0, 1, 0, 1, 0, 1))
    for limit, patterns in ((40, 4), (3, 3)):
        drawn = _cases(bundle, Measure(limit=limit))
        assert (len(drawn.pixels), len(drawn.prompts)) == (patterns, 3 * patterns)
    assert MAX_LOSS == {True: 0.02, False: 0.1}, "of metrics, and of tokens"
    with pytest.raises(InputError, match="limit is 0; it must be 1 or more"):
        Measure(limit=0)


def test_a_metric_is_compared_from_the_reference_to_the_candidate(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    rows = []
    for name in "ab":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
        rows.append({"image": f"{name}.png", "prefix": "<REGION_TO_OCR><loc_1><loc_1><loc_9><loc_9>", "suffix": "OPEN"})
    data = tmp_path / "val.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    with (
        Florence(bundle, FakeBackend(bundle)) as before,
        Florence(bundle, FakeBackend(bundle, lambda task, given, brightness: "OPUS")) as after,
    ):
        loss = measure_tasks(before, after, str(data), limit=1, allowed=0.5)
    assert ANSWERS["<REGION_TO_OCR>"] == "OPEN"
    assert (loss.images, loss.data, loss.allowed) == (1, str(data), 0.5)
    (metric,) = loss.metrics
    assert (metric.metric, metric.reference, metric.value) == ("CER", 1.0, 0.5)


def test_metrics_that_either_lacks_do_not_count() -> None:
    def report(first: float | None, second: float | None) -> Report:
        values = (("<OCR>", "CER", first, "lower"), ("<ASK>", "exact match", second, "higher"))
        metrics = tuple(Metric(task, name, value, None, None, 1, better) for task, name, value, better in values)
        return Report({}, "d", {}, 1, 2, metrics)

    both, neither = report(0.25, 0.5), report(None, None)
    assert [metric.task for metric in metric_losses(both, report(None, 0.5))] == ["<ASK>"]
    assert [metric.task for metric in metric_losses(report(0.25, None), both)] == ["<OCR>"]
    with pytest.raises(InputError, match="gives no metric that can be compared"):
        metric_losses(both, replace(neither))
