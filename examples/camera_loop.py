"""A camera loop with OpenCV: the newest frame, what is in it, how old the answer is, on the screen or in a video.

python examples/camera_loop.py [v4l2://0 | rtsp://... | samples/clip.avi] [--show] [--out seen.avi] [--duration 10]

`watch` captures and resizes in threads of its own, so the loop never sees a stale frame of a camera; of a file it sees
every frame. Press q or Ctrl-C to end it.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from florence_edge import Detections, Florence
from florence_edge.errors import FlorenceError
from florence_edge.stream import StreamOptions, watch


def main() -> None:
    """Follows the camera until it ends, or somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", nargs="?", default="v4l2://0", help="a camera or a video [v4l2://0]")
    parser.add_argument("--show", action="store_true", help="open a window")
    parser.add_argument("--out", metavar="AVI", help="write an AVI of what the window shows")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    given = parser.parse_args()

    writer = None
    with (
        Florence.load("tabletop") as model,
        watch(model, given.source, ["detect"], options=StreamOptions(duration_s=given.duration)) as events,
    ):
        for event in events:
            found = event.results.get("detect")
            if not isinstance(found, Detections):
                print(f"frame {event.frame.index}: {event.frame.error or event.errors['detect']}")
                continue
            age = f"{event.age_ms:.0f} ms old, {event.dropped} dropped"
            print(f"frame {event.frame.index}: {', '.join(found.labels)}  {age}")
            picture = np.asarray(found.draw(event.frame.image))[..., ::-1].copy()  # OpenCV has blue first
            if given.out:
                size = (picture.shape[1], picture.shape[0])
                writer = writer or cv2.VideoWriter(given.out, cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
                writer.write(picture)
            if given.show:
                cv2.imshow("florence-edge", picture)
                if cv2.waitKey(1) == ord("q"):
                    break

    if writer is not None:
        writer.release()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
