"""Video files: a recording to read, and an annotated copy to write."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from florence_edge.errors import ImageError, InputError
from florence_edge.files import state_of

from .drawing import drawn
from .events import Event
from .opencv import CODECS, Capture, Recorder
from .pictures import NO_IMAGE
from .protocols import Frame, Run, SinkError, SourceError
from .uris import Uri, tag_of

SHORT_BY = 0.02
"""Part of the frames promised by a file's header that may be absent before the file counts as cut short."""

SPARE_BYTES = 32 << 20
"""A video stops while this much of the disk is left: its writer would not tell when none is."""

LONGEST_HOLD_S = 10.0
"""A gap between two frames is shown as long as it was, up to this."""

CAMERA_RATE_HZ, SLIDE_RATE_HZ = 10.0, 2.0
"""Frames per second of the copy where the source's rate is unknown: of a camera, and of image files."""


def open_source(uri: Uri) -> Video:
    """The video file that a URI means."""
    uri.only()
    return Video(Path(uri.target).expanduser(), tag_of(uri, Path(uri.target).stem))


def open_sink(uri: Uri) -> AnnotatedVideo:
    """The video file to write."""
    uri.only()
    path = Path(uri.target).expanduser()
    if path.suffix.lower() not in CODECS:
        raise InputError(
            f"{uri.text}: a video is written as {' or '.join(CODECS)}, which can be read even when the power fails; "
            "afterwards `ffmpeg -i out.mkv -c copy out.mp4` makes an MP4 of it"
        )
    return AnnotatedVideo(path)


class Video:
    """A `Source` of every frame of a file; the time of a frame is counted from the first one."""

    live = False

    def __init__(self, path: Path, tag: str) -> None:
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        self._path, self.tag = path, tag

    @property
    def identity(self) -> str:
        """A digest over the file's path, size and time of change."""
        return state_of([self._path])

    @property
    def rate_hz(self) -> float | None:
        """What the file's header says; None also where there is none, which reading the frames will tell."""
        try:
            with closing(self._open()) as capture:
                rate = capture.number("FPS")
        except SourceError:
            return None
        return rate if np.isfinite(rate) and rate > 0 else None

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """As in `Source`. Frames before `start` are decoded but not converted: seeking is not exact in every format."""
        index = 0
        with closing(self._open()) as capture:
            promised = capture.number("FRAME_COUNT")
            while capture.grab():
                if index >= start:
                    yield self._frame(capture, index)
                index += 1
        if index < promised - max(2.0, SHORT_BY * promised):
            raise SourceError(f"{self._path} is cut short: {index} of {promised:.0f} frames can be read")

    def _frame(self, capture: Capture, index: int) -> Frame:
        time_ns = round(capture.number("POS_MSEC") * 1e6)
        image = capture.picture()
        error = ImageError(f"{self._path}: frame {index} is damaged") if image is None else None
        return Frame(NO_IMAGE if image is None else image, time_ns, index, self.tag, name=str(self._path), error=error)

    def _open(self) -> Capture:
        return Capture(str(self._path), api="FFMPEG")


class AnnotatedVideo:
    """A `Sink` that draws the answers; one file per source, with the source's tag in its name where there are several.

    The copy keeps the clock of its source: a frame is shown until the next one that was worked on. A video cannot be
    added to, so a resumed run begins it anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tracks: dict[str, _Track] = {}

    def open(self, run: Run) -> Mapping[str, int] | None:
        """As in `Sink`."""
        self._run = run
        for tag in run.sources:
            path = self._file(tag)
            if path.exists() and not run.resume:
                raise SinkError(f"{path} exists; move it away or write elsewhere")
            path.unlink(missing_ok=True)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return {}

    def write(self, event: Event) -> None:
        """As in `Sink`; a frame that could not be read is left out."""
        if event.frame.error is not None:
            return
        if shutil.disk_usage(self._path.parent).free < SPARE_BYTES:
            raise SinkError(
                f"{self._path}: less than {SPARE_BYTES >> 20} MiB are left on the disk; the video is complete so far"
            )
        tag = event.frame.tag
        picture = np.asarray(drawn(event))
        if tag not in self._tracks:
            rate, timed = self._rate(tag)
            recorder = Recorder(self._file(tag), (picture.shape[1], picture.shape[0]), rate)
            self._tracks[tag] = _Track(recorder, rate if timed else None)
        self._tracks[tag].show(picture, event.frame.time_ns)

    def close(self) -> None:
        """As in `Sink`."""
        for track in self._tracks.values():
            track.close()

    def _rate(self, tag: str) -> tuple[float, bool]:
        """Frames per second, and whether the frames have a clock at all."""
        rate = self._run.sources[tag]
        if rate is not None:
            return rate, True
        return (CAMERA_RATE_HZ, True) if self._run.live else (SLIDE_RATE_HZ, False)

    def _file(self, tag: str) -> Path:
        if len(self._run.sources) == 1:
            return self._path
        return self._path.with_name(f"{self._path.stem}-{tag}{self._path.suffix}")


class _Track:
    """One file with its clock: how many frames were written since the first."""

    def __init__(self, recorder: Recorder, rate_hz: float | None) -> None:
        self._recorder, self._rate_hz = recorder, rate_hz
        self._first_ns: int | None = None
        self._last: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None
        self._written = 0

    def show(self, picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], time_ns: int) -> None:
        """Holds the picture before until this one's time, then writes this one."""
        if self._rate_hz is not None and self._first_ns is not None and self._last is not None:
            due = round((time_ns - self._first_ns) / 1e9 * self._rate_hz)
            longest = round(LONGEST_HOLD_S * self._rate_hz)
            gap = due - self._written
            if not 0 <= gap <= longest:  # a clock that was set, or a long silence: begin to count from here
                gap = max(0, min(gap, longest))
                self._first_ns = time_ns - round((self._written + gap) / self._rate_hz * 1e9)
            for _ in range(gap):
                self._recorder.write(self._last)
            self._written += gap
        if self._first_ns is None:
            self._first_ns = time_ns
        self._recorder.write(picture)
        self._last = picture
        self._written += 1

    def close(self) -> None:
        self._recorder.close()
