"""Every backend against transformers with the same weights, from pixels to token ids.

transformers gets each prompt unpadded; ours get prompts of different lengths in one padded batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from florence_edge.backends import StreamingBackend
from florence_edge.options import SearchOptions
from support.engines import (
    BACKENDS,
    Engines,
    random_pixels,
    random_prompts,
    reference_generate,
    tiny_engines,
)
from support.oracle import reference_features

IMAGES = 8
LENGTHS = (3, 5, 7, 8, 11, 14, 20, 33)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return tiny_engines()


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, engines: Engines) -> Iterator[StreamingBackend]:
    opened = BACKENDS[request.param](engines.bundle)
    yield opened
    opened.close()


def test_features_equal_transformers(engines: Engines, backend: StreamingBackend) -> None:
    pixels = random_pixels(0, IMAGES)
    expected = reference_features(engines.reference, torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(backend.encode_image(pixels).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3, 5])
def test_64_image_prompt_pairs_equal_transformers(engines: Engines, backend: StreamingBackend, beams: int) -> None:
    options = SearchOptions(beams=beams, max_new_tokens=24, no_repeat_ngram=3)
    config = engines.bundle.manifest.search.over(options)
    pixels = random_pixels(0, IMAGES)
    features = backend.encode_image(pixels)
    prompts = random_prompts(0, LENGTHS, vocabulary=engines.config.text.vocab_size)
    finishes = set()
    answers = [backend.generate(features, prompts, options, [image] * len(prompts)) for image in range(IMAGES)]
    for row, prompt in enumerate(prompts):
        output = reference_generate(engines, pixels, prompt, config)
        for image in range(IMAGES):
            ours, theirs = answers[image][row], output.sequences[image, 1:].tolist()
            length = len(ours.ids)
            assert ours.ids.tolist() == theirs[:length]
            assert set(theirs[length:]) <= {config.pad}
            if beams > 1:
                assert ours.score == pytest.approx(float(output.sequences_scores[image]), abs=1e-4)
            finishes.add(ours.finish)
    assert finishes == {"eos", "length"}, "the pairs must cover both ends"
