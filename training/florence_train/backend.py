"""The torch model behind the SDK's `Backend` protocol: the same answers as every other engine, on the CPU or a GPU.

For evaluation during training, as the reference that converted bundles are measured against, and for whoever has torch
anyway. Needs no bundle; `open_backend` is how `Florence.load(bundle, backend="torch")` finds a bundle's checkpoint.

On a CPU the search is the SDK's own, on the host. On a GPU it runs on the device (`kernels.device`), save for streams
and constrained answers, which the host has to see token by token.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from florence_edge import search
from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.backends.request import Bounds, Request, check_pixels, foreign, make_request
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError, listing
from florence_edge.geometry import AnyArray, Float32Array, Int32Array, Int64Array
from florence_edge.options import FormedConfig, SearchConfig, SearchOptions

from .checkpoint import load_checkpoint
from .folder import digest
from .generation import read_generation
from .kernels.device import DeviceEngine, make_engine
from .model import CrossCache, FlorenceModel, SelfCache

CHECKPOINT_VARIABLE = "FLORENCE_CHECKPOINT"
"""Environment variable that names the checkpoint folder of a bundle, where it does not lie beside the bundle."""

FIRST_CAPACITY = 64
Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class TorchFeatures:
    """Encoded images [B, N, D] on the model's device."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def numpy(self) -> Float32Array:
        """A copy on the host, [B, N, D] float32."""
        copy: Float32Array = self.values.float().cpu().numpy().copy()
        return copy


class TorchBackend:
    """A `FlorenceModel` as it is: its weights are not copied, so a model in training is evaluated as it stands.

    The model runs in the precision, on the device and in the mode it has; put it in eval mode first.
    """

    def __init__(self, model: FlorenceModel, search: SearchConfig) -> None:
        self._model: FlorenceModel | None = model
        self._search = search
        self._engine: DeviceEngine | None = None
        self._choosing = threading.Lock()

    @classmethod
    def open(
        cls, checkpoint: str | Path, *, device: str | torch.device = "cpu", precision: Precision = "fp32"
    ) -> TorchBackend:
        """Loads a checkpoint folder of either published layout, with its own generation settings."""
        model, _ = load_checkpoint(checkpoint)
        return cls(model.to(device, DTYPES[precision]), read_generation(checkpoint))

    def encode_image(self, pixels: Float32Array) -> TorchFeatures:
        """Encodes images [B, 3, H, W] float32, of any size that the model's position tables hold.

        Raises `InputError` for another dtype or shape, `BackendError` for features that are not finite.
        """
        model = self._opened()
        check_pixels(pixels, ("B", model.config.vision.in_channels, "H", "W"))
        engine = self._on_device(model)
        with torch.inference_mode():
            given = torch.tensor(pixels)
            features = engine.encode_image(given) if engine else model.encode_image(given.to(model.embedding.weight))
            if not features.isfinite().all():
                raise BackendError("the model gave non-finite features: the pixels or the weights are not finite")
        return TorchFeatures(features)

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        """Answers prompts; see `Backend.generate`. Prompts of different lengths are padded and masked."""
        if not len(prompt_ids):
            return []
        model, values, request = self._request(features, prompt_ids, options, image_of)
        # A form is followed by the SDK's search alone.
        engine = None if isinstance(request.config, FormedConfig) else self._on_device(model)
        if engine:
            return engine.generate(values, request)
        return search.generate(_TorchDecoder(model, values, request), len(prompt_ids), request.config)

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        """Answers one prompt about one image piece by piece; see `StreamingBackend.stream`."""
        model, values, request = self._request(features, [prompt_ids], options, None)
        return (yield from search.stream(_TorchDecoder(model, values, request), request.config))

    def close(self) -> None:
        """Lets go of the model; later calls raise `BackendError`."""
        self._model = self._engine = None

    def _on_device(self, model: FlorenceModel) -> DeviceEngine | None:
        """The engine for where the model lies now; None where the search belongs on the host."""
        with self._choosing:
            if self._engine is None or not self._engine.serves(model):
                self._engine = make_engine(model)
            return self._engine

    def _request(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None,
        image_of: Sequence[int] | None,
    ) -> tuple[FlorenceModel, Tensor, Request]:
        """Checks a call; the model, the features [B, N, D] and what is asked about them."""
        model = self._opened()
        if not isinstance(features, TorchFeatures):
            raise foreign(features)
        text = model.config.text
        bounds = Bounds(text.limits(features.values.shape[1]), self._search, text.vocab_size)
        return model, features.values, make_request(bounds, len(features), prompt_ids, options, image_of)

    def _opened(self) -> FlorenceModel:
        if self._model is None:
            raise BackendError("the backend was closed; open the checkpoint again")
        return self._model


