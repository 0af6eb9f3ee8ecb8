"""Labels a folder of pictures, or a video, to train a small detector on: a YOLO and a COCO data set side by side.

python examples/label_dataset.py samples/photos labelled [--min-score 0.5] [--classes "cup,red cube"]

Only what the model is sure enough of becomes a label. Scores are the decoder's token probabilities, which rank regions
but are no percentages: look at the list of kept labels, then choose the limit. Run it again and it goes on.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from florence_edge import Florence
from florence_edge.errors import FlorenceError
from florence_edge.stream import StreamOptions, watch


def main() -> None:
    """Labels what was not labelled before and counts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", help="a folder, a pattern, a list, a video or bag://...")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--min-score", type=float, default=0.5, metavar="X", help="least score of a label [0.5]")
    parser.add_argument("--classes", metavar="NAMES", help="class names with commas [every object the model knows]")
    parser.add_argument("--model", default="tabletop", help="a bundle folder or the name of a bundled model [tabletop]")
    given = parser.parse_args()

    task = ("detect", given.classes.split(",")) if given.classes else "detect"
    sinks = [f"{kind}://{given.out}/{kind}?min_score={given.min_score}" for kind in ("yolo", "coco")]
    with (
        Florence.load(given.model) as model,
        watch(model, given.source, [task], sinks=sinks, options=StreamOptions(resume=True)) as events,
    ):
        for event in events:
            for error in (event.frame.error, *event.errors.values()):
                if error is not None:
                    print(f"left out: {event.frame.name}: {error}")

    written = json.loads((given.out / "coco" / "annotations.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in written["categories"]}
    kept = Counter(names[row["category_id"]] for row in written["annotations"])
    print(f"{len(written['images'])} pictures, {kept.total()} labels with a score of at least {given.min_score}:")
    for name, number in kept.most_common():
        print(f"  {number:5}  {name}")
    print(f"{given.out}/yolo/data.yaml, {given.out}/coco/annotations.json")


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
