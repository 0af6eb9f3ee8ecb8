"""The onnx backend against transformers at the true base size: 231 M parameters, 768 x 768 pixels, random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from florence_convert.export import export_bundle
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.bundle import Bundle
from florence_edge.geometry import ImageSize
from florence_edge.options import SearchOptions
from florence_train.model import BASE
from support.engines import random_pixels, random_prompts, reference_answer
from support.oracle import reference_features
from support.published import write_published

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # six minutes on two idle cores

IMAGES = 4
PROMPTS = {1: (4, 9, 14, 21), 3: (3, 5, 7, 8, 10, 12, 16, 24), 5: (4, 9, 14, 21)}
"""Lengths of the prompts asked about every image, by number of beams: 64 pairs in all."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Path]:
    folder = tmp_path_factory.mktemp("base")
    return write_published(folder / "checkpoint", layout="native", size="base"), folder


def test_64_image_prompt_pairs_equal_transformers(reference: tuple[object, Path]) -> None:
    model, folder = reference
    bundle: Bundle = export_bundle(folder / "checkpoint", folder / "bundle")
    backend = OnnxBackend(bundle)
    image = bundle.manifest.image
    pixels = random_pixels(0, IMAGES, ImageSize(image.width, image.height))
    theirs = reference_features(model, torch.from_numpy(pixels))
    features = backend.encode_image(pixels)
    np.testing.assert_allclose(features.numpy(), theirs.numpy(), atol=1e-4)
    for beams, lengths in PROMPTS.items():
        options = SearchOptions(beams=beams, max_new_tokens=16, no_repeat_ngram=3)
        config = bundle.manifest.search.over(options)
        prompts = random_prompts(beams, lengths, vocabulary=BASE.text.vocab_size)
        answers = [backend.generate(features, prompts, options, [row] * len(prompts)) for row in range(IMAGES)]
        for index, prompt in enumerate(prompts):
            output = reference_answer(model, theirs, prompt, config)
            for row in range(IMAGES):
                ours = answers[row][index]
                assert ours.ids.tolist() == output.sequences[row, 1 : len(ours.ids) + 1].tolist()
                if beams > 1:
                    assert ours.score == pytest.approx(float(output.sequences_scores[row]), abs=1e-4)
