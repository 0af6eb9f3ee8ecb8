"""The two sides of a comparison, alike to the code that compares: a torch model, and a bundle in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol

import torch

from florence_edge.backends import Backend
from florence_edge.backends.interface import interface_faults
from florence_edge.backends.onnx import OnnxBackend, interface, open_session
from florence_edge.bundle import Bundle
from florence_edge.geometry import AnyArray
from florence_edge.manifest import Graphs
from florence_edge.options import SearchConfig
from florence_train.backend import TorchBackend
from florence_train.model import FlorenceModel

from .graphs import graph_sources, graph_tables


class Side(Protocol):
    """A model that runs graph by graph, and end to end."""

    name: str
    tables: Graphs

    def run(self, graph: str, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs one graph on named arrays and returns its outputs by name."""
        ...

    def backend(self) -> Backend:
        """A backend over the same model; the caller closes it."""
        ...

    def exact(self) -> Side | None:
        """The same model computed more precisely, where there is such a thing."""
        ...


class TorchSide:
    """A torch model on the CPU, in the precision it has."""

    def __init__(self, model: FlorenceModel, search: SearchConfig, *, name: str) -> None:
        self.name = name
        self.tables = graph_tables(model.config)
        self._model, self._search = model, search
        self._sources = {source.name: source for source in graph_sources(model, self.tables)}

    def run(self, graph: str, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs one graph."""
        source = self._sources[graph]
        with torch.inference_mode():
            results = source.module(*(self._tensor(inputs[tensor.name]) for tensor in source.table.inputs))
        results = results if isinstance(results, tuple) else (results,)
        names = [tensor.name for tensor in source.table.outputs]
        return {name: result.numpy() for name, result in zip(names, results, strict=True)}

    def backend(self) -> Backend:
        """The torch backend."""
        return TorchBackend(self._model, self._search)

    def exact(self) -> Side:
        """The same model with its products and sums in fp64; softmax and LayerNorm statistics stay in fp32."""
        return TorchSide(deepcopy(self._model).double(), self._search, name=f"{self.name}, in fp64")

    def _tensor(self, array: AnyArray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.to(self._model.embedding.weight.dtype) if tensor.is_floating_point() else tensor


class OnnxSide:
    """A bundle on the CPU, one session at a time; raises `BackendError` where a session cannot be opened."""

    def __init__(self, bundle: Bundle) -> None:
        self.name = bundle.folder.name
        self.tables = bundle.manifest.graphs
        self._bundle = bundle
        self._open: dict[str, Any] = {}

    def run(self, graph: str, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Runs one graph."""
        session = self._session(graph)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    def interface_faults(self) -> list[str]:
        """How inputs and outputs of the graphs differ from what the manifest says."""
        return [
            fault
            for name, table in self.tables.items()
            for fault in interface_faults(interface(self._session(name), table.file), table)
        ]

    def backend(self) -> Backend:
        """The onnx backend; it opens sessions of its own."""
        self._open.clear()
        return OnnxBackend(self._bundle)

    def exact(self) -> None:
        """There is none: a graph has one precision."""

    def _session(self, graph: str) -> Any:
        """The session of a graph; the one before is closed, since each holds its weights a second time."""
        if graph not in self._open:
            self._open.clear()
            self._open[graph] = open_session(self._bundle.folder / dict(self.tables.items())[graph].file)
        return self._open[graph]
