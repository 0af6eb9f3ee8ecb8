"""Measures the kernels and the torch backend on a GPU: `PYTHONPATH=kernels python -m measure`."""
