"""What training needs of the model: gradients everywhere, sane initial weights, stochastic depth, one encoding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from florence_train.model import BASE, LARGE, FlorenceConfig, FlorenceModel
from florence_train.model.layers import DropPath
from florence_train.tiny import tiny_config
from support.oracle import reference_model

CONFIG = tiny_config(300)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(300, (2, 12), generator=generator)
    return torch.randn(2, 3, 64, 64, generator=generator), ids[:, :5], ids[:, 5:]


def make(config: FlorenceConfig = CONFIG, seed: int = 0) -> FlorenceModel:
    torch.manual_seed(seed)
    return FlorenceModel(config)


@pytest.mark.parametrize(("config", "millions"), [(BASE, 231.4), (LARGE, 770.2)], ids=["base", "large"])
def test_published_sizes_have_the_published_number_of_parameters(config: FlorenceConfig, millions: float) -> None:
    with torch.device("meta"):
        model = FlorenceModel(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


def test_a_fresh_model_starts_near_the_uniform_loss_and_every_parameter_learns() -> None:
    model = make()
    pixels, prompt, decoder = batch()
    logits = model(pixels, prompt, decoder)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), decoder[:, 1:].flatten())
    assert abs(loss.item() - math.log(300)) < 1.5
    torch.autograd.backward(loss)
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A key's bias moves all scores of a query alike, which softmax does not notice.
    assert [name for name in still if not name.endswith("attention.key.bias")] == []


def test_a_few_steps_learn_one_batch_by_heart() -> None:
    model = make(replace(CONFIG, text=replace(CONFIG.text, dropout=0.0)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    pixels, prompt, decoder = batch()
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(pixels, prompt, decoder)[:, :-1].flatten(0, 1), decoder[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_one_encoding_serves_many_prompts_and_collects_their_gradients() -> None:
    model = make().eval()
    pixels, prompt, decoder = batch()
    image_of = torch.tensor([0, 0, 1, 0])
    prompts, decoders = prompt[image_of].roll(1, dims=1), decoder[image_of]
    together = model.decode(model.encode_image(pixels)[image_of], prompts, decoders)
    runs = [(slice(i, i + 1), slice(k, k + 1)) for k, i in enumerate(image_of.tolist())]
    apart = torch.cat([model(pixels[image], prompts[one], decoders[one]) for image, one in runs])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=0)
    weight = model.get_parameter("vision.stages.0.embed.conv.weight")
    (shared,) = torch.autograd.grad(together.square().mean(), weight)
    (single,) = torch.autograd.grad(apart.square().mean(), weight)
    torch.testing.assert_close(shared, single, atol=1e-5, rtol=1e-3)


def test_stochastic_depth_grows_as_in_the_reference_and_is_off_in_eval() -> None:
    config = replace(CONFIG, vision=replace(CONFIG.vision, drop_path_rate=0.4))
    model = make(config)
    ours = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    reference = reference_model(config).model.vision_tower
    theirs = [
        getattr(block.drop_path1, "drop_prob", 0.0)
        for stage in reference.blocks
        for pair in stage
        for block in (pair.spatial_block, pair.channel_block)
    ]
    assert ours == pytest.approx(theirs)
    pixels = batch()[0]
    with torch.no_grad():
        assert not torch.equal(model.encode_image(pixels), model.encode_image(pixels))
        model.eval()
        assert torch.equal(model.encode_image(pixels), model.encode_image(pixels))


def test_drop_path_keeps_the_expectation_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 3, 2))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (dropped.flatten(1).amax(1) == dropped.flatten(1).amin(1)).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)


@torch.no_grad()
def test_unused_tokens_are_never_the_likeliest_and_change_no_other_logit() -> None:
    plain = make().eval()
    quiet = FlorenceModel(replace(CONFIG, text=replace(CONFIG.text, unused_tokens=(7, 299)))).eval()
    quiet.load_state_dict(plain.state_dict())
    pixels, prompt, decoder = batch()
    before, after = plain(pixels, prompt, decoder), quiet(pixels, prompt, decoder)
    kept = [i for i in range(300) if i not in (7, 299)]
    assert torch.equal(before[..., kept], after[..., kept])
    assert (after.softmax(-1)[..., [7, 299]] == 0).all()
