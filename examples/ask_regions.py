"""Finds what a phrase means, then asks about every region that was found: what is it, and what is it like?

python examples/ask_regions.py ["the cyan cube"] [IMAGE]

Without a phrase the model describes the picture and its own words are looked for. The picture is encoded once; boxes go
from answer to question as they are, in pixels.
"""

from __future__ import annotations

import argparse

from florence_edge import Florence
from florence_edge.errors import FlorenceError


def main() -> None:
    """Prints what was found and what the model says of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phrase", nargs="?", help="[what the model says of the picture]")
    parser.add_argument("image", nargs="?", help="[the picture that comes with the model]")
    given = parser.parse_args()

    with Florence.load("tabletop") as model:
        view = model.encode(given.image or model.bundle.folder / "demo.png")
        phrase = given.phrase or model.caption(view).text
        found = model.ground(view, phrase)
        if not len(found):
            print(f"nothing in the picture was found to be {phrase!r}; asking about every object instead")
            found = model.detect(view)

        for label, score, box in zip(found.labels, found.scores, found.boxes, strict=True):
            category = model.classify_region(view, box)
            description = model.describe_region(view, box)
            left, top, right, bottom = (round(float(side)) for side in box)
            print(f"{label} ({score:.2f}) at {left},{top} to {right},{bottom}")
            print(f"    category     {category} ({category.score:.2f})")
            print(f"    description  {description} ({description.score:.2f})")


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
