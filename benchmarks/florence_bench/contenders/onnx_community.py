"""The onnx-community split in ONNX Runtime, with sessions as its documentation opens them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence_edge.errors import missing
from florence_edge.geometry import AnyArray

from . import Job
from .split import SplitContender, failed, wanted


class _OrtSession:
    def __init__(self, runtime: Any, graph: Path, threads: int | None) -> None:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise failed("ONNX Runtime", graph, error) from error
        self._names = [output.name for output in self._session.get_outputs()]
        self._inputs = [given.name for given in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        return dict(zip(self._names, self._session.run(None, wanted(self._inputs, inputs)), strict=True))


def open_contender(job: Job) -> SplitContender:
    """Opens the graphs."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", extra="onnx", needed_for="this rival") from error
    return SplitContender(job, lambda graph: _OrtSession(onnxruntime, graph, job.threads))
