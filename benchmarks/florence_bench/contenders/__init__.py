"""What can be raced, one module each: it alone imports its library, and only in the worker process that runs it.

A contender answers questions about an image file: image bytes and prompt token ids in, token ids out. All get the
same pixels, made by the SDK's own preprocessing, and the same complete search settings, and none may emit an id that is
no token, so that equal weights must give equal ids. `florence-edge` takes a bundle, the rivals a checkpoint folder
in the layout that transformers loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec


@dataclass(frozen=True)
class Question:
    """A task with its input, and what the model is sent for it."""

    task: str
    input: str | tuple[str, ...] | None
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What a contender is opened with.

    `image` is how pixels are made, `image_tokens` the number of features an image has. Ids from `vocabulary` on (rows
    that fill a checkpoint up to a round number) and the `unused` ones below belong to no token. `threads` None is the
    library's own choice, `backend` and `providers` are for `florence-edge` alone, `scratch` is a folder for files to be
    made.
    """

    kind: str
    folder: str
    image: ImageSpec
    image_tokens: int
    vocabulary: int
    unused: tuple[int, ...]
    threads: int | None
    backend: str
    providers: tuple[str, ...] | None
    scratch: str


class Contender(Protocol):
    """An opened contender."""

    def answer(self, image: bytes, questions: Sequence[Question], search: SearchConfig) -> list[list[int]]:
        """Answers questions about one image file; the ids of each, without the start token."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


class ContenderModule(Protocol):
    """What a module of this package offers."""

    def open_contender(self, job: Job) -> Contender:
        """Loads the weights; `DependencyError` where the library is missing."""
        ...


@dataclass(frozen=True)
class Kind:
    """A row of the table: the module, what people call it, and whose versions count.

    `split` marks the ones that run the onnx-community split: greedy only, and exported first where only a checkpoint
    is given.
    """

    module: str
    title: str
    split: bool
    libraries: tuple[str, ...]


OURS = "florence-edge"
KINDS: Mapping[str, Kind] = {
    OURS: Kind("florence", "florence-edge", False, ("florence-edge", "onnxruntime", "torch")),
    "transformers": Kind("transformers_eager", "transformers, eager", False, ("transformers", "torch")),
    "transformers-compile": Kind(
        "transformers_compiled", "transformers, torch.compile", False, ("transformers", "torch")
    ),
    "onnx-community": Kind("onnx_community", "ONNX Runtime, onnx-community split", True, ("onnxruntime",)),
    "openvino": Kind("openvino_split", "OpenVINO, onnx-community split", True, ("openvino",)),
}


def find_kind(name: str) -> Kind:
    """The row of that name, or `InputError`."""
    if name not in KINDS:
        raise InputError(f"{name!r} is no kind of contender; the kinds are: {', '.join(KINDS)}")
    return KINDS[name]


def load(name: str) -> ContenderModule:
    """The module of a kind."""
    return cast(ContenderModule, import_module(f".{find_kind(name).module}", __package__))
