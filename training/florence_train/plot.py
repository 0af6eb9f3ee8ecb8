"""A picture of what changes along a run: the learning rate and the width of soft location targets."""

from __future__ import annotations

from pathlib import Path

from florence_edge.errors import InputError, missing

from .recipe import Recipe
from .schedule import geometric, learning_rate

FORMATS = (".svg", ".png", ".pdf")
_POINTS = 1000


def plot_schedule(recipe: Recipe, path: str | Path) -> Path:
    """Draws the schedule of a recipe to a file, its kind told by the suffix; `DependencyError` without matplotlib."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path} cannot be drawn to; its suffix must be one of {', '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", extra="train", needed_for="a plot of the schedule") from error
    last = recipe.optimizer.steps - 1
    steps = sorted({round(last * index / _POINTS) for index in range(_POINTS + 1)})
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="learning rate")
    axes.plot(steps, [learning_rate(step, recipe.optimizer) for step in steps], label="learning rate")
    if recipe.loss.location_sigma[1] > 0:
        other = axes.twinx()
        widths = [geometric(step, recipe.optimizer.steps, recipe.loss.location_sigma) for step in steps]
        other.plot(steps, widths, color="tab:orange", linestyle="--")
        other.set_ylabel("location sigma in bins (dashed)")
    figure.savefig(path)
    return path
