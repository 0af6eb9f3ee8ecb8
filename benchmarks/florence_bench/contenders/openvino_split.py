"""The onnx-community split in OpenVINO on the CPU, in fp32 as its weights are, tuned for latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence_edge.backends.openvino import runtime
from florence_edge.geometry import AnyArray

from . import Job
from .split import SplitContender, failed, wanted


class _OpenVinoSession:
    def __init__(self, core: Any, graph: Path, settings: Mapping[str, Any]) -> None:
        try:
            model = core.read_model(str(graph))
            compiled = core.compile_model(model, "CPU", dict(settings))
        except RuntimeError as error:
            raise failed("OpenVINO", graph, error) from error
        self._request = compiled.create_infer_request()
        self._inputs = [given.get_any_name() for given in model.inputs]
        self._names = [output.get_any_name() for output in model.outputs]  # compiling renames them

    def run(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        made = self._request.infer(wanted(self._inputs, inputs), share_inputs=True)
        return {name: made[index].copy() for index, name in enumerate(self._names)}


def open_contender(job: Job) -> SplitContender:
    """Compiles the graphs. `INFERENCE_PRECISION_HINT` keeps fp32 where the processor would offer bf16."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if job.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = job.threads
    core = runtime().Core()
    return SplitContender(job, lambda graph: _OpenVinoSession(core, graph, settings))
