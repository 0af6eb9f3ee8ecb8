"""The subcommands `convert`, `verify` and `pack` of `florence-edge`, and the way to `build`.

Only the command line lives here: each command is one call of the function that does the work, which is imported when
the command runs, so that `--help` need not load torch.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence_edge.cli import FAILED, UsageError
from florence_edge.cli.options import A_BUNDLE, add_json, positive
from florence_edge.cli.output import print_json, progress, table
from florence_edge.geometry import ImageSize
from florence_edge.units import size

from .build.command import register as register_build
from .loss_options import add_loss

if TYPE_CHECKING:
    from florence_edge.bundle import Bundle
    from florence_edge.manifest import Parity

    from .verify import VerifyReport

_SIZE = re.compile(r"(\d+)x(\d+)")
_CHECKS = 7  # what `verify` checks at most before it compares
_SHARES = 1000  # of the progress bar of `pack`


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands; this is the entry point."""
    convert = subparsers.add_parser(
        "convert",
        help="make an ONNX bundle of a checkpoint and measure its parity",
        description="Makes an ONNX bundle of a checkpoint; writes nothing when its answers differ from torch's.",
    )
    convert.add_argument(
        "checkpoint",
        metavar="FOLDER_OR_HUB_ID",
        help="a checkpoint folder, or owner/name on the hub; for int8 also a bundle",
    )
    convert.add_argument("out", metavar="OUT", help="the bundle folder to write")
    convert.add_argument(
        "--image-size", type=_image_size, metavar="HxW", help="height and width in pixels [the checkpoint's]"
    )
    convert.add_argument("--opset", type=int, default=20, metavar="N", help="ONNX opset, 18 to 20 [%(default)s]")
    convert.add_argument(
        "--storage",
        choices=("fp32", "fp16"),
        default="fp32",
        help="what weights are stored in [fp32]",
    )
    convert.add_argument(
        "--precision", choices=("fp32", "int8"), default="fp32", help="what products are computed in [fp32]"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace a bundle that is already at OUT")
    add_json(convert)
    group = add_loss(convert, title="int8", max_loss="mean drop of the metrics [0.02], or share of other tokens [0.1]")
    group.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="products that stay in fp32, as in 'vision.*'"
    )
    convert.set_defaults(run=run_convert)

    verify = subparsers.add_parser(
        "verify",
        help="check a bundle, by itself or against its source",
        description="Checks files, hashes and graphs of a bundle; with --against also that both give the same answers.",
    )
    verify.add_argument("bundle", metavar="BUNDLE", help=A_BUNDLE)
    verify.add_argument("--against", metavar="OTHER", help="a bundle, a checkpoint folder or a hub id to compare with")
    verify.add_argument(
        "--pairs", type=positive, default=4, metavar="N", help="image/prompt pairs compared [%(default)s]"
    )
    add_json(verify)
    verify.set_defaults(run=run_verify)

    pack = subparsers.add_parser(
        "pack",
        help="write a bundle to one file, to carry it to another machine",
        description="Checks every file of a bundle and writes them to one archive, which any tar program unpacks. The "
        "same bundle gives the same bytes.",
    )
    pack.add_argument("bundle", metavar="BUNDLE", help=A_BUNDLE)
    pack.add_argument("out", metavar="OUT", help="the archive to write: a name that ends in .tar or .tar.gz")
    pack.add_argument("--overwrite", action="store_true", help="replace a file that is already at OUT")
    add_json(pack)
    pack.set_defaults(run=run_pack)
    register_build(subparsers)


def run_convert(arguments: argparse.Namespace) -> int:
    """`florence-edge convert`."""
    bundle = _INTO[arguments.precision](arguments)
    if arguments.json:
        print_json({"bundle": str(bundle.folder), "manifest": bundle.manifest.to_dict()})
    else:
        print(_bundle_text(bundle))
    return 0


def _convert_fp32(arguments: argparse.Namespace) -> Bundle:
    from .export import STEPS, export_bundle

    if arguments.data or arguments.calibration or arguments.keep or arguments.max_loss is not None:
        raise UsageError("--data, --calibration, --keep and --max-loss belong to --precision int8")
    with progress(len(STEPS), "convert") as bar:
        return export_bundle(
            arguments.checkpoint,
            arguments.out,
            image_size=arguments.image_size,
            opset=arguments.opset,
            storage=arguments.storage,
            overwrite=arguments.overwrite,
            on_step=lambda step: bar.advance(note=step),
        )


