"""Writes a bag with ROS 1's own rosbag, and what its cv_bridge makes of the images; run by a Python that has both.

/usr/bin/python3 tests/support/noetic_bag.py BAG ANSWERS.npz
"""

from __future__ import annotations

import sys

import numpy as np
import rosbag  # type: ignore[import-not-found]  # of the system's Python, where ROS 1 is installed
import rospy  # type: ignore[import-not-found]
from cv_bridge import CvBridge  # type: ignore[import-not-found]
from sensor_msgs.msg import Image  # type: ignore[import-not-found]

WIDTH, HEIGHT = 24, 16
ENCODINGS = {
    "rgb8": 3,
    "bgr8": 3,
    "rgba8": 4,
    "bgra8": 4,
    "mono8": 1,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "yuv422": 2,
    "mono16": 2,
    "rgb16": 6,
}
"""Encodings that this generation's cv_bridge converts, with their bytes per pixel."""


def main(path: str, answers: str) -> None:
    random, bridge, converted = np.random.default_rng(1), CvBridge(), {}
    with rosbag.Bag(path, "w", compression="bz2") as bag:
        for index, (encoding, size) in enumerate(ENCODINGS.items()):
            message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=WIDTH * size)
            message.header.stamp, message.header.frame_id = rospy.Time(100 + index, 7), "optical"
            message.data = random.integers(0, 256, HEIGHT * WIDTH * size, dtype=np.uint8).tobytes()
            bag.write("/camera", message, rospy.Time(200 + index))
            converted[encoding] = bridge.imgmsg_to_cv2(message, "rgb8")
        blurred = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[:, :, None] * [1, 3, 5]
        compressed = bridge.cv2_to_compressed_imgmsg(blurred.astype(np.uint8))
        bag.write("/compressed", compressed, rospy.Time(300))
        converted["compressed"] = bridge.compressed_imgmsg_to_cv2(compressed, "rgb8")
    np.savez(answers, **converted)


if __name__ == "__main__":
    main(*sys.argv[1:])
