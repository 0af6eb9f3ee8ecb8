"""The onnx-community split of Florence-2, and a greedy loop over it; knows no inference library.

Four graphs besides the vision encoder: `embed_tokens`, `encoder_model`, `decoder_model` for the first token and
`decoder_with_past_model` for all others, with `past_key_values.*` in and `present.*` out. The loop is the SDK's own
search with one beam, so that tokens are banned and forced as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from florence_edge.errors import BackendError, CheckpointError, InputError, listing, missing
from florence_edge.geometry import AnyArray, Float32Array, Int32Array, Int64Array
from florence_edge.images import load_image
from florence_edge.options import SearchConfig
from florence_edge.preprocess import to_pixels
from florence_edge.search import generate

from . import Job, Question

GRAPHS = ("vision_encoder", "embed_tokens", "encoder_model", "decoder_model", "decoder_with_past_model")


class Session(Protocol):
    """An opened graph."""

    def run(self, inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """All outputs by name."""
        ...


class SplitContender:
    """The five graphs of a folder behind any library that runs ONNX."""

    def __init__(self, job: Job, open_session: Callable[[Path], Session]) -> None:
        folder = graph_folder(job)
        self._sessions = {name: open_session(folder / f"{name}.onnx") for name in GRAPHS}
        self._job = job

    def answer(self, image: bytes, questions: Sequence[Question], search: SearchConfig) -> list[list[int]]:
        """See `Contender.answer`; the image is encoded once for all questions."""
        if search.beams != 1:
            raise InputError(f"this contender has a greedy loop only; {search.beams} beams were asked for")
        pixels = to_pixels(load_image(image), self._job.image)
        features = self._one("vision_encoder", {"pixel_values": pixels})
        return [self._ask(features, question, search) for question in questions]

    def close(self) -> None:
        """Lets go of the graphs."""
        self._sessions = {}

    def _ask(self, features: AnyArray, question: Question, search: SearchConfig) -> list[int]:
        embedded = self._one("embed_tokens", {"input_ids": np.asarray([question.prompt_ids], np.int64)})
        together = np.concatenate([features, embedded], axis=1)
        mask = np.ones(together.shape[:2], np.int64)
        states = self._one("encoder_model", {"inputs_embeds": together, "attention_mask": mask})
        encoded = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        decoder = _SplitDecoder(self._sessions, encoded, self._job)
        ids: list[int] = generate(decoder, 1, search)[0].ids.tolist()
        return ids

    def _one(self, graph: str, inputs: Mapping[str, AnyArray]) -> AnyArray:
        (only,) = self._sessions[graph].run(inputs).values()
        return only


class _SplitDecoder:
    """A `search.Decoder` for one prompt and one beam."""

    def __init__(self, sessions: Mapping[str, Session], encoded: Mapping[str, AnyArray], job: Job) -> None:
        self._sessions, self._encoded = sessions, encoded
        self._vocabulary, self._unused = job.vocabulary, list(job.unused)
        self._past: dict[str, AnyArray] = {}

    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        """One token; the ancestors of a single beam are itself."""
        (embedded,) = self._sessions["embed_tokens"].run({"input_ids": token_ids}).values()
        inputs = {"inputs_embeds": embedded, **self._encoded, **self._past}
        if self._past:
            inputs.pop("encoder_hidden_states")
        made = self._sessions["decoder_with_past_model" if self._past else "decoder_model"].run(inputs)
        logits: Float32Array = made.pop("logits")[..., : self._vocabulary]
        if self._unused:
            logits[..., self._unused] = np.finfo(np.float32).min  # the search takes infinity for damage
        self._past |= {name.replace("present", "past_key_values", 1): value for name, value in made.items()}
        return logits


def graph_folder(job: Job) -> Path:
    """Where the graphs lie: `onnx/` of a published folder, the folder itself, or what is exported of a checkpoint."""
    given = Path(job.folder)
    for folder in (given / "onnx", given, Path(job.scratch) / "split"):
        if all((folder / f"{name}.onnx").is_file() for name in GRAPHS):
            return folder
    if (given / "config.json").is_file() and any(given.glob("*.safetensors")):
        try:
            from .split_export import export_split
        except ImportError as error:
            raise missing("transformers", extra="rivals", needed_for="exporting the onnx-community split") from error
        return export_split(job.folder, Path(job.scratch) / "split", job.image)
    faults = [f"{name}.onnx is missing" for name in GRAPHS if not (given / "onnx" / f"{name}.onnx").is_file()]
    raise CheckpointError(listing(f"{given} is neither a checkpoint nor an onnx-community folder:", faults))


def wanted(names: Sequence[str], inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """What a graph takes of the inputs there are; an exporter may have dropped some, but none may be missing."""
    absent = [name for name in names if name not in inputs]
    if absent:
        raise CheckpointError(f"the graph takes {', '.join(absent)}, which the onnx-community split does not have")
    return {name: inputs[name] for name in names}


def failed(library: str, graph: Path, error: Exception) -> BackendError:
    """The error for whatever a library raises."""
    return BackendError(f"{library} failed in {graph.name}: {error}")
