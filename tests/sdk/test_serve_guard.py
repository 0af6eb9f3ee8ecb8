"""The door: tokens, names, foreign pages, and what every answer carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import InputError
from florence_edge.model import Florence
from florence_edge.serve.guard import SECURITY_HEADERS
from florence_edge.serve.options import ServeOptions
from support.fake_backend import FakeBackend
from support.serving import Served, png, served

TOKEN = "correct-horse-battery-staple"
PROTECTED = ("/v1/info", "/v1/tasks", "/v1/sample", "/v1/live", "/metrics", "/v1/run", "/no/such/page")


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Florence:
    return Florence(bundle, FakeBackend(bundle))


@pytest.fixture(scope="module")
def server(model: Florence) -> Iterator[Served]:
    with served(model) as running:
        yield running


@pytest.fixture(scope="module")
def locked(model: Florence) -> Iterator[Served]:
    """A server with a token, on the loopback address, where tests may reach it."""
    with served(model, ServeOptions(token=TOKEN)) as running:
        yield running


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer ñ"}]
)
def test_without_the_token_nothing_is_told(locked: Served, path: str, given: dict[str, str]) -> None:
    headers = {key.encode(): value.encode() for key, value in given.items()}
    response = locked.client.get(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_everything_is(locked: Served, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert locked.client.get("/v1/info", headers=headers).status_code == 200
    answer = locked.client.post("/v1/run", files={"image": png()}, data={"task": "caption"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/openapi.json", "/static/view.js"])
def test_the_page_itself_needs_no_token(locked: Served, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_the_description_says_whether_a_token_is_needed(locked: Served, server: Served) -> None:
    assert locked.client.get("/openapi.json").json()["security"] == [{"token": []}]
    assert server.client.get("/openapi.json").json()["security"] == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_name_rebound_to_this_machine_is_not_answered(server: Served, host: str) -> None:
    response = server.client.get("/v1/info", headers={"Host": host})
    assert (response.status_code, response.json()["allowed"]) == (421, "127.0.0.1, ::1, localhost")


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_this_machine_is_answered_under_its_names_and_any_port(server: Served, host: str) -> None:
    assert server.client.get("/v1/info", headers={"Host": host}).status_code == 200


def test_a_further_name_can_be_allowed(model: Florence) -> None:
    with served(model, ServeOptions(allowed_hosts=("robot.local",))) as server:
        assert server.client.get("/", headers={"Host": "Robot.local"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_pages_of_other_sites_may_not_ask(server: Served, origin: str) -> None:
    answer = server.client.post("/v1/run", headers={"Origin": origin}, files={"image": png()}, data={"task": "caption"})
    assert answer.status_code == 403


def test_the_own_page_may(server: Served) -> None:
    origin = server.address.rstrip("/")
    assert server.client.get("/v1/info", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/style.css", "/v1/info", "/v1/nothing", "/metrics"])
def test_every_answer_carries_the_policy(server: Served, path: str) -> None:
    headers = server.client.get(path).headers
    assert SECURITY_HEADERS.items() <= {name.title(): value for name, value in headers.items()}.items()
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


def test_answers_are_not_kept_by_caches(server: Served) -> None:
    assert server.client.get("/v1/info").headers["cache-control"] == "no-store"
    assert server.client.get("/static/view.js").headers["cache-control"] == "no-cache"


def test_no_page_loads_anything_from_elsewhere() -> None:
    import florence_edge.serve.app as app

    for file in app.STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file
        assert "innerHTML" not in text, file


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"host": "0.0.0.0"}, "others can reach"),
        ({"host": "::"}, "others can reach"),
        ({"host": "robot.local"}, "others can reach"),
        ({"host": "192.168.1.7"}, "others can reach"),
        ({"host": "0.0.0.0", "token": "short"}, "the token has 5 characters"),
        ({"token": "with a space in its midst"}, "all of them letters"),
        ({"places": 0, "max_bytes": 0, "port": 70_000}, "port is 70000"),
        ({"upload_s": 0.0}, "upload_s is 0.0"),
    ],
)
def test_a_server_that_would_be_unsafe_does_not_start(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ServeOptions(**options)  # type: ignore[arg-type]  # given by name


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_the_loopback_needs_no_token(host: str) -> None:
    assert ServeOptions(host=host).loopback


def test_the_token_is_not_shown_with_the_options() -> None:
    assert TOKEN not in repr(ServeOptions(token=TOKEN))


def test_symbolic_paths_into_the_static_folder_end_there(server: Served, tmp_path: Path) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e%2fapp.py", "/static//etc/passwd", "/static/%00"):
        assert server.client.get(path).status_code == 404, path
