"""Everything a ROS node does, without ROS: its life cycle, the newest image, the question, the answers, its health.

A node hands in parameters and image messages and gets messages to publish; it adds only topics, services and a clock.
Subscription callbacks return at once: they leave the image in a mailbox with one slot, where a newer one replaces it,
and a thread of its own takes it from there. So answers are never older than one inference plus one image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from florence_edge.errors import BackendError, FlorenceError, InputError
from florence_edge.model import Florence
from florence_edge.results import Result
from florence_edge.stream.mailbox import Mailbox

from . import messages as ros
from .encodings import decode_message
from .parameters import PARAMETERS, Settings, read

_POLL_S = 0.1
_SLOT = "image"

Load = Callable[[Settings], Florence]


def load_model(settings: Settings) -> Florence:
    """The model that the settings name."""
    return Florence.load(settings.bundle, backend=settings.backend, threads=settings.threads)


@dataclass(frozen=True)
class Outside:
    """What a node does for its logic.

    `publish` sends a message and may be called from another thread. `now_ns` is the ROS clock, the one that stamps
    images. `log` takes a level of `messages` (OK, WARN, ERROR) and a text.
    """

    library: ros.Library
    publish: Callable[[ros.Outgoing], None]
    now_ns: Callable[[], int]
    log: Callable[[int, str], None]


@dataclass(frozen=True)
class Health:
    """What became of the images since activation, and the times of the last answer.

    `dropped` ones were replaced by a newer image, or waited when the node was deactivated. `latency_ms` is from the
    image's arrival to its answer, `age_ms` from its stamp to its answer.
    """

    received: int = 0
    answered: int = 0
    dropped: int = 0
    failed: int = 0
    latency_ms: float = 0.0
    age_ms: float = 0.0
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""


class Perception:
    """The logic of a node: `configure`, `activate`, `deactivate`, `cleanup` are the transitions of a managed node.

    Configured it holds the model in memory, active it also works; `cleanup` frees the model. Transitions raise a
    `FlorenceError` that says why they cannot be made, and then leave everything as it was.
    """

    def __init__(self, outside: Outside, *, load: Load = load_model) -> None:
        self._outside, self._load = outside, load
        self._model: Florence | None = None
        self._settings: Settings | None = None
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._health, self._labels = Health(), ros.Labels()
        self._mailbox: Mailbox[tuple[Any, int]] = Mailbox([_SLOT])

    @property
    def active(self) -> bool:
        """Whether images are being answered."""
        return self._worker is not None

    @property
    def settings(self) -> Settings | None:
        """The settings in force; None before `configure`."""
        return self._settings

    def configure(self, parameters: Mapping[str, Any]) -> Settings:
        """Checks the parameters and loads the model."""
        settings = read(parameters)
        self._model = self._load(settings)
        self._settings = settings
        return settings

    def activate(self) -> None:
        """Begins to work, unless it does so already; counts begin anew. `InputError` before `configure`."""
        if self._settings is None:
            raise InputError("the node cannot be activated before it is configured")
        if self.active:
            return
        self._health, self._labels = Health(), ros.Labels()
        self._mailbox = Mailbox([_SLOT])
        self._stop.clear()
        self._worker = threading.Thread(target=self._work, name="florence-node", daemon=True)
        self._worker.start()

    def deactivate(self) -> None:
        """Stops working, once the image at hand is answered; one that waits is thrown away."""
        self._stop.set()
        if self._worker is not None:
            self._worker.join()
        self._worker = None
        self._count(dropped=sum(self._mailbox.clear().values()))

    def cleanup(self) -> None:
        """Frees the model; also stops working, for a shutdown from any state."""
        self.deactivate()
        model, self._model, self._settings = self._model, None, None
        if model is not None:
            model.close()

    def change(self, changes: Mapping[str, Any], current: Mapping[str, Any]) -> None:
        """Takes changed parameters, all of them or none; `current` are the values of all.

        While configured only those with `Parameter.dynamic` may change: the next image is answered by them, the one at
        hand is not disturbed. Names that are not in the table belong to ROS and are let through. Raises `InputError`.
        """
        own = {name: value for name, value in changes.items() if name in PARAMETERS}
        fixed = [name for name in own if not PARAMETERS[name].dynamic]
        if fixed and self._settings is not None:
            raise InputError(f"{', '.join(fixed)} cannot change while the node is configured; clean it up first")
        settings = read({**current, **own})
        if self._settings is not None:
            self._settings = replace(self._settings, question=settings.question, search=settings.search)

    def receive(self, message: Any) -> None:
        """Takes an image message; while inactive it is ignored."""
        if not self.active:
            return
        replaced = self._mailbox.put(_SLOT, (message, self._outside.now_ns()))
        self._count(received=1, dropped=int(replaced is not None))

    def health(self) -> Health:
        """What became of the images."""
        with self._lock:
            return self._health

    def diagnostics(self, name: str) -> Any:
        """A `diagnostic_msgs/DiagnosticArray` about this node; `name` is the node's own."""
        now = ros.Header(self._outside.now_ns(), "")
        health, settings = self.health(), self._settings
        level, said = self._state(health)
        values: dict[str, object] = {
            "task": settings.question if settings else "",
            "received": health.received,
            "answered": health.answered,
            "dropped": health.dropped,
            "failed": health.failed,
            "latency_ms": f"{health.latency_ms:.1f}",
            "age_ms": f"{health.age_ms:.1f}",
            **{f"{stage}_ms": f"{spent:.1f}" for stage, spent in health.stages_ms.items()},
        }
        return ros.diagnostics(self._outside.library, now, source=name, level=level, message=said, values=values)

    def _state(self, health: Health) -> tuple[int, str]:
        if self._settings is None:
            return ros.WARN, "not configured"
        if not self.active:
            return ros.WARN, "inactive"
        if health.fault:
            return ros.ERROR, health.fault
        return (ros.OK, "ok") if health.received else (ros.WARN, "no image has come; is the topic right?")

    def _work(self) -> None:
        """Answers the newest image until told to stop."""
        while not self._stop.is_set():
            taken = self._mailbox.take(_POLL_S)
            if taken is None:
                continue
            _, (message, arrived_ns) = taken
            try:
                self._answer(message, arrived_ns)
            except Exception as error:  # a fault in one image, of whatever kind, must not end the node
                self._failed(error)

    def _answer(self, message: Any, arrived_ns: int) -> None:
        settings, model = self._settings, self._model
        if settings is None or model is None:
            raise BackendError("the model is gone; configure the node again")
        header = ros.header_of(message)
        image = decode_message(message, compressed=settings.compressed)
        question = settings.question
        result = model.run(question.task, image, question.input, search=settings.search)
        for out in ros.outgoing(self._outside.library, header, result, self._labels):
            self._outside.publish(out)
        self._answered(result, header.stamp_ns, arrived_ns)

    def _count(self, *, received: int = 0, dropped: int = 0) -> None:
        with self._lock:
            old = self._health
            self._health = replace(old, received=old.received + received, dropped=old.dropped + dropped)

    def _answered(self, result: Result, stamp_ns: int, arrived_ns: int) -> None:
        now = self._outside.now_ns()
        with self._lock:
            self._health = replace(
                self._health,
                answered=self._health.answered + 1,
                latency_ms=(now - arrived_ns) / 1e6,
                age_ms=(now - stamp_ns) / 1e6,
                stages_ms=dict(result.timings_ms),
                fault="",
            )

    def _failed(self, error: Exception) -> None:
        """Counts a failure; says it once, not thirty times a second."""
        said = str(error) if isinstance(error, FlorenceError) else f"{type(error).__name__}: {error}"
        with self._lock:
            new = said != self._health.fault
            self._health = replace(self._health, failed=self._health.failed + 1, fault=said)
        if new:
            self._outside.log(ros.ERROR, said)
