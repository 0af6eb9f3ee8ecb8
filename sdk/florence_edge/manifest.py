"""The manifest of a bundle: what `manifest.json` says, as frozen dataclasses.

This module checks that a manifest is complete and agrees with itself; whether the files beside it are the ones it names
is the business of `bundle`. Within one format number, revisions only add keys: a manifest of an older revision is
read, one of a newer format is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from .calibration import Calibration
from .errors import BundleError, InputError, listing
from .loss import Loss
from .options import SearchConfig
from .preprocess import ImageSpec
from .schema import decode
from .vocabulary import Vocabulary

FORMAT = 1
"""The format this package reads and writes; it changes when older packages could misread a bundle."""

REVISION = 2
"""Counts the keys added within the format."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Storage = Literal["fp32", "fp16", "int8"]
DType = Literal["float32", "float16", "bfloat16", "int64", "int32", "int8", "bool"]
Dim = int | str
"""A fixed size, or the name of a dynamic one; one name means one size throughout a graph."""

_INNERMOST_LIST = re.compile(r"\[\n([^][{}]*)\n\s*\]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Producer:
    """The program that wrote the bundle and the versions it ran with (null where one was not used)."""

    name: str
    version: str
    python: str
    torch: str | None = None
    onnx: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    `name` is the folder name or hub id, `layout` the checkpoint layout it was read from, `sha256` a digest over the
    checkpoint's files, `licence` the SPDX name of its licence (null: unknown).
    """

    name: str
    layout: str
    sha256: str
    licence: str | None = None


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer file and the ids that the output grammar needs; `first_special` is the id of `<od>`."""

    file: str
    first_special: int
    bos: int
    pad: int
    eos: int

    @classmethod
    def of(cls, file: str, ids: Vocabulary) -> TokenizerInfo:
        """What a manifest says of a tokenizer file with these ids."""
        return cls(file, first_special=ids.first, bos=ids.bos, pad=ids.pad, eos=ids.eos)

    @property
    def vocabulary(self) -> Vocabulary:
        """The same ids as the grammar and the search take them."""
        return Vocabulary(first=self.first_special, bos=self.bos, pad=self.pad, eos=self.eos)


@dataclass(frozen=True)
class Limits:
    """Most tokens of one prompt (`<s>` and `</s>` included) and of one answer (the start token not counted)."""

    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Tensor:
    """One input or output of a graph: a scalar has the shape ()."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Graph:
    """One graph: its file, and its inputs and outputs in order."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Graphs:
    """The three graphs.

    `vision` turns pixels into features, `encoder` features and a prompt into the cross-attention keys and values of
    every decoder layer, `decoder` one token per beam into the logits of the next.
    """

    vision: Graph
    encoder: Graph
    decoder: Graph

    def items(self) -> tuple[tuple[str, Graph], ...]:
        """Names and graphs in the order they run."""
        return ("vision", self.vision), ("encoder", self.encoder), ("decoder", self.decoder)


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: its SHA-256 in lower-case hex and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Target:
    """What engines were built for: TensorRT version, GPU name, compute capability (87 is 8.7), plugin ABI number."""

    tensorrt: str
    gpu: str
    sm: int
    plugin_abi: int


@dataclass(frozen=True)
class Parity:
    """How far the bundle was measured to be from its reference.

    `max_abs_error` maps a graph to the largest absolute difference of its outputs over all pairs; `tolerance` holds
    what was allowed. `identical` maps a search setting (`greedy`, `beams_3`) to the number of the `pairs` image/prompt
    pairs whose token ids are equal to the last; the pairs were drawn with `seed`, answers limited to `new_tokens`.
    """

    reference: str
    seed: int
    pairs: int
    new_tokens: int
    max_abs_error: Mapping[str, float]
    tolerance: Mapping[str, float]
    identical: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """All that a bundle says about itself.

    `precision` is what the graphs compute in, `storage` what the file holds their weights in. `model` is the
    configuration of the torch model, which the lowering to TensorRT reads too. `calibration` maps task tokens to what
    is made of their scores; those of other tasks stay as they are. `loss` is what a lower precision cost.
    """

    producer: Producer
    source: Source
    precision: Precision
    model: Mapping[str, Any]
    image: ImageSpec
    tokenizer: TokenizerInfo
    limits: Limits
    search: SearchConfig
    graphs: Graphs
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    target: Target | None = None
    parity: Parity | None = None
    storage: Storage = "fp32"
    calibration: Mapping[str, Calibration] = field(default_factory=dict, metadata={"since": 1})
    loss: Loss | None = field(default=None, metadata={"since": 2})
    format: int = FORMAT
    revision: int = REVISION

    def __post_init__(self) -> None:
        faults = [*_file_faults(self.files), *_graph_faults(self.graphs), *_value_faults(self)]
        if faults:
            raise InputError("; ".join(faults))

    def used_files(self) -> tuple[str, ...]:
        """The files that the graphs and the tokenizer name; each must be among `files` of a complete manifest."""
        return (*(graph.file for _, graph in self.graphs.items()), self.tokenizer.file)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, format and revision first."""
        values = asdict(self)
        return {"format": values.pop("format"), "revision": values.pop("revision"), **values}

    def to_json(self) -> str:
        """The text of `manifest.json`: indented, with every innermost list on one line."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return _INNERMOST_LIST.sub(lambda found: f"[{' '.join(line.strip() for line in found[1].splitlines())}]", text)

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """The inverse of `to_dict`; raises `BundleError` that lists every fault found."""
        revision = _check_format(values)
        faults: list[str] = []
        manifest = decode(cls, values, faults=faults, revision=revision)
        if manifest is not None:
            unlisted = sorted(set(manifest.used_files()) - set(manifest.files))
            faults += [f"{name} is used but has no entry under files" for name in unlisted]
        if manifest is None or faults:
            newer = f" (it is of revision {revision}, newer than {REVISION}: upgrade florence-edge)"
            raise BundleError(listing(f"the manifest is not valid{newer if revision > REVISION else ''}:", faults))
        return manifest

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """A manifest from the text of `manifest.json`; raises `BundleError`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise BundleError(f"the manifest is not valid JSON ({error}); the bundle must be made again") from error
        return cls.from_dict(values)


def path_fault(name: str) -> str | None:
    """Why `name` cannot be a file of a bundle, or None: only plain relative paths with `/` are allowed."""
    path = PurePosixPath(name)
    if (
        name in ("", ".")
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in name
        or not name.isprintable()  # a null character or half a surrogate pair among them: no file can be called so
        or str(path) != name
    ):
        return f"{name!r} is no plain relative path inside the bundle"
    return None


def _check_format(values: Any) -> int:
    """The revision of a document whose format this package reads."""
    if not isinstance(values, Mapping):
        raise BundleError("the manifest is not a JSON object; the bundle must be made again")
    number, revision = values.get("format"), values.get("revision")
    if type(number) is not int or type(revision) is not int:
        raise BundleError(f"the manifest states format {number!r}, revision {revision!r}; both must be integers")
    if number > FORMAT:
        raise BundleError(
            f"the bundle has format {number}, but this florence-edge reads format {FORMAT}: upgrade florence-edge "
            "(pip install -U florence-edge), or convert the checkpoint again with this version"
        )
    if number < FORMAT:
        raise BundleError(f"the bundle has format {number}; format {FORMAT} is read: convert its checkpoint again")
    return revision


def _file_faults(files: Mapping[str, FileRecord]) -> Iterable[str]:
    for name, record in files.items():
        fault = path_fault(name)
        if fault:
            yield f"files: {fault}"
        if not _SHA256.fullmatch(record.sha256):
            yield f"files.{name}.sha256 is {record.sha256!r}; it must be 64 lower-case hex digits"
        if record.bytes < 0:
            yield f"files.{name}.bytes is {record.bytes}; it must be 0 or more"


def _graph_faults(graphs: Graphs) -> Iterable[str]:
    for name, graph in graphs.items():
        names = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
        repeated = sorted({tensor for tensor in names if names.count(tensor) > 1})
        if repeated:
            yield f"graphs.{name} names tensors twice: {', '.join(repeated)}"
        if not graph.inputs or not graph.outputs:
            yield f"graphs.{name} must have inputs and outputs"
        for tensor in (*graph.inputs, *graph.outputs):
            if any(dim < 1 for dim in tensor.shape if isinstance(dim, int)):
                yield f"graphs.{name}.{tensor.name} has the shape {list(tensor.shape)}; sizes must be 1 or more"


def _value_faults(manifest: Manifest) -> Iterable[str]:
    limits = manifest.limits
    for name, value in (("prompt_tokens", limits.prompt_tokens), ("new_tokens", limits.new_tokens)):
        if value < 1:
            yield f"limits.{name} is {value}; it must be 1 or more"
    if manifest.search.max_new_tokens > limits.new_tokens:
        yield f"search.max_new_tokens is {manifest.search.max_new_tokens}, above limits.new_tokens {limits.new_tokens}"
    image, ids = manifest.image, manifest.tokenizer.vocabulary.size
    for pixels in manifest.graphs.vision.inputs[:1]:
        if not _same_sizes(pixels.shape[-2:], (image.height, image.width)):
            yield f"image is {image.height} x {image.width} (height x width), but graphs.vision takes {pixels}"
    for logits in manifest.graphs.decoder.outputs[:1]:
        if not _same_sizes(logits.shape[-1:], (ids,)):
            yield f"tokenizer has {ids} ids, but graphs.decoder gives {logits}"


def _same_sizes(shape: Sequence[Dim], wanted: Sequence[int]) -> bool:
    """Whether fixed sizes are those wanted; a dynamic one may be any."""
    return len(shape) == len(wanted) and all(
        isinstance(size, str) or size == other for size, other in zip(shape, wanted, strict=True)
    )
