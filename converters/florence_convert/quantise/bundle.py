"""From an fp32 bundle to an INT8 one: rewrite the graphs, write the weights, measure the loss, refuse or seal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from florence_convert.lowering.cut import expand_stored
from florence_convert.names import DECODER, EMBEDDING, ENCODER, VISION
from florence_convert.products import products
from florence_convert.storage import store_half
from florence_convert.tower.bands import cut_into_bands
from florence_convert.tower.heads import separate_heads
from florence_convert.tower.layout import move_transposes
from florence_convert.tower.plain import PLAIN, load_plain
from florence_convert.weights import WEIGHTS, save_models
from florence_edge.bundle import MANIFEST, Bundle, check_target, seal, staging
from florence_edge.errors import InputError, ParityError, listing
from florence_edge.loss import Loss
from florence_edge.manifest import REVISION

from .embedding import quantise_embedding
from .loss import MAX_LOSS, Measure, measure
from .products import Scheme, blockwise, dynamic
from .products import replace as put

STEPS = ("graphs", "weights", "loss")
"""What `quantise_bundle` reports as finished, in this order."""

SCHEMES: Mapping[str, Scheme] = {VISION: dynamic, ENCODER: blockwise, DECODER: blockwise}
"""What each graph's products become: images come one at a time, prompts and beams in batches."""


@dataclass(frozen=True)
class QuantiseOptions:
    """How to quantise.

    `measure` says what the loss is measured on, `max_loss` how large it may be: the mean drop of the tasks' metrics as
    a fraction, or without annotated data the share of tokens that differ (None: `MAX_LOSS`). Products whose name
    matches one of the patterns `keep` (as in `vision.stages.3.*`) stay in fp32.
    """

    measure: Measure = field(default_factory=Measure)
    max_loss: float | None = None
    keep: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.max_loss is not None and not 0 <= self.max_loss <= 1:
            raise InputError(f"max_loss is {self.max_loss}; it must be a fraction, 0 to 1")


def quantise_bundle(
    source: str | Path | Bundle,
    out: str | Path,
    *,
    options: QuantiseOptions | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], Any] = lambda step: None,
) -> Bundle:
    """Writes an INT8 copy of an fp32 bundle to the folder `out`.

    Raises `InputError` for a bundle that is not fp32 or a pattern of `keep` that matches nothing, and `ParityError`
    with all numbers where more than `max_loss` would be lost; `out` is then left as it was.
    """
    options = options or QuantiseOptions()
    check_target(out, overwrite=overwrite)
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    manifest = bundle.manifest
    if manifest.precision != "fp32":
        raise InputError(f"{bundle.folder} is in {manifest.precision}; an INT8 bundle is made of one in fp32")
    with staging(out, overwrite=overwrite) as target:
        models = _quantised(bundle, options.keep)
        on_step(STEPS[0])
        save_models(target, models)
        _copy_others(bundle, target)
        changed = replace(manifest, precision="int8", storage="int8", parity=None, loss=None, revision=REVISION)
        seal(target, changed)
        on_step(STEPS[1])
        allowed = MAX_LOSS[bool(options.measure.data)] if options.max_loss is None else options.max_loss
        loss = measure(bundle, Bundle.open(target, verify="size"), options.measure, allowed=allowed)
        if loss.lost > allowed:
            raise ParityError(_refusal(loss))
        seal(target, replace(changed, loss=loss))
        on_step(STEPS[2])
    return Bundle.open(out, verify="size")


def _quantised(bundle: Bundle, keep: Sequence[str]) -> list[tuple[str, ir.Model]]:
    """The three graphs, rewritten, by file name."""
    models, unused = [], set(keep)
    for name, graph in bundle.manifest.graphs.items():
        model = load_plain(bundle, name)
        expand_stored(model.graph)
        separate_heads(model.graph)
        RemoveUnusedNodesPass()(model)
        for product in products(model.graph):
            patterns = {pattern for pattern in keep if fnmatchcase(product.node.name or "", pattern)}
            unused -= patterns
            node = None if patterns else SCHEMES[name](model.graph, product)
            if node is not None:
                put(model.graph, product, node)
        move_transposes(model.graph)
        cut_into_bands(model.graph)
        table = model.graph.initializers.get(EMBEDDING)
        if table is not None:
            quantise_embedding(model.graph, table)
        if bundle.manifest.storage == "fp16":
            store_half(model.graph)
        models.append((graph.file, model))
    if unused:
        raise InputError(
            f"no product has a name like {', '.join(sorted(unused))}; names are those of the graph's nodes"
        )
    return models


def _copy_others(bundle: Bundle, target: Path) -> None:
    """Everything but graphs, weights and manifest: tokenizer, licence, card, picture."""
    replaced = {graph.file for _, graph in bundle.manifest.graphs.items()} | {PLAIN, WEIGHTS, MANIFEST}
    for name in bundle.manifest.files:
        if name not in replaced:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), target / name)


def _refusal(loss: Loss) -> str:
    title = (
        f"INT8 loses {100 * loss.lost:.2f} of 100, allowed are {100 * loss.allowed:.2f}; nothing was written. Keep "
        "what hurts in fp32 (--keep 'vision.*'), or allow more (--max-loss). Measured:"
    )
    rows = [f"{name}: {before} in fp32, {after} in INT8, {lost} lost" for name, before, after, lost in loss.rows()]
    return listing(title, [*rows, loss.summary()])
