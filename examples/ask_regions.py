"""Finds what a phrase means, then asks about every region that was found: what is it, and what is it like?

python examples/ask_regions.py ["the cyan cube"] [IMAGE]

Without a phrase the model describes the picture and its own words are looked for. The picture is encoded once; boxes go
from answer to question as they are, in pixels.
"""

from __future__ import annotations

import sys

from florence_edge import Florence

with Florence.load("tabletop") as model:
    phrase = sys.argv[1] if len(sys.argv) > 1 else ""
    image = sys.argv[2] if len(sys.argv) > 2 else model.bundle.folder / "demo.png"
    view = model.encode(image)

    phrase = phrase or model.caption(view).text
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
