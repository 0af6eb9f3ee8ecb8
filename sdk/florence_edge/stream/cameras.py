"""Cameras as live sources: `v4l2://0`, `csi://0` (Jetson), `rtsp://host/stream`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from florence_edge.errors import ImageError, InputError

from .opencv import Capture, public
from .pictures import NO_IMAGE
from .protocols import Frame, SourceError
from .uris import Uri, tag_of

_NUMBERS = {"width": "FRAME_WIDTH", "height": "FRAME_HEIGHT", "fps": "FPS"}

_CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! "
    "video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! nvvidconv flip-method={flip} ! "
    "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
)
_CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30, "flip": 0}


def open_source(uri: Uri) -> Camera:
    """The camera that a URI means."""
    if uri.scheme == "csi":
        values = {**_CSI_DEFAULTS, **_whole(uri, *_CSI_DEFAULTS)}
        address = _CSI.format(sensor=_digits(uri), **values)
        return Camera(tag_of(uri, f"csi-{uri.target}"), address, "GSTREAMER", rate_hz=float(values["fps"]))
    if uri.scheme == "v4l2":
        device = int(uri.target) if uri.target.isdecimal() else uri.target
        if isinstance(device, str) and not device.startswith("/dev/"):
            raise InputError(f"{uri.text}: a camera is a number or a device, as in v4l2://0 and v4l2:///dev/video0")
        numbers = _whole(uri, *_NUMBERS)
        settings = {"BUFFERSIZE": 1.0, **{_NUMBERS[name]: float(value) for name, value in numbers.items()}}
        tag, rate = tag_of(uri, f"v4l2-{uri.target}"), numbers.get("fps")
        return Camera(tag, device, "V4L2", settings=settings, rate_hz=None if rate is None else float(rate))
    return Camera(tag_of(uri, public(uri.target).partition("://")[2]), uri.target, "FFMPEG")


@dataclass(frozen=True)
class Camera:
    """A live `Source` on an OpenCV capture; the time of a frame is when it arrived from the driver."""

    tag: str
    address: str | int
    api: str
    settings: Mapping[str, float] = field(default_factory=dict)
    rate_hz: float | None = None

    @property
    def live(self) -> bool:
        """Always."""
        return True

    @property
    def identity(self) -> str:
        """The address."""
        return str(self.address)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """As in `Source`."""
        index = start
        with closing(Capture(self.address, api=self.api, settings=self.settings)) as capture:
            while capture.grab():
                time_ns, arrival_ns = time.time_ns(), time.monotonic_ns()
                image = capture.picture()
                error = ImageError(f"{self.tag}: frame {index} is damaged") if image is None else None
                picture = NO_IMAGE if image is None else image
                yield Frame(picture, time_ns, index, self.tag, error=error, arrival_ns=arrival_ns)
                index += 1
        raise SourceError(f"{self.tag}: the camera at {public(self.address)} stopped giving frames")


def _digits(uri: Uri) -> int:
    if not uri.target.isdecimal():
        raise InputError(f"{uri.text}: the sensor is a number, as in csi://0")
    return int(uri.target)


def _whole(uri: Uri, *allowed: str) -> dict[str, int]:
    """Options that are whole numbers."""
    options = uri.only(*allowed)
    wrong = [f"{name}={value}" for name, value in options.items() if not value.isdecimal()]
    if wrong:
        raise InputError(f"{uri.text}: {', '.join(wrong)} must be whole numbers")
    return {name: int(value) for name, value in options.items()}
