"""The node: topics, services, parameters and a clock around `florence_edge.ros.perception`, which does the work."""

from __future__ import annotations

from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from florence_edge_msgs.srv import SetTask
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from florence_edge.errors import FlorenceError
from florence_edge.ros.definitions import COMPRESSED_IMAGE, IMAGE
from florence_edge.ros.messages import ERROR, LATCHED, TOPICS, WARN, Outgoing
from florence_edge.ros.parameters import PARAMETERS
from florence_edge.ros.perception import Load, Outside, Perception, load_model
from florence_edge.ros.rclpy_library import RclpyLibrary, message_class

PERIOD_S = 1.0
"""Seconds between diagnostics until the node is configured."""


class FlorenceNode(LifecycleNode):
    """Subscribes to `image` (or `image/compressed`), publishes `~/detections`, `~/text`, `~/mask`, `~/label_info`."""

    def __init__(self, *, load: Load = load_model) -> None:
        super().__init__("florence")
        for name, row in PARAMETERS.items():
            self.declare_parameter(name, row.default, ParameterDescriptor(description=row.meaning))
        self._answers: dict[str, Any] = {}
        self._images: Any = None
        self._logic = Perception(Outside(RclpyLibrary(), self._publish, self._now_ns, self._log), load=load)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._service = self.create_service(SetTask, "~/set_task", self._on_set_task)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timer = self.create_timer(PERIOD_S, self._on_timer)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and offers the topics."""
        try:
            settings = self._logic.configure(self._values())
        except FlorenceError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        for topic, name in TOPICS.items():
            self._answers[topic] = self.create_lifecycle_publisher(
                message_class(name), f"~/{topic}", _answers_qos(latched=topic in LATCHED)
            )
        self.destroy_timer(self._timer)
        self._timer = self.create_timer(settings.diagnostics_period, self._on_timer)
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begins to work."""
        settings = self._logic.settings
        if settings is None:
            self.get_logger().error("the node cannot be activated before it is configured")
            return TransitionCallbackReturn.FAILURE
        done = super().on_activate(state)  # the publishers first, or the first answer would be lost
        self._logic.activate()
        self._images = self.create_subscription(
            message_class(COMPRESSED_IMAGE if settings.compressed else IMAGE),
            "image/compressed" if settings.compressed else "image",
            self._logic.receive,
            _image_qos(settings.image_reliability),
        )
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops working; the model stays in memory."""
        self._end_subscription()
        self._logic.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model and takes the topics back."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, from any state."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, so that the node can be configured anew."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _release(self) -> None:
        self._end_subscription()
        self._logic.cleanup()
        for publisher in self._answers.values():
            self.destroy_lifecycle_publisher(publisher)
        self._answers.clear()

    def _end_subscription(self) -> None:
        if self._images is not None:
            self.destroy_subscription(self._images)
            self._images = None

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self._logic.change({one.name: one.value for one in parameters}, self._values())
        except FlorenceError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_set_task(self, request: SetTask.Request, response: SetTask.Response) -> SetTask.Response:
        """Sets both parameters at once, so that they always say what is asked."""
        task = Parameter("task", Parameter.Type.STRING, request.task)
        given = Parameter("input", Parameter.Type.STRING_ARRAY, list(request.input) or [""])
        result = self.set_parameters_atomically([task, given])
        response.success, response.message = result.successful, result.reason
        return response

    def _on_timer(self) -> None:
        self._diagnostics.publish(self._logic.diagnostics(self.get_fully_qualified_name()))

    def _publish(self, out: Outgoing) -> None:
        self._answers[out.topic].publish(out.message)

    def _values(self) -> dict[str, Any]:
        return {name: self.get_parameter(name).value for name in PARAMETERS}

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _log(self, level: int, text: str) -> None:
        logger = self.get_logger()
        {ERROR: logger.error, WARN: logger.warning}.get(level, logger.info)(text)


def _image_qos(reliability: str) -> QoSProfile:
    """Only the newest image counts; BEST_EFFORT matches every publisher, RELIABLE only reliable ones."""
    policy = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=policy)


def _answers_qos(*, latched: bool) -> QoSProfile:
    durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )


def main(args: list[str] | None = None) -> None:
    """Runs the node until it is shut down."""
    rclpy.init(args=args)
    node = FlorenceNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
