"""How far a bundle may be from its reference, and the measurement that goes into its manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from florence_edge.bundle import Bundle
from florence_edge.errors import ParityError, listing
from florence_edge.manifest import Parity
from florence_edge.tokens import Tokens
from florence_train.model import FlorenceModel

from .comparison import CaseOptions, draw_cases, graph_errors, identical_ids
from .names import DECODER, ENCODER, VISION
from .sides import OnnxSide, Side, TorchSide

TOLERANCE: Mapping[str, float] = {VISION: 1e-4, ENCODER: 1e-3, DECODER: 1e-3}
"""Largest absolute difference allowed in features, cross-attention keys and values, and logits, all in fp32."""

ROUNDING = 2.0
"""How many times the reference's own rounding error is allowed where that is above the tolerance."""


def measure(model: FlorenceModel, bundle: Bundle, options: CaseOptions | None = None) -> Parity:
    """Compares a bundle with the torch model it was made from; raises `ParityError` where it is over tolerance."""
    reference = TorchSide(model, bundle.manifest.search, name=f"torch {torch.__version__}, fp32")
    parity = compare(reference, OnnxSide(bundle), bundle, options or CaseOptions())
    faults = parity_faults(parity)
    if faults:
        raise ParityError(
            listing(f"the converted graphs differ from {reference.name}; nothing was written. Measured:", faults)
        )
    return parity


def compare(
    reference: Side, candidate: Side, bundle: Bundle, options: CaseOptions, tolerance: Mapping[str, float] = TOLERANCE
) -> Parity:
    """The numbers of a comparison on inputs drawn for a bundle; an infinite error stands for a non-finite output.

    A graph that is over its tolerance is allowed `ROUNDING` times the error that the reference itself has against the
    same model in fp64, where that is more: what rounding does to a model is no fault of its conversion.
    """
    tokens = Tokens.load(bundle.tokenizer)
    cases = draw_cases(bundle.manifest.image, tokens, bundle.manifest.limits, options)
    errors, allowed = graph_errors(reference, candidate, cases, tokens), dict(tolerance)
    over = [graph for graph, error in errors.items() if error > allowed[graph]]
    exact = reference.exact() if over else None
    if exact is not None:
        rounding = graph_errors(exact, reference, cases, tokens)
        allowed.update({graph: max(allowed[graph], ROUNDING * rounding[graph]) for graph in over})
    return Parity(
        reference=reference.name,
        seed=options.seed,
        pairs=options.pairs,
        new_tokens=cases.new_tokens,
        max_abs_error=errors,
        tolerance=allowed,
        identical=identical_ids(reference, candidate, cases),
    )


def parity_faults(parity: Parity) -> list[str]:
    """What is over tolerance, in words."""
    faults = [
        f"{graph}: the largest error is {error:.3g}, allowed is {parity.tolerance[graph]:.3g}"
        for graph, error in parity.max_abs_error.items()
        if not (math.isfinite(error) and error <= parity.tolerance[graph])
    ]
    return faults + [
        f"{search}: {same} of {parity.pairs} answers have the same token ids"
        for search, same in parity.identical.items()
        if same != parity.pairs
    ]
