from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from florence_edge.vocabulary import LOCATION_BINS, Vocabulary
from florence_train.auxiliary import DenseHeads, DenseTargets
from florence_train.losses import IGNORE, answer_loss, location_loss, soft_bins

VOCABULARY = Vocabulary(first=20)


def _labels() -> torch.Tensor:
    first = VOCABULARY.first_location
    return torch.tensor([[0, 7, first + 3, first + 999, 2], [0, 9, 2, IGNORE, IGNORE]])


def test_without_softening_it_is_torchs_own_cross_entropy() -> None:
    logits = torch.randn(2, 5, VOCABULARY.size, generator=torch.Generator().manual_seed(0))
    terms = answer_loss(logits, _labels(), VOCABULARY)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), _labels().flatten(), ignore_index=IGNORE)
    assert terms.total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_padding_takes_no_part() -> None:
    logits = torch.randn(2, 5, VOCABULARY.size, requires_grad=True)
    answer_loss(logits, _labels(), VOCABULARY, location_sigma=5.0).total.backward()  # type: ignore[no-untyped-call]  # torch
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad[1, 3:]) == 0
    assert torch.count_nonzero(logits.grad[1, :3]) > 0


def test_an_answer_without_locations_has_no_location_loss() -> None:
    labels = torch.tensor([[0, 7, 2]])
    terms = answer_loss(torch.zeros(1, 3, VOCABULARY.size), labels, VOCABULARY, location_sigma=5.0)
    assert np.isnan(terms.location)
    assert terms.text == pytest.approx(np.log(VOCABULARY.size), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 24.0])
def test_soft_location_loss_is_the_kullback_leibler_divergence(sigma: float) -> None:
    bins = torch.tensor([0, 17, 500, 999])
    log_probs = torch.log_softmax(torch.randn(4, LOCATION_BINS, generator=torch.Generator().manual_seed(1)), dim=1)
    wanted = [
        entropy(soft_bins(sigma)[b].double().numpy(), log_probs[i].exp().double().numpy()) for i, b in enumerate(bins)
    ]
    np.testing.assert_allclose(location_loss(log_probs, bins, sigma).numpy(), wanted, rtol=1e-4)


def test_soft_targets_are_distributions_with_their_mode_at_the_bin() -> None:
    targets = soft_bins(8.0)
    np.testing.assert_allclose(targets.sum(dim=1).numpy(), 1.0, rtol=1e-5)
    assert torch.equal(targets.argmax(dim=1), torch.arange(LOCATION_BINS))


def test_dense_heads_can_learn_what_lies_under_each_token() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 9, 16)
    targets = DenseTargets(torch.randint(0, 3, (2, 9, 2)), torch.randint(0, LOCATION_BINS, (2, 9, 4)))
    targets.bins[0, :5] = -1
    heads, locations = DenseHeads(16, (2, 2)), torch.nn.Parameter(torch.randn(LOCATION_BINS, 16))
    optimizer = torch.optim.Adam([*heads.parameters(), locations], lr=3e-2)
    losses = []
    for _ in range(150):
        loss = heads.loss(features, targets, locations, 0.0)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 5
    assert losses[-1] < 0.2


def test_dense_heads_accept_a_batch_without_any_object() -> None:
    targets = DenseTargets(torch.zeros(1, 4, 1, dtype=torch.int64), torch.full((1, 4, 4), -1))
    loss = DenseHeads(8, (3,)).loss(torch.randn(1, 4, 8), targets, torch.randn(LOCATION_BINS, 8), 4.0)
    assert torch.isfinite(loss)
