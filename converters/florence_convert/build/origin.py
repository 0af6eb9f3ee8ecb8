"""What a lowered graph is, wherever its weights lie: the key by which an engine of it is found again.

All parts share one weight file, where the offsets of one change with the others: neither they nor its name count.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from florence_edge.backends.tensorrt.sidecar import Origin


def origin_of(graph: Path) -> Origin:
    """Digests of a graph without its weights, and of the weights that it uses, in its order."""
    model = onnx.load(str(graph), load_external_data=False)
    weights = hashlib.sha256()
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            continue
        with (graph.parent / place["location"]).open("rb") as stream:
            stream.seek(int(place.get("offset", 0)))
            weights.update(stream.read(int(place["length"])))
        del tensor.external_data[:]
    return Origin(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(), weights.hexdigest())
