"""The true base size at 768 x 768, in both layouts, with the published vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from florence_train.checkpoint import load_checkpoint
from florence_train.model import BASE
from support.oracle import reference_features, reference_logits
from support.published import write_published


@pytest.mark.slow
@torch.no_grad()
def test_base_at_768_pixels_equals_the_reference(tmp_path: Path) -> None:
    reference = write_published(tmp_path / "microsoft", layout="microsoft", size="base", container="bin")
    model, config = load_checkpoint(tmp_path / "microsoft")
    assert config == BASE
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, 768, 768, generator=generator)
    ids = torch.randint(config.text.vocab_size, (1, 40), generator=generator)
    features = reference_features(reference, pixels)
    assert features.shape == (1, 577, 768)
    assert (model.encode_image(pixels) - features).abs().max() < 1e-4
    expected = reference_logits(reference, features, ids[:, :20], ids[:, 20:], torch.ones(1, 20, dtype=torch.bool))
    assert (model(pixels, ids[:, :20], ids[:, 20:]) - expected).abs().max() < 1e-3
    del reference
    write_published(tmp_path / "native", layout="native", size="base")
    native, other = load_checkpoint(tmp_path / "native")
    assert other == config
    weights = native.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
