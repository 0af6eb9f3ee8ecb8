"""Where the tokens of an image lie in what is computed from them: the axis to cut along, operator by operator.

Shapes are those of one image, so that every size is a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import NamedTuple

import onnx_ir as ir

from florence_convert.products import numbers


class Laid(NamedTuple):
    """The shape of a value for one image, and the axis along which bands cut it; None where they do not."""

    shape: tuple[int, ...]
    axis: int | None


def laid_out(whole: ir.Value, nodes: Sequence[ir.Node], *, axis: int) -> dict[ir.Value, Laid]:
    """How `whole` and all that `nodes` compute of it lie when it is cut along `axis`; empty where it cannot be.

    A sum over what is cut is not cut itself: it is what the bands give, added.
    """
    sizes = list(whole.shape or ())[1:]
    if not all(isinstance(size, int) for size in sizes):
        return {}
    laid = {whole: Laid((1, *(int(size) for size in sizes)), axis)}  # type: ignore[arg-type]  # all are whole numbers
    for node in nodes:
        given = [_given(value, laid) for value in node.inputs if value is not None]
        rule = _RULES.get(node.op_type)
        found = rule(node, [one for one in given if one is not None]) if rule and None not in given else None
        if found is None:
            return {}
        laid[node.outputs[0]] = found
    return laid


def target_of(node: ir.Node) -> list[int]:
    """The shape that a Reshape makes, empty for anything else."""
    return numbers(node.inputs[1]) if node.op_type == "Reshape" else []


def _given(value: ir.Value, laid: Mapping[ir.Value, Laid]) -> Laid | None:
    """How an input lies: known already, or stored."""
    stored = value.const_value
    return laid.get(value) or (Laid(tuple(stored.shape.numpy()), None) if stored is not None else None)


def _elementwise(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    """One input may be cut; the others are stored: one number, or one for each entry of an axis that is not cut."""
    largest = max(given, key=lambda one: len(one.shape))
    others = [one for one in given if one is not largest]
    wide = 1 if largest.axis == len(largest.shape) - 1 else largest.shape[-1]
    return largest if all(one.axis is None and prod(one.shape) in (1, wide) for one in others) else None


def _softmax(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    last = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    return given[0] if given[0].axis != last % len(given[0].shape) else None


def _product(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    left, right = given[:2]
    last = len(left.shape) - 1
    shape = (*left.shape[:-1], right.shape[-1])
    if right.axis is None:
        return Laid(shape, left.axis) if left.axis != last else None
    if len(left.shape) != len(right.shape):
        return None
    if left.axis is None:
        return Laid(shape, last) if right.axis == last else None
    if left.axis == last:
        return Laid(shape, None) if right.axis == last - 1 else None
    return Laid(shape, left.axis) if left.axis == right.axis < last - 1 else None


def _reshape(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    """The axis stays where as many elements lie before it, and its size is what the target says it is."""
    (shape, axis), target = given[0], target_of(node)
    kept = "allowzero" not in node.attributes or node.attributes["allowzero"].as_int() == 0
    sizes = [shape[place] if size == 0 and kept else size for place, size in enumerate(target)]
    made = tuple(prod(shape) // -prod(sizes) if size == -1 else size for size in sizes)
    if axis is None:
        return Laid(made, None)
    before = [1, *accumulate(made, mul)]
    found = next((place for place, size in enumerate(made) if size > 1 and before[place] == prod(shape[:axis])), None)
    copied = [place for place, size in enumerate(target) if size == 0 and kept]
    if found is None or any((place == axis) != (place == found) for place in copied):
        return None
    return Laid(made, found)


def _transpose(node: ir.Node, given: Sequence[Laid]) -> Laid:
    shape, axis = given[0]
    order = list(node.attributes["perm"].as_ints())
    return Laid(tuple(shape[place] for place in order), None if axis is None else order.index(axis))


def _first(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    """One entry of the first axis, by Gather or, once a Slice has left one, by Squeeze."""
    shape, axis = given[0]
    gathers = node.op_type == "Gather"
    place = node.attributes["axis"].as_int() if gathers and "axis" in node.attributes else 0
    fits = not place and (given[1].shape == () if gathers else numbers(node.inputs[1]) == [0])
    return Laid(shape[1:], axis - 1) if fits and axis else None


def _slice(node: ir.Node, given: Sequence[Laid]) -> Laid | None:
    start, stop, axes = (numbers(value) for value in node.inputs[1:4])
    shape, axis = given[0]
    return Laid((1, *shape[1:]), axis) if axes == [0] and stop[0] == start[0] + 1 and axis else None


_RULES: Mapping[str, Callable[[ir.Node, Sequence[Laid]], Laid | None]] = {
    "Add": _elementwise,
    "Mul": _elementwise,
    "Gelu": _elementwise,
    "Softmax": _softmax,
    "MatMul": _product,
    "DynamicQuantizeMatMul": _product,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Gather": _first,
    "Squeeze": _first,
    "Slice": _slice,
}
