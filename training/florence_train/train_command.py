"""The subcommand `florence-edge train`; the work is imported when it runs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from florence_edge.cli import ENDINGS
from florence_edge.cli.options import add_json, positive
from florence_edge.cli.output import print_json, progress, table
from florence_edge.units import size

if TYPE_CHECKING:
    from .recipe import Recipe
    from .rehearsal import Rehearsal

_BUNDLE = "bundle"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a recipe",
        description="Trains as a TOML recipe says; stopped at any moment, the same command goes on from there.",
    )
    parser.add_argument("recipe", metavar="RECIPE", type=Path, help="a TOML file, see training/recipes/")
    parser.add_argument("out", metavar="OUT", type=Path, help="the run's folder; the result is OUT/checkpoint")
    parser.add_argument("--until", type=positive, metavar="STEP", help="end this call there [the recipe's last step]")
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="torch device: cpu, cuda, cuda:1 [a GPU if there is one, else cpu]",
    )
    parser.add_argument(
        "--bundle",
        nargs="?",
        const="",
        metavar="DIR",
        help=f"convert the finished model to an ONNX bundle and verify it [OUT/{_BUNDLE}]",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="read everything, compute a few steps, write nothing, say what it costs"
    )
    parser.add_argument(
        "--plot-schedule", type=Path, metavar="FILE", help="only draw the learning rate to a .svg, .png or .pdf"
    )
    add_json(parser)
    parser.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> int:
    """`florence-edge train`; the code of `ENDINGS` when a signal ended it before its last step, saved."""
    from .recipe import load_recipe

    recipe = load_recipe(arguments.recipe)
    if arguments.plot_schedule is not None:
        return _plot(recipe, arguments)
    return _rehearse(recipe, arguments) if arguments.dry_run else _train(recipe, arguments)


def _plot(recipe: Recipe, arguments: argparse.Namespace) -> int:
    from .plot import plot_schedule

    path = plot_schedule(recipe, arguments.plot_schedule)
    if arguments.json:
        print_json({"plot": str(path)})
    else:
        print(f"wrote {path}")
    return 0


def _rehearse(recipe: Recipe, arguments: argparse.Namespace) -> int:
    from .loop.devices import is_main
    from .rehearsal import rehearse

    found = rehearse(recipe, device=arguments.device, bundle=arguments.bundle is not None)
    if is_main():
        if arguments.json:
            print_json(asdict(found))
        else:
            print(_text(found))
    return 0


def _train(recipe: Recipe, arguments: argparse.Namespace) -> int:
    from .loop.devices import is_main
    from .loop.interrupt import stopped_by
    from .run import CHECKPOINT, train

    steps = arguments.until or recipe.optimizer.steps
    bundle = None if arguments.bundle is None else Path(arguments.bundle or arguments.out / _BUNDLE)
    with progress(steps if is_main() else 0, "train") as bar:
        seen = 0

        def report(line: dict[str, float]) -> None:
            nonlocal seen
            bar.advance(int(line["step"]) - seen, _note(line))
            seen = int(line["step"])

        outcome = train(
            recipe, arguments.out, until=arguments.until, device=arguments.device, report=report, bundle=bundle
        )
    if not is_main():
        return 0
    result = {"step": outcome.step, "finished": outcome.finished, "checkpoint": str(arguments.out / CHECKPOINT)}
    if bundle is not None and outcome.finished:
        result["bundle"] = str(bundle)
    if arguments.json:
        print_json(result)
    else:
        state = "finished" if outcome.finished else f"saved after step {outcome.step}; run the same command to go on"
        print(f"{state}: {result.get('bundle', result['checkpoint'])}")
    return 0 if outcome.finished or outcome.step >= steps else ENDINGS[stopped_by()][0]


def _note(line: dict[str, float]) -> str:
    """What stands beside the bar."""
    if "loss" in line:
        return f"loss {line['loss']:.3f}  {line['images_per_second']:.1f} images/s"
    return "  ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "step")


def _text(found: Rehearsal) -> str:
    """A rehearsal for people."""
    rows: list[tuple[str, object]] = [
        ("steps", found.steps),
        ("images", "rendered" if found.images is None else found.images),
        *((f"  examples of {task}", number) for task, number in (found.examples or {}).items()),
        ("parameters", f"{found.parameters:,}"),
        ("trained", f"{found.trained:,}"),
        ("seconds a step", f"{found.step_seconds:.2f}"),
        ("hours in all", f"{found.hours:.2f}"),
    ]
    rows += [("epochs", f"{found.epochs:.1f}")] if found.epochs is not None else []
    rows += [("GPU memory", size(found.memory_bytes))] if found.memory_bytes is not None else []
    rows += [("validation of the start", f"{found.validation:.4f}")] if found.validation is not None else []
    rows += [("data left out", len(found.faults))] if found.faults else []
    return "\n".join([table(rows, right=[1]), *found.faults])
