"""Measures Florence-2 on the machine at hand: stages, scenarios, a camera, memory, energy, growth, and rivals.

`run_benchmark` (in `bench`) is the one call behind `florence-edge bench`. This package imports the SDK only; a rival's
library is imported by the one module under `contenders` that runs it.
"""
