"""From a checkpoint, or a bundle that is already there, to an INT8 bundle in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence_convert.export import OPSETS, export_bundle
from florence_convert.export import STEPS as EXPORT_STEPS
from florence_edge.bundle import MANIFEST, Bundle, bundled_names, check_target
from florence_edge.geometry import ImageSize

from .bundle import STEPS as QUANTISE_STEPS
from .bundle import QuantiseOptions, quantise_bundle

STEPS = (*EXPORT_STEPS, *QUANTISE_STEPS)
"""What `convert_int8` reports as finished, in this order; of a bundle only the last ones."""


def convert_int8(
    source: str | Path,
    out: str | Path,
    *,
    image_size: ImageSize | None = None,
    opset: int = OPSETS[-1],
    options: QuantiseOptions | None = None,
    overwrite: bool = False,
    on_step: Callable[[str], Any] = lambda step: None,
) -> Bundle:
    """Quantises a checkpoint folder, a hub id, or an fp32 bundle (a folder or a bundled name) into the folder `out`.

    A checkpoint is converted to fp32 beside `out` first, parity with torch included; `image_size` and `opset` are of
    that conversion and of no use for a bundle. Raises what `export_bundle` and `quantise_bundle` raise.
    """
    if (Path(source) / MANIFEST).is_file() or str(source) in bundled_names():
        return quantise_bundle(source, out, options=options, overwrite=overwrite, on_step=on_step)
    check_target(out, overwrite=overwrite)
    parent = Path(out).expanduser().absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{Path(out).name}.", dir=parent) as scratch:
        whole = export_bundle(source, Path(scratch) / "fp32", image_size=image_size, opset=opset, on_step=on_step)
        return quantise_bundle(whole, out, options=options, overwrite=overwrite, on_step=on_step)
