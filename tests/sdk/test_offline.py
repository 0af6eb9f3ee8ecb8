"""No network: import, load and predict with sockets that cannot be opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.bundles import tiny_bundle

SDK = Path(__file__).parents[2] / "sdk"

BLOCK = """
import socket

class Refused(socket.socket):
    def __init__(self, *arguments, **options):
        raise AssertionError("a socket was opened")

def refuse(*arguments, **options):
    raise AssertionError("a name was looked up")

socket.socket = Refused
socket.getaddrinfo = socket.gethostbyname = refuse
"""

PREDICT = """
import sys
import numpy as np
from florence_edge import Florence, SearchOptions
from florence_edge.cli.main import main

image = np.zeros((30, 40, 3), np.uint8)
with Florence.load(sys.argv[1], threads=1) as model:
    search = SearchOptions(max_new_tokens=4)
    view = model.encode(image)
    model.caption(view, search=search)
    model.run_many([(view, "od"), (image, "detect", ["cup"])], search=search)
    list(model.stream("ocr", view, search=search))
assert main(["info", sys.argv[1], "--json"]) == 0
assert "torch" not in sys.modules and "transformers" not in sys.modules
print("answered")
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )


def test_import_load_and_predict_open_no_socket_and_need_no_torch() -> None:
    pytest.importorskip("onnxruntime")
    done = python(BLOCK + PREDICT, str(tiny_bundle()))
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "answered"


@pytest.mark.parametrize(
    "attempt",
    [
        "import urllib.request; urllib.request.urlopen('http://localhost:9/')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    ],
)
def test_the_block_works(attempt: str) -> None:
    done = python(f"{BLOCK}\n{attempt}")
    assert "AssertionError: a " in done.stderr
