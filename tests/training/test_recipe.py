from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from florence_edge.errors import InputError
from florence_train.recipe import OptimizerRecipe, load_recipe
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


def test_geometric_goes_by_equal_ratios_and_is_off_at_zero() -> None:
    values = [geometric(step, 5, (16.0, 1.0)) for step in range(5)]
    np.testing.assert_allclose(values, [16, 8, 4, 2, 1])
    assert geometric(3, 5, (0.0, 0.0)) == 0.0
