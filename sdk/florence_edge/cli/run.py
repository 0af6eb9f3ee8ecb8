"""`florence-edge run`: one task over images, folders and patterns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence_edge.bundle import Bundle
from florence_edge.card import identity
from florence_edge.errors import FlorenceError, RunError, listing
from florence_edge.model import Florence
from florence_edge.options import SearchOptions
from florence_edge.prompts import read_question
from florence_edge.stream.pictures import expand
from florence_edge.tasks import FREE_PROMPT, TASKS, InputKind

from . import INTERRUPTED, UsageError
from .options import add_engine, add_json, add_out, positive
from .output import print_json, progress
from .show import show, summary
from .store import Store

if TYPE_CHECKING:
    from .main import Subparsers

_INPUTS = {
    InputKind.NONE: "",
    InputKind.PHRASE: "'the red cube'",
    InputKind.CLASSES: "'cup,red cube'",
    InputKind.BOX: "10,20,200,180",
}
_EPILOG = "\n".join(
    [
        f"  {'TASK':<16}  {'or, to be exact':<33}  --input",
        *(f"  {task.method:<16}  {task.name:<33}  {_INPUTS[task.input]}".rstrip() for task in (*TASKS, FREE_PROMPT)),
    ]
)


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "run",
        help="ask one task about images, folders and patterns",
        description="Asks one task about every image given and prints the answers.",
        epilog=_EPILOG,
    )
    parser.add_argument("task", metavar="TASK", help="what to ask, see below; a token such as '<OD>' is taken too")
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="an image file, a folder, a pattern ('photos/**') or a list (.txt)"
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="TEXT",
        help="the phrase; class names, repeated or with commas; a box as x1,y1,x2,y2 in pixels",
    )
    add_out(parser, "--save", what="write a JSON document and a picture per image there")
    parser.add_argument("--resume", action="store_true", help="with --out: leave out what an earlier run finished")
    add_json(parser)
    engine = add_engine(parser)
    engine.add_argument("--max-new-tokens", type=positive, metavar="N", help="limit of an answer's length [the task's]")
    engine.add_argument("--constrained", action="store_true", help="let only well-formed answers come out")
    engine.add_argument("--batch", type=positive, default=1, metavar="N", help="images answered together [1]")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answers for every image; goes on past bad ones, which are listed at the end with exit code 1."""
    if arguments.resume and arguments.out is None:
        raise UsageError("--resume needs --out: what was finished is known from the documents there")
    task, given = read_question(arguments.task, arguments.input or [])
    images = expand(arguments.images)
    bundle = Bundle.open(arguments.model)
    search = SearchOptions(
        beams=arguments.beams,
        max_new_tokens=arguments.max_new_tokens,
        constrained=arguments.constrained or None,
    )
    store = Store(arguments.out, task, given, search, identity(bundle))
    finished = {image: found for image in images if (found := store.find(image))} if arguments.resume else {}
    for document in finished.values():
        _tell(arguments, document, f"{document['image']}: done before")
    todo = [image for image in images if image not in finished]
    faults: list[str] = []
    try:
        if todo:
            with Florence.load(bundle, backend=arguments.backend, threads=arguments.threads) as model:
                _work(arguments, model, store, todo, faults)
    except KeyboardInterrupt:
        print(f"florence-edge: interrupted{'; --resume goes on from here' if arguments.out else ''}", file=sys.stderr)
        return INTERRUPTED
    if faults:
        raise RunError(listing(f"{len(faults)} of {len(images)} images failed:", faults))
    return 0


def _work(
    arguments: argparse.Namespace, model: Florence, store: Store, images: Sequence[Path], faults: list[str]
) -> None:
    """Answers for the images, some at a time; each answer is saved and printed before the next ones are asked for."""
    with progress(len(images), store.task.name) as bar:
        for start in range(0, len(images), arguments.batch):
            chunk = images[start : start + arguments.batch]
            answers = model.run_many(
                [(image, store.task.token, store.given) for image in chunk],
                search=store.search,
                batch_size=arguments.batch,
                errors="return",
            )
            for image, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, FlorenceError):
                    faults.append(str(answer) if str(image) in str(answer) else f"{image}: {answer}")
                    _tell(arguments, {"image": str(image), "error": str(answer)}, f"{image}: failed")
                    continue
                if arguments.out is not None:
                    store.save(image, answer)
                _tell(arguments, store.document(image, answer), f"{image}: {summary(answer)}\n{show(answer)}\n")
            bar.advance(len(chunk), chunk[-1].name)


def _tell(arguments: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Prints one answer: a line of JSON, or text."""
    if arguments.json:
        print_json(document, indent=None)
    else:
        print(text, flush=True)
