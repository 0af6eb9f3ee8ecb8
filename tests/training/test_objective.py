"""What a step minimises, against the same numbers taken token by token from the model's own logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy, norm

from florence_edge.options import SearchConfig
from florence_edge.vocabulary import LOCATION_BINS
from florence_train.auxiliary import DenseHeads
from florence_train.batch import Batch, Sample, collate
from florence_train.loop.objective import Objective, Share, answer_logits, count
from florence_train.losses import IGNORE
from florence_train.recipe import LossRecipe
from support.squares import STILL, VOCABULARY, Squares, make_model

RECIPE = LossRecipe(label_smoothing=0.1, dense=0.5)
SIGMA = 3.0
FIRST = VOCABULARY.first_location


def _objective() -> Objective:
    model = make_model(STILL).eval()
    torch.manual_seed(1)
    heads = DenseHeads(STILL.text.dim, STILL.vision.dims[-2], Squares.dense_classes)
    return Objective(model, heads, VOCABULARY, RECIPE)


def _by_hand(objective: Objective, batch: Batch) -> tuple[list[float], list[float]]:
    """The losses of text tokens and of location tokens, one by one, in fp64."""
    with torch.no_grad():
        logits = answer_logits(objective.model, objective.model.encode_image(batch.pixels), batch).double()
    labels = torch.cat([group.labels[group.labels != IGNORE] for group in batch.turns])
    text, location = [], []
    for row, label in zip(logits, labels.tolist(), strict=True):
        if FIRST <= label < FIRST + LOCATION_BINS:
            wanted = norm.pdf(np.arange(LOCATION_BINS), label - FIRST, SIGMA)
            said = row.softmax(0)[FIRST : FIRST + LOCATION_BINS].numpy()
            wanted = wanted / wanted.sum()
            location.append(float(entropy(wanted, said / said.sum()) - np.log(said.sum())))
        else:
            text.append(F.cross_entropy(row, torch.tensor(label), label_smoothing=RECIPE.label_smoothing).item())
    return text, location


def _dense(objective: Objective, batch: Batch) -> float:
    kept: list[torch.Tensor] = []
    hook = objective.model.vision.stages[-2].register_forward_hook(lambda stage, given, made: kept.append(made))
    with torch.no_grad():
        features = objective.model.encode_image(batch.pixels)
        assert batch.dense is not None
        locations = objective.model.embedding.weight[FIRST : FIRST + LOCATION_BINS]
        everywhere, present = objective.heads.losses(features, kept[0], batch.dense, locations=locations, sigma=SIGMA)
    hook.remove()
    return float(everywhere + present.sum())


def _sum(objective: Objective, parts: list[list[Sample]]) -> list[float]:
    """The terms of a step that is computed part by part."""
    batches = [collate(part, SearchConfig()) for part in parts]
    counts = [count(batch, VOCABULARY) for batch in batches]
    step = torch.stack(counts).sum(dim=0)
    with torch.no_grad():
        terms = [
            objective(batch, Share.of(counted, step), sigma=SIGMA)
            for batch, counted in zip(batches, counts, strict=True)
        ]
    return [float(sum(values)) for values in zip(*terms, strict=True)]


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_a_step_s_terms_are_the_means_over_its_tokens_however_it_is_split(parts: int) -> None:
    objective, samples = _objective(), Squares(6).samples(0)
    whole = collate(samples, SearchConfig())
    text, location = _by_hand(objective, whole)
    assert min(len(text), len(location)) > 4
    dense = _dense(objective, whole)
    terms = _sum(objective, [samples[i::parts] for i in range(parts)])
    wanted = [np.mean(text + location) + RECIPE.dense * dense, np.mean(text), np.mean(location), dense]
    np.testing.assert_allclose(terms, wanted, rtol=1e-4)


def test_a_step_without_locations_says_so_with_zero_shares() -> None:
    """The trainer's log writes NaN for what a step has none of; the sum itself must stay finite."""
    objective = _objective()
    samples = [replace(sample, turns=sample.turns[:1]) for sample in Squares(2).samples(0)]
    total, text, location, _ = _sum(objective, [samples[:1], samples[1:]])
    assert np.isfinite(total)
    assert text > 0
    assert location == 0


def test_images_that_nothing_is_asked_about_have_a_dense_loss_alone() -> None:
    objective = _objective()
    samples = [replace(sample, turns=()) for sample in Squares(2).samples(0)]
    total, text, location, dense = _sum(objective, [samples])
    assert (text, location) == (0.0, 0.0)
    assert total == pytest.approx(RECIPE.dense * dense, rel=1e-6)
