"""Inference on the device alone: the project's kernels as torch operators, and a search loop that the host only starts.

`device` is the way in. What computes a step (`operators`: the native kernels; `composition`: torch itself) is one
choice, how a search runs (`decoding`, `recording`) does not depend on it.
"""
