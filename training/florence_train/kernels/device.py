"""Encoding and answering on one device, for a model as it is there; and the choice of what computes it.

`FLORENCE_KERNELS` is `auto` (the native kernels on a GPU where the library and the model allow, else torch), `on` (the
native kernels or an error; on the CPU their twins, which are slow and for proof) or `off` (torch alone).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from florence_edge.backends import Hypothesis
from florence_edge.backends.kernel_library import (
    DECODER_HEAD_DIMS,
    MAX_BEAMS,
    MAX_VOCABULARY,
    MAX_WINDOW,
    VISION_HEAD_DIM,
)
from florence_edge.backends.request import Request
from florence_edge.errors import BackendError, DependencyError, InputError, listing
from florence_train.model import FlorenceConfig, FlorenceModel

from . import operators
from .decoding import Decoding, Shape
from .operations import KERNELS, TORCH, Operations
from .recording import Recorder
from .vision import with_operations

VARIABLE = "FLORENCE_KERNELS"
MODES = ("auto", "on", "off")
KEPT = 4
"""Shapes of images, and of searches, whose recordings are kept."""

Made = TypeVar("Made")


class DeviceEngine:
    """Runs a model where it lies, with everything of one call left on the device until the answer is there.

    Weights are used in place: a model in training is run as it stands. Threads take turns.
    """

    def __init__(self, model: FlorenceModel, operations: Operations) -> None:
        self.operations = operations
        self._model, self._place = model, _place(model)
        self._tower = with_operations(model.vision, operations)
        self._recorder = Recorder(model.embedding.weight.device)
        self._turn = threading.Lock()
        self._encoders: OrderedDict[Hashable, _Encoder] = OrderedDict()
        self._decodings: OrderedDict[Hashable, Decoding] = OrderedDict()

    def serves(self, model: FlorenceModel) -> bool:
        """Whether the model still lies where it was recorded, in the same precision."""
        return model is self._model and _place(model) == self._place

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, 3, H, W]` of any device -> features `[B, N, D]`, a tensor of the caller's own."""
        self._model.config.image_tokens(pixels.shape[2], pixels.shape[3])
        with self._turn, self._current():
            encoder = _kept(self._encoders, tuple(pixels.shape), lambda: self._encoder(pixels))
            return encoder.run(pixels)

    @torch.inference_mode()
    def generate(self, features: Tensor, request: Request) -> list[Hypothesis]:
        """Answers a request about encoded images; see `SearchState.answers` for what it raises."""
        with self._turn, self._current():
            shape, decoding = self.decoding(features, request)
            try:
                return decoding.search(features, request)
            except BackendError:
                # Its caches may hold what is not finite, and torch's attention multiplies even masked entries.
                self._decodings.pop(shape, None)
                raise

    def decoding(self, features: Tensor, request: Request) -> tuple[Shape, Decoding]:
        """What answers requests of this shape, recorded now if it is the first; for `generate`, and to measure."""
        shape, operations = Shape.of(self._model, features.shape[1], request), self._for_beams(request.config.beams)
        return shape, _kept(self._decodings, shape, lambda: Decoding(self._model, operations, shape, self._recorder))

    def _encoder(self, pixels: Tensor) -> _Encoder:
        like = self._model.embedding.weight
        given = torch.zeros(pixels.shape, dtype=like.dtype, device=like.device)
        return _Encoder(lambda images: self._model.projector(self._tower(images)), given, self._recorder)

    def _for_beams(self, beams: int) -> Operations:
        """The engine's operations, or torch's for more beams than the kernels hold where that is left to us."""
        if self.operations is TORCH or beams <= MAX_BEAMS:
            return self.operations
        if read_mode() == "on":
            raise InputError(f"beams is {beams}; the kernels hold up to {MAX_BEAMS}, {VARIABLE}=auto has no limit")
        return TORCH

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The model's device, also in another thread; a caller's autocast would record casts of today's weights."""
        device = self._place[1]
        current = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with current, torch.autocast(device.type, enabled=False):
            yield


class _Encoder:
    """Vision tower and projector for images of one shape."""

    def __init__(self, encode: Callable[[Tensor], Tensor], pixels: Tensor, recorder: Recorder) -> None:
        self._pixels = pixels
        self._encode = encode
        self._features = torch.empty_like(encode(pixels))
        self._run = recorder.record(self._forward)

    def run(self, pixels: Tensor) -> Tensor:
        self._pixels.copy_(pixels)
        self._run()
        return self._features.clone()

    def _forward(self) -> None:
        self._features.copy_(self._encode(self._pixels))


def make_engine(model: FlorenceModel) -> DeviceEngine | None:
    """The engine for a model where it lies now; None where a search on the host is as good. See `choose`."""
    operations = choose(model.config, read_mode(), cuda=model.embedding.weight.device.type == "cuda")
    return DeviceEngine(model, operations) if operations else None


def choose(config: FlorenceConfig, mode: str, *, cuda: bool) -> Operations | None:
    """What computes a model of this config on a GPU or a CPU; None: nothing needs to run on the device alone.

    Raises `DependencyError` or `BackendError` where the kernels are wanted and cannot be used.
    """
    faults = unsuited(config)
    if mode == "on":
        operators.library(cuda=cuda)
        if faults:
            raise BackendError(listing(f"the kernels cannot run this model; set {VARIABLE}=auto:", faults))
        return KERNELS
    if not cuda:
        return None
    return KERNELS if mode == "auto" and not faults and _has_library() else TORCH


def read_mode() -> str:
    """The environment's choice; `InputError` for an unknown one."""
    mode = os.environ.get(VARIABLE, MODES[0])
    if mode not in MODES:
        raise InputError(f"{VARIABLE} is {mode!r}; it must be one of {', '.join(MODES)}")
    return mode


def unsuited(config: FlorenceConfig) -> list[str]:
    """What of a model the kernels do not hold."""
    vision, text = config.vision, config.text
    head = text.dim // text.decoder_heads
    faults = [
        f"stage {stage} has {width} channels for {count} {name}; they take {VISION_HEAD_DIM} for each"
        for name, counts in (("heads", vision.heads), ("groups", vision.groups))
        for stage, (width, count) in enumerate(zip(vision.dims, counts, strict=True))
        if width != VISION_HEAD_DIM * count
    ]
    if vision.window > MAX_WINDOW:
        faults.append(f"windows are {vision.window} wide; they take up to {MAX_WINDOW}")
    if head not in DECODER_HEAD_DIMS:
        faults.append(f"the decoder's heads have {head} channels; they take 32 or 64")
    if text.vocab_size > MAX_VOCABULARY:
        faults.append(f"the vocabulary has {text.vocab_size} tokens; they take up to {MAX_VOCABULARY}")
    return faults


def _has_library() -> bool:
    try:
        operators.library(cuda=True)
    except DependencyError:
        return False
    return True


def _place(model: FlorenceModel) -> tuple[int, torch.device, torch.dtype]:
    """Where the weights are: the embedding stands for all, they move together."""
    weight = model.embedding.weight
    return weight.data_ptr(), weight.device, weight.dtype


def _kept(cache: OrderedDict[Hashable, Made], key: Hashable, make: Callable[[], Made]) -> Made:
    """The cached value of a key; the one that was not used for longest makes room for a new one."""
    if key not in cache:
        while len(cache) >= KEPT:
            cache.popitem(last=False)
        cache[key] = make()
    cache.move_to_end(key)
    return cache[key]
