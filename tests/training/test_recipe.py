from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_train.model import FlorenceConfig
from florence_train.recipe import LATER, OptimizerRecipe, Recipe, load_recipe
from florence_train.schedule import geometric, learning_rate

ROOT = Path(__file__).parents[2]
MINIMAL = '[data.weights]\n"<OD>" = 1.0\n[optimizer]\nsteps = 10\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_can_be_read(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.optimizer.steps > 0
    assert recipe.digest() == load_recipe(path).digest()


def test_stages_become_dataclasses(tmp_path: Path) -> None:
    text = MINIMAL + "[[data.stages]]\nfrom_step = 3\nscene = { scale = 1.2 }\n"
    (stage,) = load_recipe(_write(tmp_path, text)).data.stages
    assert (stage.from_step, stage.scene) == (3, {"scale": 1.2})


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path, "[data]\nwieghts = 1\n[optimizer]\nlerning_rate = 1\n[model.text]\ndimension = 3\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    for part in ("data.wieghts", "data.weights", "optimizer.lerning_rate", "optimizer.steps", "dimension"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[output]\nlog_every = 0", "output: log_every must be 1 or more"),
        ("[output]\nlog_every = 'often'", "output.log_every is 'often'; it must be an integer"),
        ("[compute]\nprecision = 'fp8'", "compute.precision is 'fp8'; it must be one of 'fp32', 'bf16', 'fp16'"),
        ("[compute]\naccumulate = 0", "accumulate must be 1 or more"),
        ("[lora]\nrank = 0\ndropout = 1.0", "rank must be 1 or more; dropout must be 0 or more and below 1"),
        ("[lora]\nrang = 8", "unknown key lora.rang"),
        ("[validation]\nshare = 0.1", "missing key validation.every"),
        ("[validation]\nevery = 5", "either data or a share"),
        ("[validation]\nevery = 5\nshare = 0.1\ndata = 'val.jsonl'", "either data or a share"),
        (
            "[loss]\nlocation_sigma = [-1.0, 2.0]\nlabel_smoothing = 1.0\ndense = -0.5",
            "location_sigma must be 0 or more; label_smoothing must be 0 or more and below 1; dense must be 0 or more",
        ),
        ("[data.augment]\nshift = 3.0", "shift must be 0 to 1, got 3.0"),
        ("[[data.stages]]\nscene = {}", "missing key data.stages[0].from_step"),
        (
            "[[data.stages]]\nfrom_step = 0\nweights = { '<OD>' = 0.0 }",
            "weights must name a task with a weight above 0",
        ),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(_write(tmp_path, MINIMAL + text))
    assert message in str(caught.value)


def test_a_weight_for_something_that_is_no_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="<ODD>"):
        load_recipe(_write(tmp_path, MINIMAL.replace("<OD>", "<ODD>")))
    with pytest.raises(InputError, match="weights must name a task with a weight above 0"):
        load_recipe(_write(tmp_path, MINIMAL.replace("= 1.0", "= 0.0")))


def test_the_digest_is_that_of_the_first_version_until_a_later_key_is_used(tmp_path: Path) -> None:
    """States that were saved before a key existed name this digest."""
    text = "[model.text]\ndim = 64\nencoder_heads = 4\ndecoder_heads = 4\n[loss]\ndense = 0.5\n" + MINIMAL
    first = "49b370a5d6b09c36f169c9ef3c7fdf55822d0cacc732aab1afc83fc65802a6b7"
    assert load_recipe(_write(tmp_path, text)).digest() == first
    for spelled in ("[compute]\naccumulate = 2", "[output]\ntensorboard = false", "[[data.stages]]\nfrom_step = 1"):
        recipe = load_recipe(_write(tmp_path, f"{text}{spelled}"))
        assert (recipe.digest() == first) == (not recipe.data.stages)
    for used in ("[output]\ntensorboard = true", "[lora]", "[validation]\nevery = 3\nshare = 0.5", "[data.augment]"):
        assert load_recipe(_write(tmp_path, f"{text}{used}")).digest() != first


def test_the_guide_explains_every_key() -> None:
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [key for key in _keys(Recipe) if f"`{key}`" not in guide] == []


def _keys(kind: Any, path: str = "") -> Iterator[str]:
    """Dotted names of all keys of a recipe; the model's own are told by its configuration."""
    for name, hint in get_type_hints(kind).items():
        nested = [one for one in (hint, *get_args(hint)) if is_dataclass(one) and one is not FlorenceConfig]
        yield from _keys(nested[0], f"{path}{name}.") if nested else [f"{path}{name}"]


def test_every_later_key_has_a_default() -> None:
    for kind in (Recipe, *(one for hint in get_type_hints(Recipe).values() for one in (hint, *get_args(hint)))):
        if is_dataclass(kind):
            assert all(hasattr(kind, item.name) for item in fields(kind) if item.metadata == LATER)


def test_a_missing_or_broken_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recipe at"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="not valid TOML"):
        load_recipe(_write(tmp_path, "a = = 1"))


def test_the_learning_rate_is_torchs_warm_up_and_cosine() -> None:
    recipe = OptimizerRecipe(steps=100, learning_rate=0.5, final_fraction=0.1, warmup_steps=10)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=9)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warm.step()
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] = 0.5
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.05)
    for _ in range(90):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose([learning_rate(step, recipe) for step in range(100)], rates, rtol=1e-9)


@given(
    steps=st.integers(1, 10_000),
    warmup=st.integers(0, 10_000),
    peak=st.floats(1e-6, 1.0),
    final=st.floats(0.0, 1.0),
)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(
    steps: int, warmup: int, peak: float, final: float
) -> None:
    recipe = OptimizerRecipe(steps=steps, learning_rate=peak, final_fraction=final, warmup_steps=warmup)
    rates = [learning_rate(step, recipe) for step in range(steps)]
    rise, fall = np.diff(rates[:warmup]), np.diff(rates[warmup:])
    assert min(rates) > 0 or final == 0
    assert max(rates) <= peak * (1 + 1e-9)
    np.testing.assert_allclose(rise, peak / max(1, warmup), rtol=1e-6)
    assert (fall <= 1e-12).all()
    if warmup < steps:
        assert rates[warmup] == pytest.approx(peak)
        assert learning_rate(steps + 7, recipe) == pytest.approx(peak * final)
        assert abs(fall).max(initial=0.0) <= peak * np.pi / 2 / (steps - warmup) * (1 + 1e-9)


def test_geometric_goes_by_equal_ratios_and_is_off_at_zero() -> None:
    values = [geometric(step, 5, (16.0, 1.0)) for step in range(5)]
    np.testing.assert_allclose(values, [16, 8, 4, 2, 1])
    assert [geometric(2, 5, ends) for ends in ((0.0, 0.0), (0.0, 4.0), (4.0, 0.0))] == [0.0] * 3
    assert (geometric(0, 1, (16.0, 1.0)), geometric(9, 5, (16.0, 1.0))) == pytest.approx((16.0, 1.0))
