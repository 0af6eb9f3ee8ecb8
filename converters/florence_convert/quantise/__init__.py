"""INT8 bundles for the CPU: an fp32 bundle in, a quarter of its size out, with what that cost measured and written in.

Which operator a graph gets was decided by measuring (docs/performance.md): `products` says what each is good for.
"""

from __future__ import annotations

from .bundle import QuantiseOptions, quantise_bundle
from .checkpoint import convert_int8
from .loss import Measure

__all__ = ["Measure", "QuantiseOptions", "convert_int8", "quantise_bundle"]
