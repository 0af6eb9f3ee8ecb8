"""Makes inputs for the other examples out of the picture that comes with the model: photos, a video and a bag.

python examples/make_samples.py [samples]

A camera pans over the table: `photos/*.png`, `clip.avi` (extra `video`) and `table/`, a ROS 2 bag (extra `bags`).
Pillow, OpenCV and rosbags write them, as a recorder would; florence-edge has no part in it.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge.errors import FlorenceError

SIDE, FRAMES, RATE_HZ = 560, 16, 10
START_NS = 1_750_000_000_000_000_000


def pan() -> list[Image.Image]:
    """Square views from the lower left to the upper right of the picture."""
    table = Image.open(Bundle.open("tabletop").folder / "demo.png").convert("RGB")
    room = min(table.size) - SIDE
    starts = np.linspace(0, room, FRAMES).round().astype(int).tolist()
    return [table.crop((start, room - start, start + SIDE, room - start + SIDE)) for start in starts]


def write_clip(path: Path, frames: list[Image.Image]) -> None:
    """A Motion JPEG video."""
    import cv2

    clip = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), RATE_HZ, (SIDE, SIDE))
    for frame in frames:
        clip.write(np.asarray(frame)[..., ::-1].copy())  # OpenCV has blue first
    clip.release()


def write_bag(path: Path, frames: list[Image.Image]) -> None:
    """A bag with one topic, /camera/image/compressed."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    image, header, time = (
        store.types[name]
        for name in ("sensor_msgs/msg/CompressedImage", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/camera/image/compressed", image.__msgtype__, typestore=store)
        for number, frame in enumerate(frames):
            time_ns = START_NS + number * 10**9 // RATE_HZ
            stamp = time(sec=time_ns // 10**9, nanosec=time_ns % 10**9)
            jpeg = BytesIO()
            frame.save(jpeg, format="JPEG", quality=95)
            data = np.frombuffer(jpeg.getvalue(), np.uint8)
            message = image(header=header(stamp=stamp, frame_id="camera"), format="jpeg", data=data)
            writer.write(topic, time_ns, store.serialize_cdr(message, image.__msgtype__))


def main() -> None:
    """Writes what is not there yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", nargs="?", type=Path, default=Path("samples"), help="folder to write [samples]")
    out = parser.parse_args().out
    (out / "photos").mkdir(parents=True, exist_ok=True)
    frames = pan()
    for number, frame in enumerate(frames[::2]):
        frame.save(out / "photos" / f"{number}.png")
    print(f"{out}/photos")
    for path, write in ((out / "clip.avi", write_clip), (out / "table", write_bag)):
        try:
            if not path.exists():
                write(path, frames)
            print(path)
        except ModuleNotFoundError as error:
            print(f"{path} is left out: {error}; see examples/README.md")


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
