"""What can be said against a bundle of engines without a GPU: plans, sidecars and manifest that do not agree."""

from __future__ import annotations

from collections.abc import Iterator

from florence_edge.backends.tensorrt.sidecar import plan_version, read_sidecar
from florence_edge.bundle import Bundle
from florence_edge.errors import EngineFileError

from .engines import passes


def engine_faults(bundle: Bundle) -> Iterator[str]:
    """Faults of every engine of a bundle whose files are unaltered."""
    target = bundle.manifest.target
    for name, graph in bundle.manifest.graphs.items():
        path = bundle.path(graph.file)
        try:
            sidecar, version = read_sidecar(path), ".".join(map(str, plan_version(path)))
        except EngineFileError as error:
            yield str(error)
            continue
        if sidecar.part != name:
            yield f"{graph.file} is the {sidecar.part} engine"
        if sidecar.engine != bundle.manifest.files[graph.file]:
            yield f"{graph.file} is not the file that its sidecar describes"
        if not version.startswith(".".join(sidecar.machine.tensorrt.split(".")[:3])):
            yield f"{graph.file} was written by TensorRT {version}, its sidecar says {sidecar.machine.tensorrt}"
        here = sidecar.machine
        if target is not None and (target.gpu, target.sm, target.tensorrt) != (here.gpu, here.sm, here.tensorrt):
            yield f"{graph.file} was built for {here.gpu} and TensorRT {here.tensorrt}, the manifest says otherwise"
        if sidecar.gate is None:
            yield f"{graph.file} was never measured: its build was interrupted"
        elif not passes(sidecar.gate):
            yield f"{graph.file} has the error {sidecar.gate.error:.3g}, allowed is {sidecar.gate.tolerance:.3g}"