class _TorchDecoder:
    """A `search.Decoder` over B prompts with K beams; the cache grows by doubling, the model sees its filled part."""

    @torch.inference_mode()
    def __init__(self, model: FlorenceModel, features: Tensor, request: Request) -> None:
        self._model, self._features = model, features
        prompt_ids, mask = self._tensor(request.prompt_ids), self._tensor(request.prompt_mask)
        self._cross: CrossCache = model.encode_prompt(features[self._tensor(request.image_of)], prompt_ids, mask)
        text = model.config.text
        capacity = min(FIRST_CAPACITY, request.config.max_new_tokens)
        shape = (len(prompt_ids), text.decoder_heads, capacity, request.config.beams, text.dim // text.decoder_heads)
        self._caches = [features.new_zeros(shape) for _ in range(2 * text.decoder_layers)]
        self._position = 0

    @torch.inference_mode()
    def step(self, token_ids: Int64Array, ancestors: Int32Array) -> Float32Array:
        """One token of every beam."""
        position = self._position
        # The model reads at least one position; before the first entry that is one which no ancestor names.
        shown = max(position, 1)
        named = ancestors if position else np.full((*token_ids.shape, 1), -1, np.int32)
        past = [cache[:, :, :shown] for cache in self._caches]
        step = self._model.decode_step(
            self._tensor(token_ids),
            torch.tensor(position, device=self._features.device),
            self._tensor(named),
            SelfCache(past[::2], past[1::2]),
            self._cross,
        )
        if position == self._caches[0].shape[2]:
            self._caches = [torch.cat([cache, torch.zeros_like(cache)], dim=2) for cache in self._caches]
        for caches, entries in ((self._caches[::2], step.keys), (self._caches[1::2], step.values)):
            for cache, entry in zip(caches, entries, strict=True):
                cache[:, :, position] = entry
        self._position += 1
        logits: Float32Array = step.logits.float().cpu().numpy()
        return logits

    def _tensor(self, values: AnyArray) -> Tensor:
        return torch.from_numpy(values).to(self._features.device)


def open_backend(bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None) -> TorchBackend:
    """Opens the checkpoint that a bundle was made from, with the bundle's search settings, on a GPU where there is one.

    A bundle holds graphs, not torch weights, so its checkpoint is looked for where `CHECKPOINT_VARIABLE` says and
    beside the bundle under its source's name, and its digest must be the one that the manifest states; `BackendError`
    otherwise. `threads` is torch's own setting and holds for the whole process.
    """
    if providers is not None:
        raise InputError("providers are ONNX Runtime's; the torch backend takes none")
    model, _ = load_checkpoint(find_checkpoint(bundle))
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchBackend(model.to(best_device()), bundle.manifest.search)


def best_device() -> str:
    """A GPU where torch has one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def find_checkpoint(bundle: Bundle) -> Path:
    """The folder that a bundle was converted from; `BackendError` that says where it was looked for."""
    source = bundle.manifest.source
    named = os.environ.get(CHECKPOINT_VARIABLE)
    places = [*([Path(named)] if named else []), bundle.folder.parent / Path(source.name).name]
    faults = []
    for place in places:
        if not place.is_dir():
            faults.append(f"{place} does not exist")
        elif digest(place) != source.sha256:
            faults.append(f"{place} is another checkpoint: its digest is not the manifest's")
        else:
            return place
    raise BackendError(
        listing(
            f"the torch backend runs checkpoints, and that of {bundle.folder} ({source.name}) was not found; set "
            f"{CHECKPOINT_VARIABLE} to its folder, or use TorchBackend.open(folder). Looked at:",
            faults,
        )
    )


def probe() -> str:
    """Version and device of torch."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    return f"torch {torch.__version__} on {device}"
