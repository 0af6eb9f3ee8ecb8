"""The part of rclpy that the node uses, and message classes as strict as rclpy's own, for machines without ROS.

Message classes are made from the same definitions that bags are written with. Like rclpy's they have slots, take
keywords, fill in defaults and refuse values of another type.
"""

from __future__ import annotations

import sys
import types
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from florence_edge.ros.rosbags_library import RosbagsLibrary

_STORE = RosbagsLibrary().store
_CLASSES: dict[str, type] = {}

_INTEGERS = {f"{sign}int{bits}": (0 if sign else -(1 << (bits - 1)), (1 << (bits - (not sign))) - 1)
             for sign in ("", "u") for bits in (8, 16, 32, 64)}  # fmt: skip


def message_class(name: str) -> type:
    """The class of a message type, such as "std_msgs/msg/Header"."""
    if name not in _CLASSES:
        _, entries = _STORE.fielddefs[name]
        _CLASSES[name] = _build(name, dict(entries))
    return _CLASSES[name]


def _build(name: str, entries: dict[str, Any]) -> type:
    def init(self: Any, **given: Any) -> None:
        unknown = given.keys() - entries.keys()
        assert not unknown, f"{name} has no fields {sorted(unknown)}"
        for key, kind in entries.items():
            setattr(self, key, given[key] if key in given else _default(kind))

    def assign(self: Any, key: str, value: Any) -> None:
        fault = _fault(entries[key], value)
        assert fault is None, f"{name}.{key} {fault}; got {type(value).__name__}"
        object.__setattr__(self, key, value)

    body = {"__slots__": tuple(entries), "__init__": init, "__setattr__": assign}
    return type(name.rpartition("/")[2], (), body)


def _default(kind: Any) -> Any:
    node, args = kind
    if node == Nodetype.NAME:
        return message_class(args)()
    if node == Nodetype.BASE:
        base = args[0]
        return {"string": "", "bool": False, "byte": b"\0"}.get(base, 0.0 if base.startswith("float") else 0)
    element = args[0]
    if element[0] == Nodetype.BASE and element[1][0] == "uint8":
        return array("B")
    return np.zeros(args[1]) if node == Nodetype.ARRAY else []


def _fault(kind: Any, value: Any) -> str | None:
    """What is wrong with a value, in words."""
    node, args = kind
    if node == Nodetype.NAME:
        return None if isinstance(value, message_class(args)) else f"must be a {args}"
    if node == Nodetype.BASE:
        return _base_fault(args[0], value)
    element, count = args
    if element[0] == Nodetype.BASE and element[1][0] == "uint8":
        return None if isinstance(value, array) and value.typecode == "B" else "must be an array of type B"
    if node == Nodetype.ARRAY:
        good = isinstance(value, np.ndarray) and value.dtype == np.float64 and value.size == count
        return None if good else f"must be {count} float64 in an array"
    if not isinstance(value, list):
        return "must be a list"
    return next((fault for item in value if (fault := _fault(element, item))), None)


def _base_fault(base: str, value: Any) -> str | None:
    if base in _INTEGERS:
        low, high = _INTEGERS[base]
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if good else f"must be an int in {low}..{high}"
    if base == "byte":
        return None if isinstance(value, bytes) and len(value) == 1 else "must be one byte"
    kind = {"string": str, "bool": bool, "float32": float, "float64": float}[base]
    return None if isinstance(value, kind) else f"must be a {kind.__name__}"


class TransitionCallbackReturn(Enum):
    SUCCESS = auto()
    FAILURE = auto()
    ERROR = auto()


class Parameter:
    class Type(Enum):
        STRING = str
        STRING_ARRAY = list
        INTEGER = int
        DOUBLE = float
        BOOL = bool

    def __init__(self, name: str, type_: Type, value: Any) -> None:
        assert isinstance(value, type_.value)
        self.name, self.type_, self.value = name, type_, value


@dataclass
class ParameterDescriptor:
    description: str = ""


@dataclass
class SetParametersResult:
    successful: bool = False
    reason: str = ""


@dataclass(frozen=True)
class QoSProfile:
    history: str
    depth: int
    reliability: str
    durability: str = "VOLATILE"


@dataclass
class Publisher:
    """Notes what is published; a managed one only while its node is active."""

    type: type
    topic: str
    qos: Any
    enabled: bool = True
    sent: list[Any] = field(default_factory=list)

    def publish(self, message: Any) -> None:
        assert isinstance(message, self.type)
        assert self.enabled, f"published on {self.topic} while inactive"
        self.sent.append(message)


@dataclass
class Subscription:
    type: type
    topic: str
    callback: Callable[[Any], None]
    qos: QoSProfile