def _convert_int8(arguments: argparse.Namespace) -> Bundle:
    from florence_edge.stream.pictures import expand

    from .quantise import Measure, QuantiseOptions, convert_int8
    from .quantise.checkpoint import STEPS

    pictures = tuple(map(str, expand(arguments.calibration))) if arguments.calibration else ()
    measure = Measure(arguments.data, pictures, arguments.limit)
    options = QuantiseOptions(measure, arguments.max_loss, tuple(arguments.keep))
    with progress(len(STEPS), "convert") as bar:
        return convert_int8(
            arguments.checkpoint,
            arguments.out,
            image_size=arguments.image_size,
            opset=arguments.opset,
            options=options,
            overwrite=arguments.overwrite,
            on_step=lambda step: bar.advance(note=step),
        )


_INTO: Mapping[str, Callable[[argparse.Namespace], Bundle]] = {"fp32": _convert_fp32, "int8": _convert_int8}


def run_verify(arguments: argparse.Namespace) -> int:
    """`florence-edge verify`; `FAILED` when anything is wrong or over tolerance."""
    from .comparison import CaseOptions
    from .verify import verify_bundle

    with progress(_CHECKS + (arguments.against is not None), "verify") as bar:
        report = verify_bundle(
            arguments.bundle,
            arguments.against,
            options=CaseOptions(pairs=arguments.pairs),
            on_step=lambda step: bar.advance(note=step),
        )
    if arguments.json:
        print_json(report.to_dict())
    else:
        print(_report_text(report))
    return 0 if report.ok else FAILED


def run_pack(arguments: argparse.Namespace) -> int:
    """`florence-edge pack`."""
    from florence_edge.bundle import Bundle, file_record, unpacking

    from .pack import left_out, pack

    with progress(_SHARES, "pack") as bar:
        told = 0

        def on_progress(share: float) -> None:
            nonlocal told
            steps = int(share * _SHARES) - told
            told += steps
            bar.advance(steps)

        archive = pack(arguments.bundle, arguments.out, overwrite=arguments.overwrite, on_progress=on_progress)
    bundle, record = Bundle.open(arguments.bundle, verify="size"), file_record(archive)
    found = {
        "archive": str(archive),
        "bytes": record.bytes,
        "sha256": record.sha256,
        "folder": bundle.folder.name,
        "left_out": left_out(bundle),
        "unpack": unpacking(archive.name),
    }
    if arguments.json:
        print_json(found)
    else:
        print(_pack_text(archive, bundle, found))
    return 0


def _image_size(text: str) -> ImageSize:
    """`HxW` as a size."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write height x width in pixels, as in 768x768")
    return ImageSize(width=int(found[2]), height=int(found[1]))


def _bundle_text(bundle: Bundle) -> str:
    """What was written, and its parity."""
    rows = [(name, size(record.bytes)) for name, record in bundle.manifest.files.items()]
    parity, loss = bundle.manifest.parity, bundle.manifest.loss
    parts = [f"wrote {bundle.folder}", table(rows, right=[1])]
    if parity is not None:
        parts.append(_parity_text(parity))
    if loss is not None:
        parts.append(f"lost {loss.summary()}")
    return "\n\n".join(parts)


def _pack_text(archive: Path, bundle: Bundle, found: Mapping[str, Any]) -> str:
    """What was written, for which machine, without what, and how to unpack it there."""
    rows = [("size", size(found["bytes"])), ("sha256", found["sha256"])]
    target = bundle.manifest.target
    if target is not None:
        rows.append(("only for", f"{target.gpu} (sm_{target.sm}), TensorRT {target.tensorrt}"))
    rows += [("left out", f"{name}: the manifest does not list it") for name in found["left_out"]]
    check = f"florence-edge info {shlex.quote('./' + bundle.folder.name)}"
    return "\n\n".join([f"wrote {archive}", table(rows), f"there: {found['unpack']} && {check}"])


def _report_text(report: VerifyReport) -> str:
    """The checks, their faults and the comparison."""
    rows = [(check.name, "ok" if check.ok else "WRONG") for check in report.checks]
    faults = [f"{check.name}: {fault}" for check in report.checks for fault in check.faults]
    parts = [report.bundle, table(rows, header=("check", "")), *faults]
    if report.comparison is not None:
        parts.append(_parity_text(report.comparison))
    return "\n\n".join(parts)


def _parity_text(parity: Parity) -> str:
    """Errors per graph and identical answers per search setting."""
    rows = [
        (f"largest error, {graph}", f"{error:.2e}", f"{parity.tolerance[graph]:.0e}")
        for graph, error in parity.max_abs_error.items()
    ]
    rows += [
        (f"identical ids, {search}", f"{same} of {parity.pairs}", "all") for search, same in parity.identical.items()
    ]
    return table(rows, header=(f"against {parity.reference}", "measured", "allowed"), right=[1, 2])
