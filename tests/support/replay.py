"""A CUDA graph without CUDA: work is recorded as the list of its operators and replayed without any of its Python.

Like a graph, a replay reads and writes the tensors of the recording, whatever Python would do now; and as in a graph,
nothing may be asked of the device. What only a GPU can show (streams, allocators, libraries) stays open.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from florence_train.kernels.recording import WARM_UPS

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero", "item", "bincount")
"""Operators whose result the host must read, or whose shape depends on values: they end a CUDA graph's recording."""


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor | None]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in WAITS, f"{func} makes the host wait for the device"
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if name in ("index", "index_put", "index_put_"):
            assert all(t.dtype != torch.bool for t in given[1:]), f"{func} with a mask has a shape that depends on it"
        out = func(*args, **kwargs)
        old = {tensor.untyped_storage().data_ptr() for tensor in given}
        made = [None if t.untyped_storage().data_ptr() in old else t for t in _tensors(out)]
        self.calls.append((func, args, kwargs, made))
        return out

    def replay(self) -> None:
        """Runs every operator again on the tensors it had; what one made goes to where it was."""
        for func, args, kwargs, made in self.calls:
            for kept, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if kept is not None:
                    kept.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def record(_: object, work: Callable[[], None]) -> Callable[[], None]:
    """In place of `Recorder.record`: warms up, records, and returns the replay."""
    for _warm_up in range(WARM_UPS):
        work()
    tape = _Tape()
    with tape:
        work()
    return tape.replay
