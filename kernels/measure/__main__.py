"""One run, one table, one JSON file: kernels against torch and against their floors, stages, whole answers.

`--dry` walks the same code on the CPU with a small model and the kernels' twins. Its times mean nothing and nothing is
written; it shows that the script itself works.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from florence_bench.machine import this_machine
from florence_bench.stats import ratio_of_medians, summarise
from florence_edge.preprocess import ImageSpec
from florence_train.checkpoint import save_checkpoint
from florence_train.kernels import operators
from florence_train.kernels.device import DeviceEngine
from florence_train.kernels.operations import KERNELS
from florence_train.model import BASE, LARGE, FlorenceConfig, FlorenceModel, TextConfig, VisionConfig

from .answers import Answer, contenders, random_model, stages
from .cases import Setting, cases, measure
from .timing import Ceilings, Clock, ceilings

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ROUNDS = 50
SMALL = FlorenceConfig(
    vision=VisionConfig(
        dims=(32, 32, 64, 64), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), groups=(1, 1, 2, 2), window=4, max_grid=16
    ),
    text=TextConfig(
        vocab_size=700,
        dim=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_heads=2,
        decoder_heads=2,
        encoder_ffn=64,
        decoder_ffn=64,
        max_positions=128,
    ),
    image=ImageSpec(height=64, width=64),
)
"""What a dry run walks through."""


def main() -> None:
    """Measures what the arguments ask for."""
    arguments = _arguments()
    device = torch.device("cpu" if arguments.dry else "cuda")
    if not arguments.dry and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU here; --dry walks through the script on the CPU and measures nothing")
    operators.library(cuda=not arguments.dry)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    clock = Clock(device, rounds=2 if arguments.dry else ROUNDS, warm_ups=1 if arguments.dry else 5)
    document: dict[str, Any] = {"format": 1, "machine": asdict(this_machine()), "device": _device(device)}
    for size in ["small"] if arguments.dry else arguments.size:
        config = {"small": SMALL, "base": BASE, "large": LARGE}[size]
        setting = Setting(config, device, DTYPES[arguments.dtype], arguments.beams, arguments.tokens)
        setting = replace(setting, frame=(48, 64)) if arguments.dry else setting
        document[size] = _model(setting, clock, dry=arguments.dry)
        _print(size, setting, document[size], dry=arguments.dry)
    if arguments.dry:
        print("dry run on the CPU twins: nothing above is a measurement, nothing was written")
        return
    folder = RESULTS / this_machine().name
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"kernels-{arguments.dtype}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {target}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m measure", description=__doc__)
    parser.add_argument("--size", nargs="+", choices=("base", "large"), default=["base"])
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dry", action="store_true", help="walk through on the CPU; measures and writes nothing")
    return parser.parse_args()


def _device(device: torch.device) -> dict[str, Any]:
    """What torch says of the device."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "sm": f"{properties.major}.{properties.minor}"}
        found |= {"multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory}
    return found


def _model(setting: Setting, clock: Clock, *, dry: bool) -> dict[str, Any]:
    """Everything about one model size."""
    with torch.inference_mode():
        best = ceilings(clock, setting.dtype, copied=2**16 if dry else 2**29, side=64 if dry else 8192)
        rows = [measure(case, clock, best) for case in cases(setting)]
    model = random_model(setting)
    with tempfile.TemporaryDirectory() as scratch:
        save_checkpoint(model, setting.config, Path(scratch) / "checkpoint")
        model = model.to(setting.device, setting.dtype)
        staged = stages(setting, DeviceEngine(model, KERNELS), clock, best)
        answers = _race(setting, model, Path(scratch) / "checkpoint", clock)
    return {
        "dtype": str(setting.dtype),
        "beams": setting.beams,
        "tokens": setting.tokens,
        "ceilings": _ceilings(best),
        "kernels": rows,
        "stages": staged,
        "answers": answers,
    }


def _race(setting: Setting, model: FlorenceModel, folder: Path, clock: Clock) -> dict[str, Any]:
    """Whole answers, contenders in turns and in changing order; ids of half precision need not agree."""
    opened: dict[str, Answer] = {}
    results: dict[str, Any] = {}
    for name, open_it in contenders(setting, model, folder).items():
        try:
            answer = open_it()
            results[name] = {"ids": answer()}
            opened[name] = answer
        except Exception as error:  # a rival of any version may fail in its own way; the table says so
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
    samples: dict[str, list[float]] = {name: [] for name in opened}
    order, generator = list(opened), random.Random(0)
    for _ in range(clock.rounds):
        generator.shuffle(order)
        for name in order:
            warm_ups = 0 if samples[name] else clock.warm_ups
            samples[name].append(replace(clock, rounds=1, warm_ups=warm_ups).called(opened[name]).median)
    first = samples.get("florence-edge, kernels")
    for name, taken in samples.items():
        results[name]["us"] = asdict(summarise(taken))
        if first and len(taken) > 1:
            results[name]["times_kernels"] = asdict(ratio_of_medians(taken, first))
    return results


def _ceilings(best: Ceilings) -> dict[str, float]:
    return {"gigabytes_per_second": best.bytes_per_us / 1e3, "teraflops": best.flops_per_us / 1e6}


def _print(size: str, setting: Setting, found: dict[str, Any], *, dry: bool) -> None:
    """The table."""
    label = "DRY RUN, not a measurement: " if dry else ""
    table = Table(title=f"{label}{size}, {setting.dtype}, {setting.beams} beams, {setting.tokens} tokens; microseconds")
    for column in ("what", "kernel", "p95", "torch", "times", "floor", "over floor"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in found["kernels"]:
        kernel, composition = row["kernel_us"], row["torch_us"]["median"]
        shown = (kernel["median"], kernel["p95"], composition, row["speedup"], row["floor_us"], row["over_floor"])
        table.add_row(row["name"], *(f"{value:.2f}" for value in shown))
    table.add_section()
    staged = found["stages"]
    for name in ("vision", "prompt"):
        table.add_row(name, *(f"{staged[f'{name}_us'][key]:.0f}" for key in ("median", "p95")))
    step, floor, over = (f"{staged[key]:.1f}" for key in ("step_us", "step_floor_us", "step_over_floor"))
    table.add_row("decoder step", step, "", "", "", floor, over)
    table.add_section()
    for name, row in found["answers"].items():
        table.add_row(name, *_answer_cells(row))
    console = Console(width=120)
    console.print(table)
    for name, row in found["answers"].items():
        if "failed" in row:
            console.print(f"{name} failed: {row['failed'][:500]}")
    console.print(f"CUDA runtime calls inside the token loop: {staged['runtime_calls_in_token_loop']}")


def _answer_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Median, 95th percentile, and how many times as long as with the kernels."""
    if "us" not in row:
        return ("failed",)
    ratio = f"{row['times_kernels']['value']:.2f}" if "times_kernels" in row else ""
    return (f"{row['us']['median']:.0f}", f"{row['us']['p95']:.0f}", "", ratio)


if __name__ == "__main__":
    main()
