"""Comparisons of lowered graphs with the bundle they were made from, for every model that is tested."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from florence_convert.comparison import CaseOptions, Cases, draw_cases
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.geometry import AnyArray
from florence_edge.options import SearchOptions
from florence_edge.tokens import Tokens
from support.lowered import LoweredDecoder, LoweredModel, open_graph, shape_of

FEW = CaseOptions(pairs=4, images=2, new_tokens=12)


def cases_of(bundle: Bundle, options: CaseOptions = FEW) -> Cases:
    return draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, options)


def session(bundle: Bundle, graph: str) -> Any:
    return open_graph(bundle.path(dict(bundle.manifest.graphs.items())[graph].file))


def check_vision_and_encoder(bundle: Bundle, model: LoweredModel) -> dict[str, AnyArray]:
    """Compares both on prompts of different lengths; returns the cross caches."""
    cases = cases_of(bundle)
    features = model.features(cases.pixels)
    (expected,) = session(bundle, "vision").run(None, {"pixels": cases.pixels})
    assert np.abs(features - expected).max() < 1e-4
    cross = model.cross(features[list(cases.image_of)], cases.prompts, pad_to=max(map(len, cases.prompts)) + 3)
    encoder = session(bundle, "encoder")
    for row, prompt in enumerate(cases.prompts):
        feeds = {"features": expected[[cases.image_of[row]]], "prompt_ids": prompt[None]}
        outputs = encoder.run(None, {**feeds, "prompt_mask": np.ones((1, len(prompt)), np.bool_)})
        for value, wanted in zip(encoder.get_outputs()[:-1], outputs, strict=False):
            found = cross[value.name][row, :, : cross["lengths"][row]]
            assert np.abs(found - wanted[0]).max() < 1e-4, value.name
    return cross


def check_decoder_steps(bundle: Bundle, model: LoweredModel, cross: dict[str, AnyArray], *, length: int) -> None:
    """Random tokens, beams that change histories at every step; every position of a cache of `length`."""
    beams, batch, rng = 3, len(cross["lengths"]), np.random.default_rng(length)
    step = LoweredDecoder(model, cross, beams=beams, capacity=length)
    opened = session(bundle, "decoder")
    sizes = {"B": batch, "K": beams, "L": length}
    cache = {
        tensor.name: np.zeros(shape_of(tensor, sizes), np.float32)
        for tensor in bundle.manifest.graphs.decoder.inputs
        if tensor.name.startswith("self_")
    }
    mask = np.arange(cross["cross_key_0"].shape[2]) < cross["lengths"][:, None]
    given = {name: array for name, array in cross.items() if name != "lengths"} | {"cross_mask": mask}
    vocabulary = bundle.manifest.graphs.decoder.outputs[0].shape[-1]
    for position in range(length):
        ancestors = np.full((batch, beams, length), -1, np.int32)
        ancestors[:, :, :position] = rng.integers(0, beams, (batch, beams, position))
        token_ids = rng.integers(0, int(vocabulary), (batch, beams))
        found = step.step(token_ids, ancestors[:, :, :position])
        feeds = {"token_ids": token_ids, "position": np.asarray(position), "ancestors": ancestors, **cache, **given}
        expected = dict(zip([o.name for o in opened.get_outputs()], opened.run(None, feeds), strict=True))
        assert np.abs(found - expected["logits"]).max() < 1e-3, position
        for name, past in cache.items():
            past[:, :, position] = expected[name.replace("self_", "new_")]
            own = step.caches[name][:, :, :, position].transpose(0, 2, 1, 3)
            assert np.abs(own - past[:, :, position]).max() < 1e-4, (position, name)


def check_searches(bundle: Bundle, model: LoweredModel, options: CaseOptions = FEW) -> None:
    """Whole answers, greedy and with beams."""
    cases = cases_of(bundle, options)
    backend = OnnxBackend(bundle, threads=1)
    features = backend.encode_image(cases.pixels)
    cross = model.cross(model.features(cases.pixels)[list(cases.image_of)], cases.prompts)
    for beams in (1, 3):
        options_ = SearchOptions(beams=beams, max_new_tokens=cases.new_tokens)
        expected = backend.generate(features, cases.prompts, options_, cases.image_of)
        found = model.generate(cross, bundle.manifest.search.over(options_))
        for wanted, own in zip(expected, found, strict=True):
            np.testing.assert_array_equal(own.ids, wanted.ids)
            assert own.score == pytest.approx(wanted.score, abs=1e-4)
    backend.close()
