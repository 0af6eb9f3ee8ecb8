"""Low-rank adapters: what they change, what is written of them, and peft's own reading of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch

from florence_edge.errors import InputError
from florence_train.checkpoint import load_checkpoint
from florence_train.lora import add_adapters, merged
from florence_train.recipe import LoraRecipe, Recipe, load_recipe
from florence_train.run import train
from florence_train.tiny import write_tiny_checkpoint
from support.records import write_captions
from support.squares import make_model

RANK = 3
LAYER = "vision.stages.1.blocks.0.spatial.mlp.fc1"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("start") / "start")


def _recipe(folder: Path, start: Path, *, steps: int = 4) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(
        f'start = "{start}"\n[data]\nsource = "{write_captions(folder)}"\nimages_per_step = 2\nworkers = 0\n'
        f'[data.weights]\n"<CAPTION>" = 1.0\n[optimizer]\nsteps = {steps}\nlearning_rate = 0.01\nwarmup_steps = 1\n'
        f"[lora]\nrank = {RANK}\ndropout = 0.1\ntargets = ['query', 'value', '{LAYER}']\n"
        "[output]\nlog_every = 1\n",
        encoding="utf-8",
    )
    return load_recipe(path)


def test_the_checkpoint_is_what_peft_makes_of_the_start_and_the_adapter(tmp_path: Path, start: Path) -> None:
    outcome = train(_recipe(tmp_path, start), tmp_path / "run")
    model, _ = load_checkpoint(tmp_path / "run" / "checkpoint")
    base, _ = load_checkpoint(start)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").merge_and_unload()
    changed = set()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], value, atol=1e-6, rtol=1e-5, msg=name)
        assert torch.equal(outcome.model.state_dict()[name], value)
        if not torch.equal(before[name], value):
            changed.add(name)
    layers = [name for name in before if name.endswith(("query.weight", "value.weight"))]
    assert changed == {*layers, f"{LAYER}.weight"}


def test_a_resumed_run_is_exact_and_its_state_holds_adapters_only(tmp_path: Path, start: Path) -> None:
    recipe = _recipe(tmp_path, start)
    whole, parts = list[float](), list[float]()
    one = train(recipe, tmp_path / "whole", report=lambda line: whole.append(line["loss"]))
    train(recipe, tmp_path / "parts", until=2, report=lambda line: parts.append(line["loss"]))
    torch.manual_seed(99)
    other = train(recipe, tmp_path / "parts", report=lambda line: parts.append(line["loss"]))
    assert parts == whole
    for name, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    parameters = dict(load_checkpoint(start)[0].named_parameters())
    for part in ("model", "ema"):
        adapters = {name: value for name, value in state[part].items() if "lora_" in name}
        assert {min(value.shape) for value in adapters.values()} == {RANK}
        assert not parameters.keys() & {name.replace(".base_layer", "") for name in state[part]}


def test_a_run_whose_start_was_changed_is_refused(tmp_path: Path, start: Path) -> None:
    recipe = _recipe(tmp_path, start)
    train(recipe, tmp_path / "run", until=1)
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    start_of = replace(recipe, start=str(other))
    kept = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    torch.save({**kept, "recipe": start_of.digest()}, tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match="other contents of: start"):
        train(start_of, tmp_path / "run")


def test_adapters_begin_as_no_change_and_merging_changes_no_answer() -> None:
    model = make_model().eval()
    pixels, prompt, answer = torch.randn(2, 3, 32, 32), torch.tensor([[0, 4, 2]] * 2), torch.tensor([[2, 0, 5]] * 2)
    plain = model(pixels, prompt, answer)
    add_adapters(model, LoraRecipe(), seed=0)
    torch.testing.assert_close(model(pixels, prompt, answer), plain)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    adapted = model.eval()(pixels, prompt, answer)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    single = merged(model)
    torch.testing.assert_close(single(pixels, prompt, answer), adapted, atol=1e-5, rtol=1e-4)
    assert single.state_dict().keys() == make_model().state_dict().keys()


def test_the_same_seed_gives_the_same_adapters() -> None:
    weights = []
    for other in (0, 1):
        model = make_model()
        torch.manual_seed(other)
        add_adapters(model, LoraRecipe(), seed=7)
        weights.append({name: value for name, value in model.state_dict().items() if "lora_A" in name})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"no linear layer is called qurey; their names end in .*query"):
        add_adapters(make_model(), LoraRecipe(targets=("qurey", "value")), seed=0)


def test_the_adapter_says_what_it_belongs_to(tmp_path: Path, start: Path) -> None:
    train(_recipe(tmp_path, start, steps=1), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(start)
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (RANK, 32.0, 0.1)
