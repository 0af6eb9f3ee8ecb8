"""`florence-edge build`: the command line of `pipeline.build_bundle`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from florence_convert.loss_options import add_loss
from florence_edge.bundle import Bundle, bundled_names, find
from florence_edge.cli.options import add_json, add_out
from florence_edge.cli.output import print_json, progress, table
from florence_edge.units import size

from .settings import PRECISIONS, BuildOptions

if TYPE_CHECKING:
    from florence_edge.backends.tensorrt.sidecar import Sidecar

_SHARES = 1000  # of the progress bar


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "build",
        help="build TensorRT engines of an ONNX bundle, for this machine",
        description="Builds engines, measures each against the bundle, and writes a bundle of them. An engine runs on "
        "the GPU and the TensorRT that built it alone. After an interruption the same command goes on.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="an ONNX bundle: a folder or the name of a bundled model")
    add_out(parser, "--output", what="the bundle to write [BUNDLE-PRECISION beside it]")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="what engines compute in [fp16]")
    parser.add_argument("--batch", type=_numbers, default=(1,), metavar="N,N", help="image batches to build for [1]")
    parser.add_argument("--beams", type=_numbers, metavar="N,N", help="numbers of beams [1 and the bundle's own]")
    parser.add_argument("--low-memory", action="store_true", help="for boards with 8 GB: less memory, simpler tactics")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle that is already there")
    parser.add_argument("--fresh", action="store_true", help="forget engines that an interrupted build left")
    add_json(parser)
    add_loss(parser, title="accuracy", max_loss=f"largest mean drop of the metrics [{BuildOptions.max_loss}]")
    parser.set_defaults(run=run, max_loss=BuildOptions.max_loss)


def run(arguments: argparse.Namespace) -> int:
    """Builds, and prints every engine with its size, time and error."""
    from .pipeline import build_bundle

    options = BuildOptions(
        precision=arguments.precision,
        batches=arguments.batch,
        beams=arguments.beams,
        calibration=tuple(arguments.calibration),
        low_memory=arguments.low_memory,
        overwrite=arguments.overwrite,
        fresh=arguments.fresh,
        data=arguments.data,
        limit=arguments.limit,
        max_loss=arguments.max_loss,
    )
    out = arguments.out or default_output(arguments.bundle, arguments.precision)
    with progress(_SHARES, "build") as bar:
        told = 0

        def on_progress(share: float, note: str) -> None:
            nonlocal told
            steps = round(share * _SHARES) - told
            # A fallback to fp32 builds some engines again: the bar waits for what was done before.
            told += max(steps, 0)
            bar.advance(max(steps, 0), note)

        bundle = build_bundle(arguments.bundle, out, options, on_progress=on_progress)
    sidecars = read_sidecars(bundle)
    if arguments.json:
        manifest = bundle.manifest.to_dict()
        print_json({"bundle": str(bundle.folder), "manifest": manifest, "engines": [asdict(one) for one in sidecars]})
    else:
        print(_text(bundle, sidecars))
    return 0


def default_output(source: str, precision: str) -> Path:
    """`models/base-fp16` for `models/base`; a bundled model's engines go to the folder one is in."""
    folder = find(source)
    name = f"{folder.name}-{precision}"
    return Path(name) if source in bundled_names() else folder.with_name(name)


def read_sidecars(bundle: Bundle) -> list[Sidecar]:
    """The sidecars of a bundle's engines, in the order they run."""
    from florence_edge.backends.tensorrt.sidecar import read_sidecar

    return [read_sidecar(bundle.path(graph.file)) for _, graph in bundle.manifest.graphs.items()]


def _text(bundle: Bundle, sidecars: Sequence[Sidecar]) -> str:
    """What was built, how exact it is, and how many answers are the same."""
    rows = [
        (
            one.part,
            one.precision,
            size(one.engine.bytes),
            f"{one.seconds:.0f} s",
            f"{one.gate.error:.2e}" if one.gate else "",
            f"{one.gate.tolerance:.2e}" if one.gate else "",
        )
        for one in sidecars
    ]
    header = ("engine", "precision", "size", "built in", "largest error", "allowed")
    parts = [f"wrote {bundle.folder}", table(rows, header=header, right=[2, 3, 4, 5])]
    parity = bundle.manifest.parity
    if parity is not None:
        equal = [f"{same} of {parity.pairs} ({name})" for name, same in parity.identical.items()]
        parts.append(f"answers with the same token ids: {', '.join(equal)}")
    if bundle.manifest.loss is not None:
        parts.append(f"lost {bundle.manifest.loss.summary()}")
    return "\n".join(parts)


def _numbers(text: str) -> tuple[int, ...]:
    """`1,2,4` in ascending order."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers; write them with commas, as in 1,2,4") from error
