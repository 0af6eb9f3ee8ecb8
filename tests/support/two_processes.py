"""One of two processes that train the toy task together, for the test that compares them with one process.

Run as `python two_processes.py FOLDER` with the variables that torchrun sets. Rank 0 writes what it saw to
FOLDER/seen.json; a rank that writes where only rank 0 should fails.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence_train.loop.distributed import Processes
from florence_train.recipe import ComputeRecipe
from support.squares import STILL, make_recipe, run_squares

STEPS, STOP = 6, 4


def run(folder: Path) -> dict[str, list[float]]:
    """Whole runs and interrupted ones, with whole models and with sharded ones."""
    plain, sharded = make_recipe(STEPS), make_recipe(STEPS, compute=ComputeRecipe(shard="full"))
    halves = make_recipe(STEPS, compute=ComputeRecipe(accumulate=2))
    seen: dict[str, list[float]] = {}
    with closing(Processes("cpu", shard="none")) as devices:
        seen["ddp"] = run_squares(folder / "ddp", plain, config=STILL, devices=devices)[1]
        seen["ddp, two parts"] = run_squares(folder / "parts", halves, config=STILL, devices=devices)[1]
        dropout = replace(plain, data=replace(plain.data, seed=1))
        seen["dropout"] = run_squares(folder / "dropout", dropout, devices=devices)[1]
        before = run_squares(folder / "resumed", dropout, devices=devices, until=STOP)[1]
        seen["dropout, resumed"] = before + run_squares(folder / "resumed", dropout, devices=devices)[1]
        shards = Processes("cpu", shard="full")
        before = run_squares(folder / "fsdp", sharded, config=STILL, devices=shards, until=STOP)[1]
        seen["fsdp, resumed"] = before + run_squares(folder / "fsdp", sharded, config=STILL, devices=shards)[1]
    return seen


def forbid_writing(folder: Path) -> None:
    """Makes this process fail when it writes a file in `folder`."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event == "os.rename") and str(arguments[0]).startswith(str(folder)):
            raise RuntimeError(f"rank {os.environ['RANK']} writes {arguments[0]}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if os.environ["RANK"] != "0":
        forbid_writing(target)
    result = run(target)
    if os.environ["RANK"] == "0":
        (target / "seen.json").write_text(json.dumps(result), encoding="utf-8")
