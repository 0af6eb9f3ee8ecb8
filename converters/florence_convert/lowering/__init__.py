"""From a bundle to the graphs that TensorRT engines are built from; docs/engines.md states their inputs and outputs.

Needs onnx and onnx_ir, no torch: engines are built on the device they run on.
"""

from .lower import lower
from .parts import PARTS, Buckets, Lowered, LoweredPart, PartName, Precision, Profile

__all__ = ["PARTS", "Buckets", "Lowered", "LoweredPart", "PartName", "Precision", "Profile", "lower"]
