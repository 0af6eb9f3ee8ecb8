"""The bundle of engines: plans with their sidecars, tokenizer, and a manifest that says what they were built for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from florence_convert.lowering import Buckets, Lowered, LoweredPart, PartName
from florence_edge.backends.tensorrt.sidecar import Sidecar
from florence_edge.bundle import Bundle, seal, staging
from florence_edge.loss import Loss
from florence_edge.manifest import Graph, Graphs, Manifest, Parity, Precision, Target

SUFFIX = ".engine"


def engine_name(part: str) -> str:
    """The file name of a part's engine."""
    return f"{part}{SUFFIX}"


def profile_sizes(part: LoweredPart, buckets: Buckets) -> tuple[dict[str, tuple[int, int]], ...]:
    """Per profile, the smallest and largest value of every size of the part's inputs, by its letter."""
    found = []
    for profile in part.profiles(buckets):
        sizes: dict[str, tuple[int, int]] = {}
        for tensor in part.inputs:
            least, _, most = profile.shapes[tensor.name]
            for axis, letter in enumerate(tensor.shape):
                if isinstance(letter, str):
                    sizes[letter] = (least[axis], most[axis])
        found.append(sizes)
    return tuple(found)


def write_bundle(
    source: Bundle,
    lowered: Lowered,
    engines: Mapping[PartName, tuple[Path, Sidecar]],
    out: Path,
    *,
    precision: Precision,
    overwrite: bool = False,
) -> Bundle:
    """Writes the bundle of engines that were built of `lowered`, itself made from `source`."""
    with staging(out, overwrite=overwrite) as folder:
        for name, (engine, sidecar) in engines.items():
            target = folder / engine_name(name)
            _place(engine, target)
            sidecar.save(target)
        shutil.copyfile(source.tokenizer, folder / source.manifest.tokenizer.file)
        seal(folder, _manifest(source.manifest, lowered, engines["decoder"][1], precision))
    return Bundle.open(out)


def record(bundle: Bundle, *, parity: Parity | None = None, loss: Loss | None = None) -> Bundle:
    """The same bundle with what was measured in its manifest."""
    manifest = bundle.manifest
    seal(bundle.folder, replace(manifest, parity=parity or manifest.parity, loss=loss or manifest.loss))
    return Bundle.open(bundle.folder)


def _manifest(source: Manifest, lowered: Lowered, sidecar: Sidecar, precision: Precision) -> Manifest:
    """The source's manifest with engines in place of graphs."""
    parts = {part.name: Graph(engine_name(part.name), part.inputs, part.outputs) for part in lowered.parts}
    machine = sidecar.machine
    return replace(
        source,
        precision=precision,
        graphs=Graphs(**parts),
        target=Target(machine.tensorrt, machine.gpu, machine.sm, sidecar.plugins.abi),
        parity=None,
        loss=None,
        files={},
    )


def _place(engine: Path, target: Path) -> None:
    """An engine at another name: the same file where the disk can do that, since engines are large."""
    try:
        os.link(engine, target)
    except OSError:
        shutil.copyfile(engine, target)
