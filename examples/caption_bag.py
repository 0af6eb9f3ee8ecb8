"""Captions every picture of a recorded bag, overnight say: kill it at any moment, start it again, and it goes on.

python examples/caption_bag.py samples/table captions.mcap [/camera/image/compressed]

Reads ROS 1 and ROS 2 bags and writes an MCAP bag of ROS 2 messages, without ROS. Beside the captions the objects are
detected; both share one encoding of each picture. The output is the same to the byte however often it was interrupted.
"""

from __future__ import annotations

import argparse
import signal
import time

from florence_edge import Florence
from florence_edge.errors import FlorenceError
from florence_edge.stream import Ask, StreamOptions, watch


def main() -> None:
    """Goes on where the output ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bag", help="a ROS 1 or ROS 2 bag")
    parser.add_argument("out", help="the MCAP bag to write")
    parser.add_argument("topic", nargs="?", help="the images' topic [the bag's only one]")
    given = parser.parse_args()

    source = f"bag://{given.bag}?topic={given.topic}" if given.topic else f"bag://{given.bag}"
    tasks = [Ask("caption"), Ask("detect", every=5)]

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C: with complete output
    with Florence.load("tabletop") as model:
        begun = time.monotonic()
        with watch(model, source, tasks, sinks=[f"bag://{given.out}"], options=StreamOptions(resume=True)) as events:
            try:
                for event in events:
                    said = event.frame.error or event.results.get("caption") or event.errors["caption"]
                    print(f"{event.frame.index:6}  {event.frame.time_ns / 1e9:.3f}  {said}", flush=True)
            except KeyboardInterrupt:
                print("stopped; the same command goes on from here")
        (count,) = events.counts.values()

    spent = time.monotonic() - begun
    print(f"{count.done} pictures in {spent:.1f} s, {count.failed} of them could not be answered: {given.out}")


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
