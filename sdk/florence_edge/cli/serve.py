"""`florence-edge serve`: a model as a JSON API and a live view in the browser."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from florence_edge.bundle import PICTURE, Bundle
from florence_edge.errors import InputError
from florence_edge.model import Florence
from florence_edge.prompts import read_question
from florence_edge.stream import Ask, open_source
from florence_edge.stream.uris import examples

from .options import A_BUNDLE, MODEL, above_zero, add_engine, add_json, positive
from .output import print_json

if TYPE_CHECKING:
    from .main import Subparsers

TOKEN = "FLORENCE_EDGE_TOKEN"

_BREAK = "\n  "
_EPILOG = f"""sources:
  {_BREAK.join(examples("source"))}

Without a source the page takes uploaded pictures. A recording is played at its own pace, again and again. Only this
machine is answered, unless --host says otherwise: then every request needs the token, which is read from --token-file
or the variable {TOKEN}.

  florence-edge serve tabletop v4l2://0 --task detect --input "red cube"
  curl -F image=@photo.jpg -F task=caption http://127.0.0.1:8000/v1/run"""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "serve",
        help="a JSON API and a live view in the browser",
        description="Serves a model: a page to look at a camera or an uploaded picture, and a JSON API.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="BUNDLE", help=f"{A_BUNDLE}, as {MODEL}")
    parser.add_argument("source", metavar="SOURCE", nargs="?", help="a camera or a recording to look at, see below")
    parser.add_argument("--task", default="detect", metavar="TASK", help="asked about the source at first [detect]")
    parser.add_argument("--input", action="append", default=[], metavar="TEXT", help="of that task; as in run")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="where to listen, 0 for any [8000]")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the token")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="also answer under this name; repeat"
    )
    parser.add_argument("--places", type=positive, default=8, metavar="N", help="requests that may wait or run [8]")
    parser.add_argument("--max-mb", type=above_zero, default=16.0, metavar="MIB", help="size of an upload in MiB [16]")
    parser.add_argument("--max-megapixels", type=above_zero, default=40.0, metavar="N", help="size of a picture [40]")
    parser.add_argument(
        "--hang", type=above_zero, default=600.0, metavar="S", help="a silent model hangs after that [600]"
    )
    add_json(parser)
    add_engine(parser, model="", beams=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM; accepted requests are answered first."""
    from florence_edge.serve import Camera, ServeOptions, serve

    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        token=read_token(arguments.token_file),
        allowed_hosts=tuple(arguments.allow_host),
        places=arguments.places,
        max_bytes=round(arguments.max_mb * 2**20),
        max_pixels=round(arguments.max_megapixels * 1e6),
        hang_s=arguments.hang,
    )
    row, given = read_question(arguments.task, arguments.input)
    ask = Ask(row.token, given, name=row.name)
    camera = None if arguments.source is None else Camera(open_source(arguments.source), ask)
    bundle = Bundle.open(arguments.model)
    sample = bundle.path(PICTURE) if PICTURE in bundle.manifest.files else None
    logging.basicConfig(level=logging.WARNING, format="florence-edge: %(message)s", stream=sys.stderr)

    def started(address: str) -> None:
        if arguments.json:
            print_json({"address": address, "needs_token": options.token is not None}, indent=None)
            return
        print(f"florence-edge: {address}{'' if options.token is None else '#token=TOKEN'} (Ctrl-C stops)", flush=True)

    with Florence.load(bundle, backend=arguments.backend, threads=arguments.threads) as model:
        serve(model, options, camera=camera, sample=sample, started=started)
    return 0


def read_token(file: Path | None) -> str | None:
    """The token of the file or of the environment; it is not taken from the command line, which everybody can read."""
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token cannot be read: {error}") from error
