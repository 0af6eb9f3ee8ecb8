"""However a step is computed (in parts, on several processes, in half precision), it is the same step."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_train.batch import collate
from florence_train.loop.devices import Devices, open_devices
from florence_train.loop.objective import count
from florence_train.loop.precision import autocast, scaler
from florence_train.loop.recompute import recompute
from florence_train.recipe import ComputeRecipe, DataRecipe, Stage
from florence_train.trainer import in_parts
from support.squares import CONFIG, IMAGES, STILL, VOCABULARY, Squares, make_model, make_recipe, run_squares
from support.two_processes import STEPS

TESTS = Path(__file__).parents[1]


def _states(*folders: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / "state.pt", weights_only=True) for folder in folders]


def _close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compares averaged gradients; weights whose gradient is zero but for rounding are moved by Adam all the same."""
    moments, others = one["optimizer"]["state"], other["optimizer"]["state"]
    assert moments.keys() == others.keys()
    for index, state in moments.items():
        torch.testing.assert_close(others[index]["exp_avg"], state["exp_avg"], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_in_parts_is_the_same_step(tmp_path: Path, parts: int) -> None:
    counts = torch.stack([count(collate(Squares(1).samples(i), SearchConfig()), VOCABULARY) for i in range(IMAGES)])
    assert len(set(counts[:, 0].tolist())) > 1, "with equal parts a mean of means would pass"
    _, losses = run_squares(tmp_path / "whole", make_recipe(5), config=STILL)
    _, split = run_squares(tmp_path / "parts", make_recipe(5, compute=ComputeRecipe(accumulate=parts)), config=STILL)
    np.testing.assert_allclose(split, losses, rtol=1e-5)
    _close(*_states(tmp_path / "whole", tmp_path / "parts"))


def test_two_processes_compute_what_one_does_and_only_the_first_writes(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "support" / "two_processes.py"), str(tmp_path)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    _, losses = run_squares(tmp_path / "one", make_recipe(STEPS), config=STILL)
    for name in ("ddp", "ddp, two parts", "fsdp, resumed"):
        np.testing.assert_allclose(seen[name], losses, rtol=1e-5, err_msg=name)
    assert seen["dropout, resumed"] == seen["dropout"]
    assert seen["dropout"] != pytest.approx(losses, rel=1e-3)
    one, *others = _states(*(tmp_path / name for name in ("one", "ddp", "parts", "fsdp")))
    for other in others:
        _close(one, other)
    outcome, again = run_squares(tmp_path / "fsdp", make_recipe(STEPS), config=STILL)
    assert (outcome.finished, again) == (True, [])


def test_a_run_may_go_on_with_another_way_to_compute(tmp_path: Path) -> None:
    _, losses = run_squares(tmp_path / "plain", make_recipe(5), config=STILL)
    _, before = run_squares(tmp_path / "parts", make_recipe(5), until=2, config=STILL)
    compute = ComputeRecipe(accumulate=2, recompute=True, shard="full")
    _, after = run_squares(tmp_path / "parts", make_recipe(5, compute=compute), config=STILL, until=4)
    _, last = run_squares(tmp_path / "parts", make_recipe(5, compute=ComputeRecipe(precision="fp16")), config=STILL)
    np.testing.assert_allclose(before + after, losses[:4], rtol=1e-5)
    np.testing.assert_allclose(last, losses[4:], rtol=0.03)


def test_steps_are_split_without_changing_what_is_drawn() -> None:
    whole = DataRecipe(weights={"<OD>": 1.0}, images_per_step=8, stages=(Stage(0, {"scale": 2.0}), Stage(5, {})))
    part = in_parts(whole, 4)
    assert (part.images_per_step, [stage.from_step for stage in part.stages]) == (2, [0, 20])
    assert in_parts(whole, 1) == whole
    with pytest.raises(InputError, match="8 images per step cannot be split into 3 equal parts"):
        in_parts(whole, 3)


def test_recomputed_activations_give_the_same_gradients(tmp_path: Path) -> None:
    _, losses = run_squares(tmp_path / "kept", make_recipe(3))
    _, again = run_squares(tmp_path / "recomputed", make_recipe(3, compute=ComputeRecipe(recompute=True)))
    assert again == losses
    kept, recomputed = _states(tmp_path / "kept", tmp_path / "recomputed")
    for index, moments in kept["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg"], recomputed["optimizer"]["state"][index]["exp_avg"])


def test_recomputing_keeps_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(blocks: bool) -> int:
        model, kept = make_model(STILL).train(), 0
        if blocks:
            recompute(model)

        def note(value: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            model(torch.zeros(1, 3, 32, 32), torch.tensor([[0, 4, 2]]), torch.tensor([[2, 0, 5]]))
        return kept

    assert saved(blocks=True) < 0.8 * saved(blocks=False)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_like_full_precision_and_resumes_exactly(tmp_path: Path, precision: Any) -> None:
    recipe = make_recipe(8, compute=ComputeRecipe(precision=precision))
    _, full = run_squares(tmp_path / "full", make_recipe(8))
    _, half = run_squares(tmp_path / "half", recipe)
    assert half != full
    np.testing.assert_allclose(half, full, rtol=0.03)
    _, before = run_squares(tmp_path / "parts", recipe, until=5)
    assert before + run_squares(tmp_path / "parts", recipe)[1] == half
    (state,) = _states(tmp_path / "half")
    assert all(value.dtype == torch.float32 for value in state["model"].values())
    assert bool(state["scaler"]) == (precision == "fp16")


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp16", False), ("fp32", True)])
def test_half_precision_on_a_cpu_takes_attention_apart(tmp_path: Path, precision: Any, fused: bool) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run_squares(tmp_path, make_recipe(1, compute=ComputeRecipe(precision=precision)))
    called = {event.key for event in profile.key_averages()}
    assert ("aten::_scaled_dot_product_flash_attention_for_cpu_backward" in called) == fused
    assert "aten::softmax" in called, "channel attention is in parts anyway"


def test_a_step_whose_scaled_gradients_overflow_is_left_out() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaled = scaler("fp16", torch.device("cpu"))
    scaled.scale(weight * float("inf")).backward()  # type: ignore[no-untyped-call]  # torch
    scaled.step(optimizer)
    before = scaled.get_scale()
    scaled.update()
    assert weight.item() == 1.0
    assert scaled.get_scale() == before / 2


def test_full_precision_is_left_alone() -> None:
    with autocast("fp32", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert open_devices("auto").device.type == "cpu"
    with pytest.raises(InputError, match="torch finds no CUDA GPU"):
        Devices("cuda")


def test_every_image_is_encoded_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from florence_train.model import FlorenceModel

    encoded: list[int] = []
    original = FlorenceModel.encode_image

    def encode(self: FlorenceModel, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(FlorenceModel, "encode_image", encode)
    run_squares(tmp_path, replace(make_recipe(2), model=CONFIG))
    assert encoded == [IMAGES, IMAGES]
