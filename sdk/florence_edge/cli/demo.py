"""`florence-edge demo`: all fifteen tasks on one image, with pictures to look at.

The image is encoded once and asked fifteen times. Inputs come from earlier answers: what was detected is then grounded,
segmented, classified and read. The bundled `tabletop` model is used; where it is not installed, a small random model
takes the same path, made by whichever package registers one under the entry-point group `florence_edge.demo_models`: a
function `make(folder) -> folder` that writes a bundle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from florence_edge.bundle import PICTURE, Bundle, bundled_names
from florence_edge.drawing.asked import annotated
from florence_edge.drawing.scene import scene
from florence_edge.errors import BundleError, InputError
from florence_edge.files import write
from florence_edge.geometry import Float32Array
from florence_edge.images import load_image
from florence_edge.model import Florence
from florence_edge.prompts import TaskInput
from florence_edge.results import Detections, Quads, Result, Text
from florence_edge.tasks import TASKS, InputKind, Task

from .demo_page import Answer, page
from .options import MODEL, add_engine, add_json
from .output import print_json, progress, table
from .show import content, score, short

if TYPE_CHECKING:
    from PIL.Image import Image

    from .main import Subparsers

MODELS_GROUP = "florence_edge.demo_models"
_FIXED = 40
"""Columns of the table that are not the input or the answer."""

_ABSENT = (
    f"the bundled model {MODEL!r} is not in this installation; a small random model takes its place: the same code "
    "runs, but its answers mean nothing"
)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "demo",
        help="run all fifteen tasks on one image and save the pictures",
        description="Runs all fifteen tasks on one image; writes annotated pictures, results.json and index.html.",
    )
    parser.add_argument("out", metavar="OUT", nargs="?", type=Path, default=Path("demo"), help="folder to write [demo]")
    parser.add_argument("--image", type=Path, metavar="IMAGE", help="an image of your own [the model's]")
    add_json(parser)
    add_engine(parser, beams=False)
    parser.set_defaults(run=run, model=None)


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo and prints a table with timings."""
    with _bundle(arguments.model) as (bundle, knows):
        start = perf_counter()
        with Florence.load(bundle, backend=arguments.backend, threads=arguments.threads) as model:
            loaded = (perf_counter() - start) * 1e3
            picture = _picture(arguments.image, bundle)
            answers, encoded = ask_everything(model, picture, knows)
    report = {
        "bundle": str(bundle.folder),
        "model": bundle.manifest.source.name,
        "knows_the_picture": knows,
        "timings_ms": {"load_model": loaded, "encode_image": encoded},
        "answers": [answer.to_dict() for answer in answers],
    }
    save(arguments.out, picture, answers, report)
    if arguments.json:
        print_json(report)
        return 0
    print(table(_rows(answers), header=("method", "input", "answer", "score", "ms"), right=(3, 4)))
    print(f"\nmodel loaded in {loaded:.0f} ms, image encoded once in {encoded:.0f} ms, {len(answers)} tasks answered")
    print(f"pictures: {(arguments.out / 'index.html').resolve()}")
    return 0


def ask_everything(model: Florence, picture: Image, knows: bool) -> tuple[list[Answer], float]:
    """The answers to all tasks in the order of the table, and the milliseconds that encoding the image took."""
    view = model.encode(picture)
    answers: list[Answer] = []
    with progress(len(TASKS), "tasks") as bar:
        for task in TASKS:
            given = _input(task, [answer.result for answer in answers] if knows else [], picture.size)
            try:
                result = model.run(task.token, view, given)
            except InputError:  # an answer need not be fit to be asked about
                given = _input(task, [], picture.size)
                result = model.run(task.token, view, given)
            answers.append(Answer(task, given, result))
            bar.advance(1, task.name)
    return answers, sum(view.timings_ms.values())


def save(out: Path, picture: Image, answers: list[Answer], report: dict[str, Any]) -> None:
    """Writes a picture per task, `results.json` and, last, `index.html`."""
    out.mkdir(parents=True, exist_ok=True)
    picture.save(out / "image.png")
    for answer in answers:
        annotated(picture, answer.task, answer.given, answer.result).save(out / answer.picture)
    write(out / "results.json", json.dumps(report, ensure_ascii=False, indent=1).encode("utf-8"))
    write(out / "index.html", page(report, answers).encode("utf-8"))


@contextmanager
def _bundle(source: str | None) -> Iterator[tuple[Bundle, bool]]:
    """The bundle to use, and whether its model was trained at all."""
    if source is not None or MODEL in bundled_names():
        yield Bundle.open(source or MODEL), True
        return
    print(f"florence-edge: note: {_ABSENT}", file=sys.stderr)
    makers = sorted(entry_points(group=MODELS_GROUP), key=lambda entry: entry.name)
    if not makers:
        raise BundleError(
            "no package here can make a random model either; give --model, or: pip install 'florence-edge[convert]'"
        )
    with tempfile.TemporaryDirectory(prefix="florence-edge-demo-") as folder:
        yield Bundle.open(makers[0].load()(Path(folder) / "random")), False


def _picture(source: Path | None, bundle: Bundle) -> Image:
    """The user's image, the bundle's own, or a drawn one."""
    if source is not None:
        return load_image(source)
    return load_image(bundle.path(PICTURE)) if PICTURE in bundle.manifest.files else scene()


def _input(task: Task, earlier: list[Result], size: tuple[int, int]) -> TaskInput:
    """What to ask: about the caption, the best detection and the best line so far, or about the drawn picture."""
    width, height = size
    labels: list[str] = ["red cube", "ball"]
    box: list[float] = [0.2 * width, 0.4 * height, 0.45 * width, 0.8 * height]
    label, caption = labels[0], "a red cube left of a ball"
    for result in earlier:
        if isinstance(result, Text) and result.task == "<CAPTION>" and result.text:
            caption = result.text
        if isinstance(result, Detections) and result.task == "<OD>" and len(result):
            best = int(result.scores.argmax())
            label, box = result.labels[best], _edges(result.boxes[best])
            labels = list(dict.fromkeys(result.labels))[:3]
    for result in earlier:
        if isinstance(result, Quads) and len(result) and task.method == "read_region":
            box = _edges(result.boxes()[int(result.scores.argmax())])
    phrase = caption if task.method == "ground" else label
    inputs: dict[InputKind, TaskInput] = {
        InputKind.NONE: None,
        InputKind.PHRASE: phrase,
        InputKind.CLASSES: labels,
        InputKind.BOX: box,
    }
    return inputs[task.input]


def _edges(box: Float32Array) -> list[float]:
    return [round(float(edge), 1) for edge in box]


def _rows(answers: list[Answer]) -> list[tuple[str, str, str, str, str]]:
    """A row per answer, as wide as the terminal; where there is none, texts of up to 60 characters."""
    left = shutil.get_terminal_size((132, 24)).columns - _FIXED
    asked, answered = min(max(left // 3, 8), 30), min(max(left - left // 3, 16), 60)
    return [
        (
            answer.method,
            short(answer.asked, asked),
            content(answer.result, answered),
            score(max([float(value) for value in answer.result.scores], default=float("nan"))),
            f"{answer.result.timings_ms['search']:.0f}",
        )
        for answer in answers
    ]
