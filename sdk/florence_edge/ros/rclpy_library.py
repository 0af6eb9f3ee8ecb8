"""Messages of rclpy, for a node: classes are looked up by name, so that this module imports no ROS package itself."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from florence_edge.geometry import AnyArray


class RclpyLibrary:
    """Makes rclpy's messages (`messages.Library`)."""

    def make(self, name: str, fields: Mapping[str, Any]) -> Any:
        """A message with all its fields given."""
        return message_class(name)(**fields)

    def octets(self, data: AnyArray) -> Any:
        """The bytes of an array, in the one form that rclpy takes without looking at every byte."""
        return array("B", np.ascontiguousarray(data).tobytes())

    def level(self, value: int) -> Any:
        """A `byte`."""
        return bytes([value])


@lru_cache(maxsize=64)
def message_class(name: str) -> Any:
    """The class of a message type such as "sensor_msgs/msg/Image"."""
    package, kind, type_name = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), type_name)
