"""`florence-edge serve` as a process: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

import florence_edge
import florence_edge.serve
from florence_edge.bundle import Bundle
from florence_edge.cli.main import main
from florence_edge.cli.serve import read_token
from support.serving import until

TOKEN = "correct-horse-battery-staple"
ROOT = Path(__file__).parents[2]


@contextmanager
def command(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command running, and the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "florence_edge.cli.main", "serve", *arguments, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sdk"), **variables},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.stderr and process.stderr.read()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


def test_json_names_the_address() -> None:
    with command("tabletop", "--json", FLORENCE_EDGE_TOKEN="") as (_, address):
        assert json.loads(address.rstrip(",")).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_it_serves_until_it_is_told_to_stop_and_answers_first(number: signal.Signals) -> None:
    picture = (Bundle.open("tabletop", verify="size").folder / "demo.png").read_bytes()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with command("tabletop", FLORENCE_EDGE_TOKEN=TOKEN) as (process, given), httpx.Client(timeout=120) as client:
        address, _, hint = given.partition("#")
        client.base_url, client.headers = httpx.URL(address), httpx.Headers(headers)
        assert hint == "token=TOKEN"
        assert client.get("/v1/info", headers={"Authorization": ""}).status_code == 401
        assert client.get("/").text.startswith("<!doctype html>")
        answers: list[httpx.Response] = []
        asks = '[{"task": "more_detailed_caption"}, {"task": "dense_region_caption"}, {"task": "detect"}]'

        def ask() -> None:
            answers.append(client.post("/v1/run", files={"image": picture}, data={"asks": asks}))

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: "places_taken 1" in client.get("/metrics").text)
        process.send_signal(number)
        thread.join()
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
    assert answers[0].status_code == 200
    assert len(answers[0].json()["results"]) == 3
    assert (output, errors) == ("", "")


def test_the_token_comes_from_a_file_or_else_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv("FLORENCE_EDGE_TOKEN", "of-the-environment")
    assert (read_token(file), read_token(None)) == (TOKEN, "of-the-environment")
    monkeypatch.setenv("FLORENCE_EDGE_TOKEN", "")
    assert read_token(None) is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tabletop", "--host", "0.0.0.0"], "others can reach, but there is no token"),
        (["tabletop", "--token-file", "/no/such/file"], "the token cannot be read"),
        (["tabletop", "--port", "99999"], "port is 99999"),
        (["tabletop", "gopher://x"], "gopher:// is no source"),
        (["tabletop", "--task", "segment"], "takes a phrase"),
        (["no-such-bundle"], "no-such-bundle"),
    ],
)
def test_what_cannot_be_served_is_told_before_anything_is_loaded(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLORENCE_EDGE_TOKEN", raising=False)
    assert main(["serve", *arguments]) == 1
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "tabletop", "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_without_the_libraries_the_pip_line_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(florence_edge, "serve", florence_edge.serve)  # the package as it is now comes back as well
    for name in [name for name in sys.modules if name.startswith("florence_edge.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in [name for name in sys.modules if name.startswith("starlette.")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "tabletop"]) == 1
    assert "pip install 'florence-edge[serve]'" in capsys.readouterr().err
