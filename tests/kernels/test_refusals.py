"""Every launcher refuses what it does not support, says why, and touches nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.kernels import ROOT, Kernels, dims, structs

NULL, SHAPE, DTYPE, OPTION, MISALIGNED = 1, 2, 3, 4, 5

GOOD: dict[str, dict[str, Any]] = {
    "resize": {
        "in_height": 4, "in_width": 4, "row_stride": 12, "out_height": 2, "out_width": 2, "channel_order": 0,
        "dtype": 0, "mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0),
    },
    "window": {
        "batch": 1, "height": 12, "width": 12, "channels": 32, "heads": 1, "window": 12, "dtype": 0, "path": 0,
    },
    "channel": {"batch": 1, "tokens": 4, "channels": 32, "groups": 1, "dtype": 0, "path": 0},
    "self": {
        "batch": 1, "beams": 2, "heads": 1, "head_dim": 32, "max_length": 8, "row_stride": 32, "dtype": 0, "append": 0,
        "scale": 1.0,
    },
    "cross": {
        "batch": 1, "beams": 2, "heads": 1, "head_dim": 32, "source_length": 8, "row_stride": 32, "dtype": 0,
        "scale": 1.0,
    },
    "beam": {
        "batch": 1, "beams": 2, "vocab": 9, "max_length": 8, "capacity": 12, "dtype": 0, "start_token": 2,
        "eos_token": 2, "forced_bos_token": -1, "forced_eos_token": -1, "no_repeat_ngram": 0, "min_new_tokens": 0,
        "early_stopping": 0, "length_penalty": 1.0,
    },
}  # fmt: skip
# The launchers of each dims struct: name and number of pointers between dims and stream, which are all required but
# those at the places given.
OPS: dict[str, list[tuple[str, int, set[int]]]] = {
    "resize": [("florence_resize_normalize", 3, {2})],
    "window": [("florence_window_attention", 3, {1})],
    "channel": [("florence_channel_attention", 3, {2})],
    "self": [("florence_decoder_self_attention", 9, {7}), ("florence_kv_append", 6, {5})],
    "cross": [("florence_decoder_cross_attention", 7, {3, 4, 6})],
    "beam": [("florence_beam_begin", 2, set()), ("florence_beam_step", 5, {2, 4})],
}
BAD = [
    ("resize", {"in_height": 0}, SHAPE),
    ("resize", {"in_width": 70000, "row_stride": 210000}, SHAPE),
    ("resize", {"out_width": -1}, SHAPE),
    ("resize", {"row_stride": 11}, SHAPE),
    ("resize", {"channel_order": 2}, OPTION),
    ("resize", {"std": (1.0, 0.0, 1.0)}, OPTION),
    ("resize", {"mean": (float("nan"), 0.0, 0.0)}, OPTION),
    ("resize", {"dtype": 3}, DTYPE),
    ("window", {"batch": 0}, SHAPE),
    ("window", {"channels": 48}, SHAPE),
    ("window", {"channels": 64}, SHAPE),
    ("window", {"window": 13}, SHAPE),
    ("window", {"height": 50000, "width": 50000}, SHAPE),
    ("window", {"dtype": -1}, DTYPE),
    ("window", {"path": 3}, OPTION),
    ("window", {"path": 2}, OPTION),
    ("window", {"path": 2, "dtype": 1, "window": 7}, OPTION),
    ("channel", {"tokens": 0}, SHAPE),
    ("channel", {"groups": 2}, SHAPE),
    ("channel", {"dtype": 7}, DTYPE),
    ("channel", {"path": 2}, OPTION),
    ("self", {"beams": 9}, SHAPE),
    ("self", {"head_dim": 48, "row_stride": 48}, SHAPE),
    ("self", {"head_dim": 128, "row_stride": 128}, SHAPE),
    ("self", {"row_stride": 24}, SHAPE),
    ("self", {"row_stride": 36}, SHAPE),
    ("self", {"max_length": 5000}, SHAPE),
    ("self", {"append": 2}, OPTION),
    ("self", {"scale": float("inf")}, OPTION),
    ("self", {"dtype": 3}, DTYPE),
    ("cross", {"beams": 0}, SHAPE),
    ("cross", {"head_dim": 16, "row_stride": 16}, SHAPE),
    ("cross", {"source_length": 0}, SHAPE),
    ("cross", {"dtype": 3}, DTYPE),
    ("beam", {"beams": 9}, SHAPE),
    ("beam", {"vocab": 1}, SHAPE),
    ("beam", {"vocab": 200000}, SHAPE),
    ("beam", {"max_length": 1}, SHAPE),
    ("beam", {"max_length": 13}, SHAPE),
    ("beam", {"capacity": 4097}, SHAPE),
    ("beam", {"eos_token": 9}, OPTION),
    ("beam", {"start_token": -1}, OPTION),
    ("beam", {"forced_bos_token": 9}, OPTION),
    ("beam", {"forced_eos_token": -2}, OPTION),
    ("beam", {"no_repeat_ngram": -1}, OPTION),
    ("beam", {"min_new_tokens": 9}, OPTION),
    ("beam", {"early_stopping": 3}, OPTION),
    ("beam", {"length_penalty": float("nan")}, OPTION),
    ("beam", {"dtype": 3}, DTYPE),
]
SCRATCH = np.zeros(4096, np.uint8)
ALIGNED = int(SCRATCH.ctypes.data) + -int(SCRATCH.ctypes.data) % 256


@pytest.mark.parametrize(("struct", "changes", "status"), BAD, ids=str)
def test_bad_dims_are_refused(kernels: Kernels, struct: str, changes: dict[str, Any], status: int) -> None:
    given = dims(struct, **{**GOOD[struct], **changes})
    for op, pointers, _ in OPS[struct]:
        assert kernels.status(op, given, *[ALIGNED] * pointers, None) == status
        message = kernels.last_error()
        assert "allowed" in message or "not finite" in message


@pytest.mark.parametrize("struct", OPS)
def test_required_pointers_may_not_be_null(kernels: Kernels, struct: str) -> None:
    given = dims(struct, **GOOD[struct])
    for op, pointers, optional in OPS[struct]:
        assert kernels.status(op, None, *[ALIGNED] * pointers, None) == NULL
        for place in set(range(pointers)) - optional:
            arguments: list[Any] = [None if i == place else ALIGNED for i in range(pointers)]
            if struct == "beam" and place != 0:
                arguments[0] = structs()["florence_beam_state"]()
            assert kernels.status(op, given, *arguments, None) == NULL, (op, place)
            assert "NULL" in kernels.last_error()


def test_an_unbound_state_is_refused(kernels: Kernels) -> None:
    given, unbound = dims("beam", **GOOD["beam"]), structs()["florence_beam_state"]()
    assert kernels.status("florence_beam_begin", given, unbound, ALIGNED, None) == NULL
    assert kernels.status("florence_beam_step", given, unbound, ALIGNED, None, ALIGNED, ALIGNED, None) == NULL


def test_padding_needs_the_bias(kernels: Kernels) -> None:
    given = dims("window", **{**GOOD["window"], "height": 11})
    assert kernels.status("florence_window_attention", given, ALIGNED, None, ALIGNED, None) == NULL


@pytest.mark.parametrize("struct", ["resize", "window", "channel", "self", "cross"])
def test_device_launchers_refuse_misaligned_tensors(device: Kernels, struct: str) -> None:
    given = dims(struct, **GOOD[struct])
    for op, pointers, _ in OPS[struct]:
        arguments = [ALIGNED + 4] * pointers
        if struct == "self":
            arguments[-2] = ALIGNED
        assert device.status(op, given, *arguments, None) == MISALIGNED
        assert "16 bytes" in device.last_error()


@pytest.mark.parametrize("struct", ["resize", "channel", "cross"])
def test_device_launchers_need_their_workspace(device: Kernels, struct: str) -> None:
    op, pointers, _ = OPS[struct][0]
    assert device.status(op, dims(struct, **GOOD[struct]), *[ALIGNED] * (pointers - 1), None, None) == NULL
    assert "workspace" in device.last_error()


def test_sizes_of_refused_dims_are_zero(kernels: Kernels) -> None:
    for struct, function in [("beam", "florence_beam_state_size"), ("beam", "florence_beam_step_workspace")]:
        if kernels.suffix and function.endswith("workspace"):
            continue
        assert kernels.bytes_for(function, dims(struct, **{**GOOD[struct], "beams": 0})) == 0
        assert kernels.bytes_for(function, dims(struct, **GOOD[struct])) > 0


def test_the_library_has_the_version_of_the_project(twin: Kernels) -> None:
    namespace: dict[str, str] = {}
    exec((ROOT / "sdk" / "florence_edge" / "_version.py").read_text(), namespace)
    assert twin.library.florence_version().decode() == namespace["__version__"]


def test_every_status_has_a_text(twin: Kernels) -> None:
    texts = {twin.library.florence_status_string(status).decode() for status in range(8)}
    assert len(texts) == 8
    assert twin.library.florence_status_string(-5).decode() == "unknown status"
