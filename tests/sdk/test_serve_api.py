"""The API: the answers of the SDK itself, one encoding for several tasks, bounds on everything, a true description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from PIL import Image

from florence_edge.backends.registry import open_backend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError
from florence_edge.model import Florence
from florence_edge.serve.options import ServeOptions
from florence_edge.tasks import FREE_PROMPT, TASKS, InputKind, Task
from support.fake_backend import FakeBackend, FakeStreamingBackend
from support.serving import Served, png, raw_upload, served

OPTIONS = ServeOptions(max_bytes=200_000, max_pixels=60_000, max_tasks=4)
INPUTS: dict[InputKind, Any] = {
    InputKind.NONE: None,
    InputKind.PHRASE: "a red cube",
    InputKind.CLASSES: ["red cube", "ball"],
    InputKind.BOX: [4.0, 5.0, 20.0, 25.0],
}


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> FakeBackend:
    return FakeStreamingBackend(bundle)


@pytest.fixture(scope="module")
def server(bundle: Bundle, backend: FakeBackend) -> Iterator[Served]:
    with served(Florence(bundle, backend), OPTIONS) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: Served) -> dict[str, Any]:
    document: dict[str, Any] = server.client.get("/openapi.json").json()
    return document


def check(api: dict[str, Any], name: str, value: Any) -> None:
    """Holds a value against a schema of the API's own description."""
    Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": api["components"]}).validate(value)


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "timings_ms"}


@pytest.mark.parametrize("task", [*TASKS, FREE_PROMPT], ids=lambda task: task.name)
def test_every_task_answers_as_the_sdk_does(server: Served, bundle: Bundle, api: dict[str, Any], task: Task) -> None:
    given = INPUTS[task.input]
    fields = {} if given is None else {"input": given if isinstance(given, str) else json.dumps(given)}
    response = server.ask(task.token, None, **fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    check(api, "Answer", answer)
    ((name, result),) = answer["results"].items()
    expected = Florence(bundle, FakeBackend(bundle)).run(task.token, png(), given).to_dict()
    assert name == task.name
    assert timeless(result) == timeless(expected)
    assert {"load", "preprocess", "queue", "vision"} == answer["timings_ms"].keys()
    assert {"search", "parse"} == result["timings_ms"].keys()


def test_several_tasks_share_one_encoding_of_the_picture(server: Served, backend: FakeBackend) -> None:
    before = len(backend.encoded)
    asks = [
        {"task": "caption"},
        {"task": "detect", "input": ["red cube"], "name": "cubes", "search": {"beams": 1, "max_new_tokens": 9}},
        {"task": "detect"},
        {"task": "detect"},
    ]
    answer = server.client.post("/v1/run", files={"image": png()}, data={"asks": json.dumps(asks)}).json()
    assert list(answer["results"]) == ["caption", "cubes", "detect", "detect-2"]
    assert len(backend.encoded) == before + 1
    assert backend.searches[-3][1].beams == 1
    assert backend.searches[-3][1].max_new_tokens == 9


def test_search_options_can_be_fields(server: Served, backend: FakeBackend) -> None:
    server.ask("caption", beams="2", max_new_tokens="7")
    assert (backend.searches[-1][1].beams, backend.searches[-1][1].max_new_tokens) == (2, 7)


def test_a_stream_tells_the_pieces_and_then_the_whole(server: Served, api: dict[str, Any]) -> None:
    form = {"files": {"image": png()}, "data": {"task": "caption", "beams": "1"}}
    with server.events("POST", "/v1/stream", **form) as events:
        told = list(events)
    names = [name for name, _ in told]
    pieces = [data["text"] for name, data in told if name == "piece"]
    assert names == ["queued", "image", *["piece"] * len(pieces), "result"]
    assert len(pieces) > 5
    assert "".join(pieces) == told[-1][1]["result"]["text"]
    check(api, "Result", told[-1][1]["result"])


def test_a_failure_within_a_stream_is_its_last_event(bundle: Bundle, api: dict[str, Any]) -> None:
    class Failing(FakeBackend):
        def encode_image(self, pixels: Any) -> Any:
            raise BackendError("the device is gone")

    with served(Florence(bundle, Failing(bundle))) as server:
        with server.events("POST", "/v1/stream", files={"image": png()}, data={"task": "caption"}) as events:
            *_, (name, problem) = events
        assert (name, problem["status"], problem["detail"]) == ("problem", 500, "the device is gone")
        check(api, "Problem", problem)
        assert server.ask().status_code == 500
        assert server.metric("places_taken") == 0


def form(**fields: Any) -> dict[str, Any]:
    """What a client sends: the picture unless told otherwise, and fields."""
    image = fields.pop("image", png())
    return {"files": {"image": image} if image is not None else {"other": b"x"}, "data": fields}


TRUNCATED = png()[:60]
BOMB = png(300, 300)  # 90,000 pixels, packed small


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        (form(), 422, "no task is given"),
        (form(task="capton"), 422, "unknown task 'capton'"),
        (form(task="caption", input="x"), 422, "takes no input"),
        (form(task="segment"), 422, "takes a phrase; got none"),
        (form(task="describe_region", input="[1, 2, 3]"), 422, "a box is x1 y1 x2 y2"),
        (form(task="describe_region", input="[1, 2, 300, 4]"), 422, "x leaves the image, 0 to 48"),
        (form(task="describe_region", input="[1, 2"), 422, "input is not JSON"),
        (form(task="caption", beams="many"), 422, "beams is 'many'"),
        (form(task="caption", beams="0"), 422, "beams is 0"),
        (form(task="caption", temperature="1"), 422, "unknown field temperature"),
        (form(task="caption", asks="[]"), 422, "leave out task"),
        (form(asks="[]"), 422, "a list of 1 to 4 questions"),
        (form(asks="{"), 422, "asks is not JSON"),
        (form(asks="[" * 60_000), 422, "asks is not JSON"),
        (form(asks='[{"task": "caption"}, {"tusk": 1}]'), 422, "unknown key asks[1].tusk; missing key asks[1].task"),
        (form(asks='[{"task": "caption", "search": {"beams": "x"}}]'), 422, "asks[0].search.beams is 'x'"),
        (form(asks=json.dumps([{"task": "caption"}] * 5)), 422, "a list of 1 to 4 questions"),
        (form(image=None, task="caption"), 422, "image must be the bytes of a picture"),
        (form(image=b"", task="caption"), 422, "image must be the bytes of a picture"),
        (form(image=b"GET / HTTP/1.1", task="caption"), 422, "is not an image"),
        (form(image=TRUNCATED, task="caption"), 422, "damaged or cut short"),
        (form(image=BOMB, task="caption"), 413, "300 x 300 = 90000 pixels; allowed: at most 60000 pixels"),
        (form(image=bytes(600_000), task="caption"), 413, "allowed: at most 462144 bytes"),
        (form(task="ask", input="x" * 70_000), 400, "exceeded maximum size"),
    ],
)
def test_what_cannot_be_answered_is_told_why(
    server: Served, api: dict[str, Any], given: dict[str, Any], status: int, says: str
) -> None:
    response = server.client.post("/v1/run", **given)
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert says in problem["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    check(api, "Problem", problem)


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1/nothing", 404, "there is no GET '/v1/nothing'"),
        ("GET", "/static/../options.py", 404, "there is no"),
        ("GET", "/static/%2e%2e/options.py", 404, "there is no"),
        ("DELETE", "/v1/run", 405, "allowed: only POST"),
        ("GET", "/v1/live", 404, "this server has no camera"),
        ("PUT", "/v1/live/question", 404, "this server has no camera"),
        ("GET", "/v1/sample", 404, "no picture of its own"),
    ],
)
def test_addresses_that_there_are_not(server: Served, method: str, path: str, status: int, says: str) -> None:
    response = server.client.request(method, path)
    assert (response.status_code, says in response.json()["detail"]) == (status, True), response.text


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
def test_another_kind_of_body_is_refused(server: Served, kind: str) -> None:
    response = server.client.post("/v1/run", content=b"{}", headers={"Content-Type": kind})
    assert response.status_code in (400, 415), response.text


