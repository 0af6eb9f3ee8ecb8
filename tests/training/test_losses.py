from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy, norm

from florence_edge.vocabulary import LOCATION_BINS, Vocabulary
from florence_train.auxiliary import READING, DenseClasses, DenseHeads, DenseTargets
from florence_train.losses import IGNORE, answer_loss, location_loss, soft_bins

VOCABULARY = Vocabulary(first=20)


def _labels() -> torch.Tensor:
    first = VOCABULARY.first_location
    return torch.tensor([[0, 7, first, first + 999, 2], [0, first + 1000, 2, IGNORE, IGNORE]])


def test_without_softening_it_is_torchs_own_cross_entropy() -> None:
    logits = torch.randn(2, 5, VOCABULARY.size, generator=torch.Generator().manual_seed(0))
    terms = answer_loss(logits, _labels(), VOCABULARY)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), _labels().flatten(), ignore_index=IGNORE)
    assert terms.total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_text_is_smoothed_as_torch_does_and_locations_are_softened() -> None:
    logits, labels = torch.randn(2, 5, VOCABULARY.size, generator=torch.Generator().manual_seed(0)), _labels()
    located = torch.tensor([[VOCABULARY.bin_of(i) is not None for i in row] for row in labels.tolist()])
    first = VOCABULARY.first_location
    terms = answer_loss(logits, labels, VOCABULARY, location_sigma=5.0, label_smoothing=0.1)
    text = F.cross_entropy(logits[~located], labels[~located], ignore_index=IGNORE, label_smoothing=0.1)
    log_probs = logits[located].log_softmax(dim=1)[:, first : first + LOCATION_BINS]
    location = location_loss(log_probs, labels[located] - first, 5.0).mean()
    assert (terms.text, terms.location) == pytest.approx((text.item(), location.item()), rel=1e-5)
    assert terms.total.item() == pytest.approx((6 * terms.text + 2 * terms.location) / 8, rel=1e-5)


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
    nothing = answer_loss(torch.zeros(1, 3, VOCABULARY.size), torch.full_like(labels, IGNORE), VOCABULARY)
    assert nothing.total.item() == 0
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
    for place in (0, 3, 500):
        density = norm.pdf(np.arange(LOCATION_BINS), place, 8.0)
        np.testing.assert_allclose(targets[place].numpy(), density / density.sum(), rtol=1e-4, atol=1e-9)


def test_dense_heads_can_learn_what_lies_under_each_token() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 10, 16)
    finer = torch.randn(2, 12, 6, 6)
    bins, characters = torch.randint(0, LOCATION_BINS, (2, 9, 4)), torch.randint(0, 5, (2, 36, 2))
    targets = DenseTargets(torch.randint(0, 3, (2, 9, 2)), bins, characters, torch.tensor([[1], [0]]))
    targets.bins[0, :5] = -1
    heads, locations = (
        DenseHeads(16, 12, DenseClasses((2, 2), (4, 4), (2,))),
        torch.nn.Parameter(torch.randn(LOCATION_BINS, 16)),
    )
    optimizer = torch.optim.Adam([*heads.parameters(), locations, finer.requires_grad_()], lr=3e-2)
    losses = []
    for _ in range(150):
        everywhere, present = heads.losses(features, finer, targets, locations=locations, sigma=0.0)
        loss = everywhere + present.sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 5
    assert losses[-1] < 0.2


def test_each_attribute_has_a_mean_of_its_own() -> None:
    torch.manual_seed(0)
    features, locations = torch.randn(1, 7, 8), torch.randn(LOCATION_BINS, 8)
    classes = torch.tensor([[[1, 0], [2, 0], [0, 0], [0, 3], [1, 0], [0, 0]]])
    finer, characters = torch.randn(1, 5, 2, 2), torch.tensor([[[0, 0], [4, 1], [0, 2], [0, 0]]])
    targets = DenseTargets(classes, torch.full((1, 6, 4), -1), characters, torch.tensor([[2]]))
    assert targets.counts().tolist() == [3, 1, 0, 1, 2]
    corner = torch.full((1, 6, 4), -1).index_fill(1, torch.tensor([2]), 0)
    assert replace(targets, bins=corner).counts().tolist() == [3, 1, 1, 1, 2]
    heads = DenseHeads(8, 5, DenseClasses((2, 3), (4, 2), (5,)))
    everywhere, present = heads.losses(features, finer, targets, locations=locations, sigma=0.0)
    wanted = [*classes[0].T, *characters[0].T]
    pooled, *tokens = heads.norm(features[0])
    logits = [head(torch.stack(tokens)) for head in heads.attributes]
    logits += [head(heads.finer_norm(finer[0].flatten(1).T)) for head in heads.characters]
    losses = [F.cross_entropy(*pair, reduction="none") for pair in zip(logits, wanted, strict=True)]
    count = F.cross_entropy(heads.whole[0](pooled), torch.tensor(2))
    torch.testing.assert_close(everywhere, torch.stack([loss.mean() for loss in losses]).sum() + count)
    named = [losses[0][[0, 1, 4]].mean(), losses[1][3], torch.tensor(0.0)]
    expected = [*named, READING * losses[2][1], READING * losses[3][[1, 2]].mean()]
    torch.testing.assert_close(present, torch.stack(expected))


def test_every_side_of_a_box_is_its_own_and_softened_and_so_is_every_class_of_the_whole() -> None:
    torch.manual_seed(0)
    features, finer, locations = torch.randn(1, 3, 8), torch.randn(1, 5, 1, 1), torch.randn(LOCATION_BINS, 8)
    box = [0, 10, 500, 999]
    nothing = torch.zeros(1, 2, 0, dtype=torch.int64)
    targets = DenseTargets(nothing, torch.tensor([[[-1] * 4, box]]), torch.tensor([[[0]]]), torch.tensor([[1, 2]]))
    heads = DenseHeads(8, 5, DenseClasses((), (1,), (2, 3)))
    everywhere, present = heads.losses(features, finer, targets, locations=locations, sigma=3.0)
    pooled, _, covered = heads.norm(features[0])
    scores = [side @ locations.T for side in heads.sides(covered).chunk(4)]
    sides = [
        location_loss(side.log_softmax(0)[None], torch.tensor([place]), 3.0)
        for side, place in zip(scores, box, strict=True)
    ]
    torch.testing.assert_close(present[0], torch.cat(sides).mean())
    told = [F.cross_entropy(head(pooled), torch.tensor(place)) for head, place in zip(heads.whole, (1, 2), strict=True)]
    printed = F.cross_entropy(heads.characters[0](heads.finer_norm(finer[0, :, 0, 0])), torch.tensor(0))
    torch.testing.assert_close(everywhere, torch.stack([*told, printed]).sum())


def test_dense_heads_accept_a_batch_without_any_object() -> None:
    nothing = torch.zeros(1, 4, 1, dtype=torch.int64)
    targets = DenseTargets(nothing, torch.full((1, 4, 4), -1), nothing, nothing[:, 0])
    heads, locations = DenseHeads(8, 6, DenseClasses((3,), (2,), (1,))), torch.randn(LOCATION_BINS, 8)
    everywhere, present = heads.losses(
        torch.randn(1, 5, 8), torch.randn(1, 6, 2, 2), targets, locations=locations, sigma=4.0
    )
    assert torch.isfinite(everywhere)
    assert (present == 0).all()
