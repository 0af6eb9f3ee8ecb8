"""Verification of a bundle: of itself, or against the checkpoint or the bundle it should agree with.

By itself: file hashes, the ONNX checker, tensors inside the weight file, inputs and outputs as the manifest says,
sessions that open and give finite numbers, and stored parity numbers within their tolerance. Against something else:
the largest error of every graph and the token ids, as `parity` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from florence_edge.bundle import MANIFEST, Bundle, bundled_names
from florence_edge.codec import Codec
from florence_edge.errors import BackendError, BundleError, InputError, first_line, listing
from florence_edge.geometry import ImageSize
from florence_edge.loss import Loss
from florence_edge.manifest import Graph, Parity
from florence_edge.tokens import Tokens
from florence_train.checkpoint import load_checkpoint
from florence_train.generation import read_generation

from .build.faults import engine_faults
from .comparison import CaseOptions, draw_cases, graph_errors, table_differences
from .hub import locate
from .parity import compare, parity_faults
from .sides import OnnxSide, Side, TorchSide
from .sizes import resized


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `faults` is empty when it holds."""

    name: str
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return not self.faults


@dataclass(frozen=True)
class VerifyReport:
    """What was found: the checks of the bundle itself and, with a reference, the comparison."""

    bundle: str
    checks: tuple[Check, ...]
    comparison: Parity | None = None

    @property
    def ok(self) -> bool:
        """Whether every check holds and nothing is over tolerance."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite error (a non-finite output) becomes null."""
        comparison = asdict(self.comparison) if self.comparison else None
        if comparison is not None:
            errors: Mapping[str, float] = comparison["max_abs_error"]
            comparison["max_abs_error"] = {k: v if math.isfinite(v) else None for k, v in errors.items()}
        checks = [{"name": check.name, "ok": check.ok, "faults": list(check.faults)} for check in self.checks]
        return {"bundle": self.bundle, "ok": self.ok, "checks": checks, "comparison": comparison}


def verify_bundle(
    bundle: str | Path,
    against: str | Path | None = None,
    *,
    options: CaseOptions | None = None,
    on_step: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Verifies a bundle (a folder or a bundled name), and compares it with `against` where that is given.

    `against` is a bundle, a checkpoint folder or a hub id. `on_step` is called with the name of every finished check.
    Raises `BundleError` when the bundle cannot be opened at all, `CheckpointError` when the reference cannot, and
    `InputError` when the two have different inputs or outputs; everything else is in the report.
    """
    done = on_step or (lambda step: None)
    opened = Bundle.open(bundle)
    checks = []
    for check in _checks(opened):
        checks.append(check)
        done(check.name)
    comparison = None
    if against is not None and all(check.ok for check in checks):
        comparison = _compare(opened, against, options or CaseOptions())
        checks.append(Check("comparison", tuple(parity_faults(comparison))))
        done("comparison")
    return VerifyReport(str(opened.folder), tuple(checks), comparison)


def _checks(bundle: Bundle) -> Iterator[Check]:
    """The checks that need no reference, each only where those before it leave something to look at."""
    yield Check("files", ())  # `Bundle.open` raises for any missing, altered or straying file
    if bundle.manifest.target is not None:
        yield Check("engines", tuple(engine_faults(bundle)))
        return
    faults = tuple(fault for _, graph in bundle.manifest.graphs.items() for fault in _model_faults(bundle, graph))
    yield Check("onnx", faults)
    yield Check("tokenizer", tuple(_tokenizer_faults(bundle)))
    side = OnnxSide(bundle)
    try:
        interface = tuple(side.interface_faults())
    except BackendError as error:
        yield Check("sessions", (str(error),))
        return
    yield Check("sessions", ())
    yield Check("interface", interface)
    yield Check("finite", tuple(_finite_faults(bundle, side)))
    if bundle.manifest.parity is not None:
        yield Check("stored parity", tuple(parity_faults(bundle.manifest.parity)))
    if bundle.manifest.loss is not None:
        yield Check("stored loss", tuple(_loss_faults(bundle.manifest.loss)))


def _model_faults(bundle: Bundle, graph: Graph) -> Iterator[str]:
    """What the ONNX checker says of a graph, and tensors that lie outside the files the manifest lists."""
    path = bundle.path(graph.file)
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the checker's and the protobuf runtime's exceptions have no common base
        yield f"{graph.file}: {first_line(error)}"
        return
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if not place:
            continue
        record = bundle.manifest.files.get(place["location"])
        end = int(place.get("offset", 0)) + int(place.get("length", 0))
        if record is None:
            yield f"{graph.file}: {tensor.name} lies in {place['location']}, which the manifest does not list"
        elif end > record.bytes:
            yield f"{graph.file}: {tensor.name} ends at byte {end} of {place['location']}, which has {record.bytes}"


def _tokenizer_faults(bundle: Bundle) -> Iterator[str]:
    """Whether the tokenizer can be read and gives the ids that the manifest says."""
    try:
        Codec.open(bundle)
    except BundleError as error:
        yield str(error)


def _finite_faults(bundle: Bundle, side: Side) -> Iterator[str]:
    """Graphs that give NaN or infinity on seeded inputs."""
    tokens = Tokens.load(bundle.tokenizer)
    cases = draw_cases(bundle.manifest.image, tokens, bundle.manifest.limits, CaseOptions(pairs=2, images=1))
    for graph, error in graph_errors(side, side, cases, tokens).items():
        if not math.isfinite(error):
            yield f"{graph}: its outputs are not finite"


def _loss_faults(loss: Loss) -> Iterator[str]:
    """Whether a quantised bundle lost more than it was allowed to."""
    if not loss.lost <= loss.allowed:
        yield f"{loss.summary()}; allowed are {100 * loss.allowed:g} of 100"


def _compare(bundle: Bundle, against: str | Path, options: CaseOptions) -> Parity:
    """The comparison with another bundle or a checkpoint."""
    if bundle.manifest.loss is not None:
        raise InputError(
            f"{bundle.folder} is in {bundle.manifest.precision}, which no reference equals within rounding; what it "
            f"lost was measured when it was made: {bundle.manifest.loss.summary()}"
        )
    reference = _reference(bundle, against)
    differences = table_differences(reference.tables, bundle.manifest.graphs)
    if differences:
        raise InputError(listing(f"{bundle.folder} and {against} cannot be compared on the same inputs:", differences))
    return compare(reference, OnnxSide(bundle), bundle, options)


def _reference(bundle: Bundle, against: str | Path) -> Side:
    """What the bundle is compared with; a checkpoint takes the bundle's image size."""
    if (Path(against) / MANIFEST).is_file() or str(against) in bundled_names():
        return OnnxSide(Bundle.open(against))
    folder, name = locate(against)
    model, config = load_checkpoint(folder)
    size = ImageSize(width=bundle.manifest.image.width, height=bundle.manifest.image.height)
    model.config = resized(config, size, Tokens.load(bundle.tokenizer))
    return TorchSide(model, read_generation(folder), name=f"{name} in torch")
