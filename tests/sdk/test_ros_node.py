"""The ROS node: its logic alone, and the rclpy package of examples/ros2 against fakes of the rclpy it uses."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
import time
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("rosbags")

from florence_edge.errors import BackendError, BundleError, InputError
from florence_edge.model import Florence
from florence_edge.ros.parameters import PARAMETERS, Settings, read
from florence_edge.tasks import Task
from support import fake_ros
from support.bags import jpeg, picture
from support.fake_backend import FakeBackend, make_bundle, plausible

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "ros2" / "florence_edge_ros"


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


class Engine:
    """Opens scripted models, and holds their answers back while `gate` is closed."""

    def __init__(self, folder: Path) -> None:
        self.bundle = make_bundle(folder / "bundle")
        self.gate, self.asked = threading.Event(), 0
        self.gate.set()
        self.backends: list[FakeBackend] = []
        self.models: weakref.WeakSet[Florence] = weakref.WeakSet()
        self.fails = False

    def load(self, settings: Settings) -> Florence:
        if settings.bundle == "nowhere":
            raise BundleError("there is no bundle 'nowhere'")
        self.backends.append(FakeBackend(self.bundle, self.answer))
        model = Florence(self.bundle, self.backends[-1])
        self.models.add(model)
        return model

    def answer(self, task: Task, given: str, brightness: float) -> str:
        self.asked += 1
        assert self.gate.wait(10)
        if self.fails:
            raise BackendError("the engine fell over")
        return "" if given == "nothing" else plausible(task, given, brightness)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def node(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, module in fake_ros.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(PACKAGE))
    module = importlib.import_module("florence_edge_ros.node")
    made = module.FlorenceNode(load=engine.load)
    made.now_ns = 1_000_000_000
    yield made
    engine.gate.set()
    made.trigger("shutdown")
    for name in ("florence_edge_ros.node", "florence_edge_ros"):
        monkeypatch.delitem(sys.modules, name)


def image(index: int = 0, *, stamp_ns: int = 900_000_000, encoding: str = "rgb8") -> Any:
    pixels = picture(index)
    header = fake_ros.message_class("std_msgs/msg/Header")()
    header.stamp.sec, header.stamp.nanosec, header.frame_id = *divmod(stamp_ns, 10**9), "optical"
    return fake_ros.message_class("sensor_msgs/msg/Image")(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=3 * pixels.shape[1],
        data=array("B", pixels.tobytes()),
    )


def start(node: Any) -> Any:
    """Configures and activates; returns the image subscription."""
    assert node.trigger("configure") == "inactive", node.logger.lines
    assert node.trigger("activate") == "active"
    (subscription,) = node.subscriptions_now
    return subscription


def sent(node: Any, topic: str) -> list[Any]:
    return list(node.managed[f"~/{topic}"].sent)


def values(node: Any) -> tuple[bytes, str, dict[str, str]]:
    """Level, message and values of the diagnostics."""
    ((_, tick),) = node.timers.values()
    tick()
    (status,) = node.plain["/diagnostics"].sent[-1].status
    assert (status.name, status.hardware_id) == ("florence_edge", "/florence")
    return status.level, status.message, {pair.key: pair.value for pair in status.values}


def service(node: Any, task: str, *texts: str) -> tuple[bool, str]:
    kind, callback = node.services["~/set_task"]
    response = callback(kind.Request(task, list(texts)), kind.Response())
    return response.success, response.message


def test_an_image_becomes_detections_with_its_own_header(node: Any) -> None:
    subscription = start(node)
    assert (subscription.type, subscription.topic) == (fake_ros.message_class("sensor_msgs/msg/Image"), "image")
    subscription.callback(image())
    until(lambda: bool(sent(node, "detections")))
    (message,) = sent(node, "detections")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 900_000_000)
    assert message.header.frame_id == "optical"
    assert [item.results[0].hypothesis.class_id for item in message.detections] == ["cube", "ball"]
    box = message.detections[0].bbox  # bins 100..300 of 24 columns and 200..400 of 16 rows
    assert (box.center.position.x, box.size_x) == pytest.approx((24 * 0.2005, 24 * 0.2))
    assert (box.center.position.y, box.size_y) == pytest.approx((16 * 0.3005, 16 * 0.2))


def test_input_is_best_effort_and_one_deep_and_output_reliable(node: Any) -> None:
    assert start(node).qos == fake_ros.QoSProfile("KEEP_LAST", 1, "BEST_EFFORT")
    offers = {topic: publisher.qos for topic, publisher in node.managed.items()}
    assert {qos.reliability for qos in offers.values()} == {"RELIABLE"}
    assert {topic: qos.durability for topic, qos in offers.items()} == {
        "~/detections": "VOLATILE",
        "~/text": "VOLATILE",
        "~/mask": "VOLATILE",
        "~/label_info": "TRANSIENT_LOCAL",
    }


def test_the_newest_image_wins_and_the_others_are_counted(node: Any, engine: Engine) -> None:
    callback = start(node).callback
    engine.gate.clear()
    callback(image(0, stamp_ns=0))
    until(lambda: engine.asked == 1)
    for number in range(1, 6):
        callback(image(number, stamp_ns=number))
    engine.gate.set()
    until(lambda: len(sent(node, "detections")) == 2)
    assert [message.header.stamp.nanosec for message in sent(node, "detections")] == [0, 5]
    _, _, health = values(node)
    assert (health["received"], health["answered"], health["dropped"], health["failed"]) == ("6", "2", "4", "0")


def test_nothing_found_is_published_too(node: Any) -> None:
    callback = start(node).callback
    assert service(node, "detect", "nothing") == (True, "")
    callback(image())
    until(lambda: bool(sent(node, "detections")))
    assert sent(node, "detections")[0].detections == []


def test_task_and_prompt_change_at_run_time_by_service(node: Any) -> None:
    callback = start(node).callback
    assert service(node, "caption") == (True, "")
    assert (node.parameters["task"], node.parameters["input"]) == ("caption", [""])
    callback(image())
    until(lambda: bool(sent(node, "text")))
    assert sent(node, "text")[0].results[0].class_id == "a red cube left of a ball"
    assert service(node, "segment", "the red cube") == (True, "")
    callback(image())
    until(lambda: bool(sent(node, "mask")))
    (mask,), (labels,) = sent(node, "mask"), sent(node, "label_info")
    assert [entry.class_name for entry in labels.class_map] == ["background", "the red cube"]
    assert np.frombuffer(mask.data, "<u2").max() == 1
    assert len(sent(node, "detections")) == 1


def test_task_and_prompt_change_by_parameters_all_or_none(node: Any) -> None:
    callback = start(node).callback
    kind = fake_ros.Parameter.Type
    result = node.set_parameters_atomically(
        [fake_ros.Parameter("task", kind.STRING, "ground"), fake_ros.Parameter("input", kind.STRING_ARRAY, ["a cube"])]
    )
    assert result.successful
    callback(image())
    until(lambda: bool(sent(node, "detections")))
    assert sent(node, "detections")[0].detections[0].results[0].hypothesis.class_id == "a red cube"
    refused = node.set_parameters_atomically([fake_ros.Parameter("task", kind.STRING, "caption")])
    assert not refused.successful
    assert "takes no input" in refused.reason
    assert node.parameters["task"] == "ground"
    assert node.set_parameters_atomically([fake_ros.Parameter("use_sim_time", kind.BOOL, True)]).successful


@pytest.mark.parametrize(
    ("task", "texts", "said"),
    [
        ("juggle", (), "unknown task 'juggle'; the tasks are: caption, "),
        ("ground", (), "takes a phrase; got none"),
        ("segment_region", ("1,2",), "a box is x1 y1 x2 y2"),
        ("caption", ("why",), "takes no input"),
    ],
)
def test_a_bad_question_is_refused_with_the_reason(node: Any, task: str, texts: tuple[str, ...], said: str) -> None:
    start(node)
    success, message = service(node, task, *texts)
    assert not success
    assert said in message
    assert (node.parameters["task"], node.parameters["input"]) == ("detect", [""])


def test_what_needs_another_model_cannot_change_while_configured(node: Any) -> None:
    start(node)
    bundle = fake_ros.Parameter("bundle", fake_ros.Parameter.Type.STRING, "other")
    refused = node.set_parameters_atomically([bundle])
    assert not refused.successful
    assert "cannot change while the node is configured" in refused.reason
    node.trigger("deactivate")
    node.trigger("cleanup")
    assert node.set_parameters_atomically([bundle]).successful


def test_the_life_cycle_holds_and_frees_the_model(node: Any, engine: Engine) -> None:
    assert len(engine.models) == 0
    assert values(node)[:2] == (b"\1", "not configured")
    subscription = start(node)
    subscription.callback(image())
    until(lambda: bool(sent(node, "detections")))
    assert node.trigger("deactivate") == "inactive"
    assert node.subscriptions_now == []
    subscription.callback(image())  # one that was on its way
    assert values(node)[:2] == (b"\1", "inactive")
    assert len(engine.models) == 1
    assert not engine.backends[0].closed
    assert node.trigger("activate") == "active"
    assert len(engine.backends) == 1  # the model was kept
    node.trigger("deactivate")
    assert node.trigger("cleanup") == "unconfigured"
    assert engine.backends[0].closed
    assert node.managed == {}
    gc.collect()
    assert len(engine.models) == 0
    start(node)
    assert len(engine.backends) == 2


def test_deactivating_waits_for_the_image_at_hand_and_publishes_nothing_after(node: Any, engine: Engine) -> None:
    callback = start(node).callback
    engine.gate.clear()
    callback(image(0))
    until(lambda: engine.asked == 1)
    callback(image(1))
    threading.Timer(0.05, engine.gate.set).start()
    node.trigger("deactivate")
    assert len(sent(node, "detections")) == 1
    _, _, health = values(node)
    assert (health["received"], health["answered"], health["dropped"]) == ("2", "1", "1")
    assert not [thread for thread in threading.enumerate() if thread.name == "florence-node"]


def test_a_model_that_cannot_be_loaded_leaves_the_node_unconfigured(node: Any, engine: Engine) -> None:
    node.parameters["bundle"] = "nowhere"
    assert node.trigger("configure") == "unconfigured"
    assert node.logger.lines == [("error", "there is no bundle 'nowhere'")]
    assert node.managed == {}
    node.parameters["bundle"] = "tabletop"
    assert node.trigger("configure") == "inactive"


def test_diagnostics_tell_latency_age_and_faults(node: Any, engine: Engine) -> None:
    callback = start(node).callback
    assert values(node)[:2] == (b"\1", "no image has come; is the topic right?")
    engine.gate.clear()
    callback(image(stamp_ns=900_000_000))  # arrives at 1 s
    until(lambda: engine.asked == 1)
    node.now_ns = 1_040_000_000
    engine.gate.set()
    until(lambda: bool(sent(node, "detections")))
    until(lambda: values(node)[2]["answered"] == "1")
    level, message, health = values(node)
    assert (level, message) == (b"\0", "ok")
    assert (health["latency_ms"], health["age_ms"], health["task"]) == ("40.0", "140.0", "detect")
    assert float(health["search_ms"]) > 0


def test_a_bad_image_or_engine_is_said_once_and_the_node_goes_on(node: Any, engine: Engine) -> None:
    callback = start(node).callback
    for _ in range(3):
        failed = int(values(node)[2]["failed"])
        callback(image(encoding="xyz12"))
        until(lambda failed=failed: int(values(node)[2]["failed"]) == failed + 1)  # type: ignore[misc]
    level, message, _ = values(node)
    assert level == b"\2"
    assert "unknown image encoding 'xyz12'" in message
    assert len(node.logger.lines) == 1
    engine.fails = True
    callback(image())
    until(lambda: "the engine fell over" in values(node)[1])
    assert len(node.logger.lines) == 2
    engine.fails = False
    callback(image())
    until(lambda: bool(sent(node, "detections")))
    until(lambda: values(node)[0] == b"\0")


def test_the_period_of_the_diagnostics_is_that_of_the_configuration(node: Any) -> None:
    node.parameters["diagnostics_period"] = 0.25
    start(node)
    assert [period for period, _ in node.timers.values()] == [0.25]


def test_compressed_images_are_taken(node: Any) -> None:
    node.parameters["compressed"] = True
    subscription = start(node)
    kind = fake_ros.message_class("sensor_msgs/msg/CompressedImage")
    assert (subscription.type, subscription.topic) == (kind, "image/compressed")
    subscription.callback(kind(format="jpeg", data=array("B", jpeg(picture(0)))))
    until(lambda: bool(sent(node, "detections")))


def test_all_faulty_parameters_are_listed_at_once() -> None:
    with pytest.raises(InputError) as raised:
        read({"task": "juggle", "threads": -1, "image_reliability": "maybe", "diagnostics_period": 0.0, "speed": 3})
    for said in ("unknown task", "threads is -1", "best_effort or reliable", "must be above 0", "no parameter speed"):
        assert said in str(raised.value)
    settings = read({"beams": 1, "threads": 2})
    assert (settings.search.beams, settings.search.max_new_tokens, settings.threads) == (1, None, 2)


def test_the_package_is_whole() -> None:
    yaml = importlib.import_module("ruamel.yaml").YAML(typ="safe")
    document = yaml.load((PACKAGE / "config" / "florence.yaml").read_text())
    assert document["florence"]["ros__parameters"] == {name: row.default for name, row in PARAMETERS.items()}
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert root.findtext("name") == PACKAGE.name == "florence_edge_ros"
    declared = {element.text for element in root.iter("exec_depend")}
    imported = {name.partition(".")[0] for name in fake_ros.modules()}
    assert imported <= declared
    assert (PACKAGE / "resource" / PACKAGE.name).is_file()
    fields = (PACKAGE.parent / "florence_edge_msgs" / "srv" / "SetTask.srv").read_text().split("---")
    lines = [[line for line in part.splitlines() if line and not line.startswith("#")] for part in fields]
    assert lines == [["string task", "string[] input"], ["bool success", "string message"]]
    compile((PACKAGE / "launch" / "florence.launch.py").read_text(), "florence.launch.py", "exec")
