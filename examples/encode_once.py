"""Several questions about one picture: it is encoded once, every answer reuses that.

python examples/encode_once.py [IMAGE]
"""

from __future__ import annotations

import sys

from florence_edge import Florence

with Florence.load("tabletop") as model:
    image = sys.argv[1] if len(sys.argv) > 1 else model.bundle.folder / "demo.png"
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
    what = str(answer) if len(answer) == 1 else f"{len(answer)} regions"
    print(f"{answer.task:<24}{answer.timings_ms['search']:6.1f} ms  {what}")

found = answers[2]
found.draw(image).save("found.png")
print(f"{found.to_json()[:76]}...\ndrawn: found.png")
