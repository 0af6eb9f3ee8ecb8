"""Several questions about one picture: it is encoded once, every answer reuses that.

python examples/encode_once.py [IMAGE]
"""

from __future__ import annotations

import argparse

from florence_edge import Florence, Text
from florence_edge.errors import FlorenceError


def main() -> None:
    """Asks six questions and draws the objects."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image", nargs="?", help="[the picture that comes with the model]")
    given = parser.parse_args()

    with Florence.load("tabletop") as model:
        image = given.image or model.bundle.folder / "demo.png"
        view = model.encode(image)
        answers = [
            model.caption(view),
            model.caption(view, detail="paragraph"),
            model.detect(view),
            model.propose(view),
            model.describe_regions(view),
            model.read(view),
        ]

    print(f"encoded once: {view.timings_ms['preprocess'] + view.timings_ms['vision']:.1f} ms")
    for answer in answers:
        what = answer.text if isinstance(answer, Text) else f"{len(answer)} regions"
        print(f"{answer.task:<24}{answer.timings_ms['search']:6.1f} ms  {what}")

    found = answers[2]
    found.draw(image).save("found.png")
    print(f"{found.to_json()[:76]}...\ndrawn: found.png")


if __name__ == "__main__":
    try:
        main()
    except (FlorenceError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
