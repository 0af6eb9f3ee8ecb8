"""The one module that imports OpenCV: captures and writers of video, with pixels in RGB on this side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge.errors import DependencyError, missing
from florence_edge.geometry import UInt8Array

from .protocols import SinkError, SourceError

TIMEOUT_MS = 5_000
"""How long an address may be silent, when it is opened and between two frames."""

CODECS = {".avi": "MJPG", ".mkv": "mp4v"}
"""Suffix of a video to the codec it is written with. Both can be read after their writer was killed; an MP4 cannot."""

_LOOK = {
    "V4L2": "is it plugged in (v4l2-ctl --list-devices), free, and are you in the group video?",
    "GSTREAMER": "does the pipeline run in gst-launch-1.0?",
    "FFMPEG": "does ffprobe read it?",
}
"""What to look at when a capture does not open."""


class Capture:
    """An open capture; `address` is a device number, a path, an address or a GStreamer pipeline.

    `api` is OpenCV's name of the reader ("V4L2", "GSTREAMER", "FFMPEG"). `settings` maps OpenCV's property names
    ("FRAME_WIDTH") to values. Raises `SourceError` when it cannot be opened, `DependencyError` without that reader.
    """

    def __init__(self, address: str | int, *, api: str, settings: Mapping[str, float] | None = None) -> None:
        self._cv2, shown = _library("reading video"), public(address)
        backend = getattr(self._cv2, f"CAP_{api}")
        if backend not in self._cv2.videoio_registry.getBackends():
            raise DependencyError(
                f"{shown}: this OpenCV ({self._cv2.__version__}) was built without {api}; on a Jetson use the "
                "system's python3-opencv, elsewhere an OpenCV built with it"
            )
        parameters: list[int] = []
        if api == "FFMPEG":
            for name in ("OPEN_TIMEOUT_MSEC", "READ_TIMEOUT_MSEC"):
                parameters += [getattr(self._cv2, f"CAP_PROP_{name}"), TIMEOUT_MS]
        self._capture = self._cv2.VideoCapture(address, backend, parameters)
        if not self._capture.isOpened():
            raise SourceError(f"{shown} cannot be opened as a video with {api}; {_LOOK[api]}")
        for name, value in (settings or {}).items():
            self._capture.set(getattr(self._cv2, f"CAP_PROP_{name}"), value)

    def grab(self) -> bool:
        """Takes the next frame from the device or file without converting it; False when there is none."""
        return bool(self._capture.grab())

    def picture(self) -> UInt8Array | None:
        """The grabbed frame [H, W, 3] uint8 RGB in new memory, None where it is damaged."""
        good, image = self._capture.retrieve()
        if not good or image is None or not image.size:
            return None
        rgb: UInt8Array = self._cv2.cvtColor(
            image, self._cv2.COLOR_GRAY2RGB if image.ndim == 2 else self._cv2.COLOR_BGR2RGB
        )
        return rgb

    def number(self, name: str) -> float:
        """A property by OpenCV's name: "POS_MSEC", "FPS", "FRAME_COUNT"."""
        return float(self._capture.get(getattr(self._cv2, f"CAP_PROP_{name}")))

    def close(self) -> None:
        """Frees the device or file."""
        self._capture.release()


class Recorder:
    """Writes one video file of one size; frames of another size are fitted into it with black around."""

    def __init__(self, path: Path, size: tuple[int, int], rate_hz: float) -> None:
        self._cv2, self._size = _library("writing video"), size
        codec = self._cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
        self._writer = self._cv2.VideoWriter(str(path), self._cv2.CAP_FFMPEG, codec, rate_hz, size)
        if not self._writer.isOpened():
            raise SinkError(f"{path} cannot be written as a video of {size[0]} x {size[1]}: no permission, or no codec")

    def write(self, image: UInt8Array) -> None:
        """Appends a frame [H, W, 3] uint8 RGB."""
        self._writer.write(self._cv2.cvtColor(self._fit(image), self._cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Completes the file."""
        self._writer.release()

    def _fit(self, image: UInt8Array) -> UInt8Array:
        width, height = self._size
        if image.shape[:2] == (height, width):
            return image
        scale = min(width / image.shape[1], height / image.shape[0])
        inner = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        canvas = np.zeros((height, width, 3), np.uint8)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        resized = self._cv2.resize(image, inner, interpolation=self._cv2.INTER_AREA)
        canvas[top : top + inner[1], left : left + inner[0]] = resized
        return canvas


def public(address: str | int) -> str:
    """An address without the user name, password and query that it may hold, for messages; a device number as its path.

    Some cameras take their password in the query.
    """
    if isinstance(address, int):
        return f"/dev/video{address}"
    return re.sub(r"^(\w+://)(?:[^/]*@)?([^?]*).*", r"\1\2", address, flags=re.DOTALL)


def _library(purpose: str) -> Any:
    """OpenCV; raises `DependencyError` that names the extra when it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise missing("OpenCV", extra="video", needed_for=purpose) from error
    return cv2