class Logger:
    """Notes lines as (level, text)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Callable[[str], None]:
        return lambda text: self.lines.append((level, text))


class LifecycleNode:
    """A managed node: parameters, publishers and the state machine, all in this process."""

    now_ns = 0
    overrides: Mapping[str, Any] = {}

    def __init__(self, name: str) -> None:
        self.name, self.logger, self.state = name, Logger(), "unconfigured"
        self.parameters: dict[str, Any] = {}
        self.descriptions: dict[str, str] = {}
        self.callbacks: list[Callable[[list[Parameter]], SetParametersResult]] = []
        self.managed: dict[str, Publisher] = {}
        self.plain: dict[str, Publisher] = {}
        self.subscriptions_now: list[Subscription] = []
        self.services: dict[str, tuple[type, Callable[[Any, Any], Any]]] = {}
        self.timers: dict[int, tuple[float, Callable[[], None]]] = {}

    def declare_parameter(self, name: str, value: Any, descriptor: ParameterDescriptor) -> None:
        given = self.overrides.get(name, value)
        assert type(given) is type(value)
        self.parameters[name], self.descriptions[name] = given, descriptor.description

    def get_parameter(self, name: str) -> Any:
        return types.SimpleNamespace(value=self.parameters[name])

    def add_on_set_parameters_callback(self, callback: Callable[[list[Parameter]], SetParametersResult]) -> None:
        self.callbacks.append(callback)

    def set_parameters_atomically(self, given: list[Parameter]) -> SetParametersResult:
        for callback in self.callbacks:
            result = callback(given)
            if not result.successful:
                return result
        self.parameters.update({one.name: one.value for one in given})
        return SetParametersResult(successful=True)

    def create_service(self, kind: type, name: str, callback: Callable[[Any, Any], Any]) -> str:
        self.services[name] = kind, callback
        return name

    def create_timer(self, period: float, callback: Callable[[], None]) -> int:
        number = max(self.timers, default=0) + 1
        self.timers[number] = period, callback
        return number

    def destroy_timer(self, timer: int) -> None:
        del self.timers[timer]

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
        return self.plain.setdefault(topic, Publisher(kind, topic, qos))

    def create_lifecycle_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
        assert topic not in self.managed
        self.managed[topic] = Publisher(kind, topic, qos, enabled=False)
        return self.managed[topic]

    def destroy_lifecycle_publisher(self, publisher: Publisher) -> None:
        del self.managed[publisher.topic]

    def create_subscription(
        self, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Subscription:
        made = Subscription(kind, topic, callback, qos)
        self.subscriptions_now.append(made)
        return made

    def destroy_subscription(self, subscription: Subscription) -> None:
        self.subscriptions_now.remove(subscription)

    def get_clock(self) -> Any:
        return types.SimpleNamespace(now=lambda: types.SimpleNamespace(nanoseconds=self.now_ns))

    def get_logger(self) -> Logger:
        return self.logger

    def get_fully_qualified_name(self) -> str:
        return f"/{self.name}"

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        return self._enable(True)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        return self._enable(False)

    def _enable(self, enabled: bool) -> TransitionCallbackReturn:
        for publisher in self.managed.values():
            publisher.enabled = enabled
        return TransitionCallbackReturn.SUCCESS

    def trigger(self, transition: str) -> str:
        """Makes a transition as the lifecycle service does; returns the new state."""
        start, goal = _TRANSITIONS[transition]
        assert transition == "shutdown" or self.state == start, f"{transition} from {self.state}"
        if getattr(self, f"on_{transition}")(self.state) is TransitionCallbackReturn.SUCCESS:
            self.state = goal
        return self.state


_TRANSITIONS = {
    "configure": ("unconfigured", "inactive"),
    "activate": ("inactive", "active"),
    "deactivate": ("active", "inactive"),
    "cleanup": ("inactive", "unconfigured"),
    "shutdown": ("", "finalized"),
}


class SetTask:
    @dataclass
    class Request:
        task: str = ""
        input: list[str] = field(default_factory=list)

    @dataclass
    class Response:
        success: bool = False
        message: str = ""


class _Packages(types.ModuleType):
    """A `package.msg` module whose attributes are message classes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return message_class(f"{self.__name__.replace('.', '/')}/{name}")


def modules() -> dict[str, types.ModuleType]:
    """What to put into `sys.modules`."""
    policies = {
        "HistoryPolicy": ("KEEP_LAST",),
        "ReliabilityPolicy": ("RELIABLE", "BEST_EFFORT"),
        "DurabilityPolicy": ("VOLATILE", "TRANSIENT_LOCAL"),
    }
    enums = {name: types.SimpleNamespace(**{value: value for value in values}) for name, values in policies.items()}
    content: dict[str, dict[str, Any]] = {
        "rclpy": {},
        "rclpy.executors": {"ExternalShutdownException": type("ExternalShutdownException", (Exception,), {})},
        "rclpy.lifecycle": {
            "LifecycleNode": LifecycleNode,
            "LifecycleState": str,
            "TransitionCallbackReturn": TransitionCallbackReturn,
        },
        "rclpy.parameter": {"Parameter": Parameter},
        "rclpy.qos": {"QoSProfile": QoSProfile, **enums},
        "rcl_interfaces": {},
        "rcl_interfaces.msg": {"ParameterDescriptor": ParameterDescriptor, "SetParametersResult": SetParametersResult},
        "florence_edge_msgs": {},
        "florence_edge_msgs.srv": {"SetTask": SetTask},
    }
    made: dict[str, types.ModuleType] = {}
    for name, members in content.items():
        made[name] = types.ModuleType(name)
        made[name].__dict__.update(members)
    for package in ("builtin_interfaces", "std_msgs", "geometry_msgs", "sensor_msgs", "vision_msgs", "diagnostic_msgs"):
        made[package], made[f"{package}.msg"] = types.ModuleType(package), _Packages(f"{package}.msg")
    assert not made.keys() & sys.modules.keys()
    return made