def test_a_body_of_unknown_length_is_bounded_too(server: Served) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(12):
            yield bytes(65_536)

    response = server.client.post(
        "/v1/run", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert response.status_code == 413
    assert "allowed: at most" in response.json()["detail"]


def test_nothing_that_a_client_names_is_opened(server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(shade=255))
    for text in (str(secret), f"file://{secret}", "http://127.0.0.1:9/x.png"):
        assert (
            server.client.post("/v1/run", files={"image": text.encode()}, data={"task": "caption"}).status_code == 422
        )
        assert server.client.post("/v1/run", data={"image": text, "task": "caption"}).status_code == 415
    with raw_upload(server.port) as client:  # its file name is /etc/passwd
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_orientation_is_heeded(server: Served) -> None:
    packed, exif = BytesIO(), Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(packed, format="JPEG", exif=exif)
    assert server.ask("caption", packed.getvalue()).json()["image"] == {"width": 20, "height": 40}


def test_the_description_is_valid_and_names_every_address(server: Served, api: dict[str, Any]) -> None:
    validate(api)
    assert set(api["paths"]) == {
        *("/v1/run", "/v1/stream", "/v1/info", "/v1/tasks", "/v1/sample", "/v1/live", "/v1/live/question"),
        *("/healthz", "/metrics", "/openapi.json"),
    }
    tasks = server.client.get("/v1/tasks").json()
    check(api, "Task", tasks["tasks"][0])
    assert [row["task"] for row in tasks["tasks"]] == [task.token for task in (*TASKS, FREE_PROMPT)]


def test_info_tells_limits_and_no_path_of_the_machine(server: Served, bundle: Bundle) -> None:
    text = server.client.get("/v1/info").text
    info = json.loads(text)
    assert info["limits"] == {"max_bytes": 200_000, "max_pixels": 60_000, "max_tasks": 4, "places": 8}
    assert info["model"]["bundle"] == bundle.folder.name
    assert str(bundle.folder.parent) not in text


def test_metrics_count_answers_and_stages(server: Served) -> None:
    before = server.metric('requests_total{route="/v1/run",status="200"}')
    server.ask()
    server.client.get("/no/such/page")
    assert server.metric('requests_total{route="/v1/run",status="200"}') == before + 1
    assert server.metric('requests_total{route="other",status="404"}') >= 1
    assert server.metric('stage_seconds_count{stage="search"}') >= 1


def test_the_bundled_model_answers_over_the_network() -> None:
    bundle = Bundle.open("tabletop", verify="size")
    picture = (bundle.folder / "demo.png").read_bytes()
    with Florence(bundle, open_backend("onnx", bundle, threads=1)) as model:
        expected = [model.run(task, picture) for task in ("caption", "detect")]
        with served(model, sample=bundle.folder / "demo.png") as server:
            assert server.client.get("/v1/sample").content == picture
            asks = json.dumps([{"task": "caption"}, {"task": "detect"}])
            answer = server.client.post("/v1/run", files={"image": picture}, data={"asks": asks}).json()
    assert [timeless(result) for result in answer["results"].values()] == [timeless(r.to_dict()) for r in expected]
