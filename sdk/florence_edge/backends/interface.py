"""Whether graphs as an engine has opened them are those that the manifest of their bundle describes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError, listing
from florence_edge.manifest import Graph, Tensor


def check_interfaces(bundle: Bundle, opened: Iterable[Graph]) -> None:
    """Raises `BundleError` where inputs or outputs of graphs of a bundle are others than its manifest says."""
    stated = {graph.file: graph for _, graph in bundle.manifest.graphs.items()}
    faults = [fault for graph in opened for fault in interface_faults(graph, stated[graph.file])]
    if faults:
        raise BundleError(listing(f"the graphs of {bundle.folder} are not those of its manifest:", faults))


def interface_faults(found: Graph, stated: Graph) -> list[str]:
    """How inputs and outputs of a graph differ from those stated, but for the names of dynamic sizes."""
    faults = []
    for kind in ("inputs", "outputs"):
        here, there = (
            {_signature(tensor): f"{tensor.name} {tensor}" for tensor in getattr(graph, kind)}
            for graph in (found, stated)
        )
        if here.keys() != there.keys():
            ours, theirs = (
                ", ".join(a[key] for key in a if key not in b) or "no others" for a, b in ((here, there), (there, here))
            )
            faults.append(f"{stated.file}: its {kind} are {ours}; the manifest says {theirs}")
    return faults


def _signature(tensor: Tensor) -> Hashable:
    return tensor.name, tensor.dtype, tuple(size if isinstance(size, int) else None for size in tensor.shape)
