"""A trained model made larger: what it begins with is what it knew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from florence_edge.errors import InputError
from florence_train.checkpoint import load_checkpoint
from florence_train.enlarge import deepen, enlarge
from florence_train.model import FlorenceModel
from florence_train.recipe import load_recipe
from florence_train.run import train
from florence_train.tiny import tiny_config, write_tiny_checkpoint


@pytest.fixture(scope="module")
def model() -> FlorenceModel:
    torch.manual_seed(0)
    config = tiny_config(2000)
    model = FlorenceModel(replace(config, image=replace(config.image, height=64, width=64))).eval()
    first = next(
        value for value in model.parameters() if value.ndim == 4
    )  # random kernels have detail, trained ones have not
    first.data = F.interpolate(first.data[..., 2:5, 2:5], first.shape[-2:], mode="bilinear")
    return model


def _smooth(side: int) -> Tensor:
    """The same two pictures at any size, without detail that the small ones could not show."""
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(noise, (side, side), mode="bicubic")


@pytest.mark.parametrize("side", [80, 96, 128])
def test_it_sees_the_same_in_a_larger_picture(model: FlorenceModel, side: int) -> None:
    larger = enlarge(model, side, side).eval()
    assert larger.config.image.height == larger.config.image.width == side
    assert larger.config.text == model.config.text
    with torch.no_grad():
        seen, before = larger.encode_image(_smooth(side)), model.encode_image(_smooth(64))
        other = model.encode_image(_smooth(64).flip(0))
    assert seen.shape == before.shape
    kernels = [next(value for value in one.parameters() if value.ndim == 4) for one in (larger, model)]
    sums = [kernel.detach().sum(dim=(2, 3)) for kernel in kernels]
    assert (sums[0] - sums[1]).norm() < 0.2 * sums[1].norm()
    assert (seen - before).norm() < 0.15 * (other - before).norm()


@pytest.mark.parametrize("padding", [3, 2])
def test_every_token_keeps_its_place_in_the_picture(model: FlorenceModel, padding: int) -> None:
    vision = replace(model.config.vision, patch_paddings=(padding, *model.config.vision.patch_paddings[1:]))
    config = replace(model.config, vision=vision)
    larger = enlarge(FlorenceModel(config), 128, 128).config.vision
    centres = [(one.patch_sizes[0] - 1) / 2 - one.patch_paddings[0] for one in (vision, larger)]
    assert centres[1] == 2 * centres[0]


def test_at_its_own_size_it_stays_the_same(model: FlorenceModel) -> None:
    same = enlarge(model, 64, 64).eval()
    assert same.config == model.config
    with torch.no_grad():
        torch.testing.assert_close(same.encode_image(_smooth(64)), model.encode_image(_smooth(64)))


@pytest.mark.parametrize(("height", "width"), [(72, 72), (96, 128), (48, 48), (65, 65)])
def test_other_shapes_and_broken_steps_are_refused(model: FlorenceModel, height: int, width: int) -> None:
    with pytest.raises(
        InputError, match=rf"{height}x{width} \(height x width\) .* give a height that is a larger multiple"
    ):
        enlarge(model, height, width)


def test_a_run_can_begin_with_it(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start")
    before, _ = load_checkpoint(start)
    side = 2 * before.config.image.height
    (tmp_path / "larger.toml").write_text(
        f'start = "{start}"\nenlarge = [{side}, {side}]\n'
        '[data]\nimages_per_step = 1\nprompts_per_image = 1\nworkers = 0\n[data.weights]\n"<OD>" = 1.0\n'
        "[optimizer]\nsteps = 1\nwarmup_steps = 0\n"
    )
    train(load_recipe(tmp_path / "larger.toml"), tmp_path / "run")
    after, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert after.config.image.height == side
    assert after.config.vision.grid(side, side) == before.config.vision.grid(side // 2, side // 2)


@pytest.mark.parametrize("change", ["enlarge = [96, 96]", "deepen = [1, 1, 1, 2]"])
def test_only_a_model_that_exists_is_made_larger(tmp_path: Path, change: str) -> None:
    (tmp_path / "new.toml").write_text(f'{change}\n[data]\nweights = {{"<OD>" = 1.0}}\n[optimizer]\nsteps = 1\n')
    with pytest.raises(InputError, match=f"{change.split()[0]} needs start"):
        load_recipe(tmp_path / "new.toml")


def test_added_blocks_change_nothing_until_they_are_trained(model: FlorenceModel) -> None:
    depths = model.config.vision.depths
    deeper = deepen(model, (depths[0] + 1, *depths[1:-1], depths[-1] + 2)).eval()
    assert deeper.config == replace(
        model.config, vision=replace(model.config.vision, depths=deeper.config.vision.depths)
    )
    added = [value for name, value in deeper.named_parameters() if name not in dict(model.named_parameters())]
    assert sum(value.numel() for value in added) > 0
    with torch.no_grad():
        torch.testing.assert_close(deeper.encode_image(_smooth(64)), model.encode_image(_smooth(64)))
    deeper.train().encode_image(_smooth(64)).square().sum().backward()  # type: ignore[no-untyped-call]  # torch
    moved = [value.grad is not None and bool(value.grad.abs().sum() > 0) for value in added]
    assert sum(moved) >= 3 * 2 * 4, "the ends of four branches in two attention blocks of three blocks"


@pytest.mark.parametrize("change", [lambda depths: depths[1:], lambda depths: (depths[0] - 1, *depths[1:])])
def test_blocks_are_not_taken_away(model: FlorenceModel, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="none smaller than what is there"):
        deepen(model, change(model.config.vision.depths))


def test_a_run_can_begin_deeper(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start")
    depths = [depth + 1 for depth in load_checkpoint(start)[0].config.vision.depths]
    (tmp_path / "deeper.toml").write_text(
        f'start = "{start}"\ndeepen = {depths}\n'
        '[data]\nimages_per_step = 1\nprompts_per_image = 1\nworkers = 0\n[data.weights]\n"<OD>" = 1.0\n'
        "[optimizer]\nsteps = 1\nwarmup_steps = 0\n"
    )
    train(load_recipe(tmp_path / "deeper.toml"), tmp_path / "run")
    after, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert list(after.config.vision.depths) == depths
