"""`python -m florence_train.tabletop OUT`: pictures, truth as JSON and a contact sheet, or the speed."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.errors import FlorenceError

from . import imaging
from .examples import examples
from .render import render
from .scene import TabletopConfig
from .sheet import contact_sheet, truth

SHEET_SCENES = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _options(arguments)
    try:
        height, width = (int(part) for part in options.size.lower().split("x"))
        config = TabletopConfig(height=height, width=width, degrade=options.degrade)
        if options.speed:
            print(json.dumps(speed(config, options.count), indent=2))
            return 0
        write(Path(options.out), config, options.seed, options.count)
    except (FlorenceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write(folder: Path, config: TabletopConfig, seed: int, count: int) -> None:
    """Writes `count` pictures, `truth.json` and `sheet.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shown, facts = [], []
    for index in range(count):
        scene = render(seed, index, config)
        name = f"{seed}_{index:06d}.png"
        Image.fromarray(scene.image).save(folder / name)
        facts.append({"image": name, **truth(scene)})
        if index < SHEET_SCENES:
            shown.append(scene)
    (folder / "truth.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    contact_sheet(shown).save(folder / "sheet.png")
    print(f"wrote {count} pictures, truth.json and sheet.png to {folder}")


def speed(config: TabletopConfig, count: int) -> dict[str, float | int | str]:
    """Images rendered per second on one core, by processor time and by the clock, examples of all tasks included."""
    imaging.use_one_thread()
    # The first scenes pay for textures, fonts and meshes that all others share.
    for index in range(64):
        render(1, index, config)
    clock, processor = time.perf_counter(), time.process_time()
    for index in range(count):
        examples(render(0, index, config), np.random.default_rng(index))
    processor, clock = time.process_time() - processor, time.perf_counter() - clock
    return {
        "size": f"{config.height}x{config.width}",
        "scenes": count,
        "images_per_core_second": round(count / processor, 1),
        "images_per_second": round(count / clock, 1),
        "machine": platform.processor() or platform.machine(),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m florence_train.tabletop", description=__doc__)
    parser.add_argument("out", nargs="?", default="tabletop", help="folder to write to")
    parser.add_argument("--count", type=_positive, default=24, help="number of scenes (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (default 0)")
    parser.add_argument("--size", default="192x192", help="height x width in pixels (default 192x192)")
    parser.add_argument("--degrade", type=float, default=1.0, help="0 for a clean camera, 1 for a cheap one (default)")
    parser.add_argument("--speed", action="store_true", help="write nothing; measure images per second")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
