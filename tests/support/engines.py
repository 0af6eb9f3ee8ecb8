"""One random model in every form: transformers' own, a published checkpoint, a bundle, and the backends over them.

The weights are those of `support.oracle`, with which attention is peaked and every mask matters. The image is
rectangular and its feature maps are no multiples of the window.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from florence_convert.export import export_bundle
from florence_edge.backends import StreamingBackend
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.openvino import OpenVinoBackend
from florence_edge.bundle import Bundle
from florence_edge.geometry import Float32Array, ImageSize, Int64Array
from florence_edge.options import SearchConfig
from florence_train.backend import open_backend as open_torch
from florence_train.model import FlorenceConfig
from support.bundles import CACHE, state
from support.oracle import reference_model
from support.published import pad_rows, published_config, write_folder

SIZE = ImageSize(width=96, height=64)
EOS_GAIN = 2.0
"""Makes `</s>` stand out, now and then as the likeliest token, so that answers differ in length."""


def open_openvino(bundle: Bundle) -> StreamingBackend:
    """Skips the test where OpenVINO is not installed."""
    pytest.importorskip("openvino")
    return OpenVinoBackend(bundle, threads=1)


BACKENDS: dict[str, Callable[[Bundle], StreamingBackend]] = {
    "onnx": lambda bundle: OnnxBackend(bundle, threads=1),
    "openvino": open_openvino,
    "torch": lambda bundle: open_torch(bundle, threads=1),
}


@dataclass(frozen=True, eq=False)
class Engines:
    """transformers' model, and a bundle that lies beside the checkpoint it was made from."""

    config: FlorenceConfig
    reference: Any
    checkpoint: Path
    bundle: Bundle


@cache
def tiny_engines() -> Engines:
    """The tiny size."""
    return _kept("engines", published_config("tiny"))


@cache
def kernel_engines() -> Engines:
    """Small too, but with heads as the kernels take them: 32 channels in the vision tower, 64 in the decoder."""
    config = published_config("tiny")
    vision = replace(config.vision, dims=(32, 64, 64, 96), heads=(1, 2, 2, 3), groups=(1, 2, 2, 3), window=5)
    return _kept("kernel-engines", replace(config, vision=vision, text=replace(config.text, dim=128, decoder_heads=2)))


def _kept(name: str, config: FlorenceConfig) -> Engines:
    """The bundle of a random model; conversion takes half a minute, so it is kept until a source of it changes."""
    reference = reference_model(config)
    with torch.no_grad():
        reference.get_input_embeddings().weight[2] *= EOS_GAIN
    kept = CACHE / f"{name}-{state()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side would each convert
        if not kept.exists():
            for old in CACHE.glob(f"{name}-*"):
                shutil.rmtree(old)
            made = Path(scratch) / "made"
            write_folder(made / "checkpoint", "native", config, pad_rows(reference.state_dict()))
            export_bundle(made / "checkpoint", made / "bundle", image_size=SIZE)
            made.replace(kept)
    return Engines(config, reference, kept / "checkpoint", Bundle.open(kept / "bundle"))


def random_pixels(seed: int, count: int, size: ImageSize = SIZE) -> Float32Array:
    """Images [count, 3, H, W] of coarse tiles and noise, normalised."""
    rng = np.random.default_rng(seed)
    tiles = rng.normal(size=(count, 3, -(-size.height // 16), -(-size.width // 16)))
    coarse = tiles.repeat(16, axis=2).repeat(16, axis=3)[:, :, : size.height, : size.width]
    return (coarse + 0.3 * rng.normal(size=coarse.shape)).astype(np.float32)


def random_prompts(seed: int, lengths: Sequence[int], *, vocabulary: int) -> list[Int64Array]:
    """Prompts `<s> ... </s>` of these lengths; the last id is left out, it is the reference's image placeholder."""
    rng = np.random.default_rng(seed)
    return [np.asarray([0, *rng.integers(3, vocabulary - 1, size=length - 2), 2]) for length in lengths]


def reference_generate(engines: Engines, pixels: Float32Array, prompt_ids: Int64Array, config: SearchConfig) -> Any:
    """transformers, end to end: one prompt about each image of `pixels` [B, 3, H, W], nothing padded."""
    model = engines.reference
    images = [model.config.image_token_id] * engines.config.image_tokens(*pixels.shape[2:])
    inputs = torch.tensor([[*images, *prompt_ids]] * len(pixels))
    return _generate(model, config, input_ids=inputs, pixel_values=torch.tensor(pixels))


def reference_answer(reference: Any, features: torch.Tensor, prompt_ids: Int64Array, config: SearchConfig) -> Any:
    """transformers' answer to one prompt about images that are already encoded, `features` [B, N, D]."""
    prompts = torch.from_numpy(prompt_ids)[None].expand(len(features), -1)
    with torch.no_grad():
        embedded = torch.cat([features, reference.get_input_embeddings()(prompts)], dim=1)
        seen = torch.ones(embedded.shape[:2], dtype=torch.long)
        encoded = reference.model.language_model.encoder(inputs_embeds=embedded, attention_mask=seen)
    return _generate(reference, config, encoder_outputs=encoded, attention_mask=seen)


def _generate(reference: Any, config: SearchConfig, **inputs: Any) -> Any:
    beam_settings = {"early_stopping": config.early_stopping, "length_penalty": config.length_penalty}
    with torch.no_grad():
        return reference.generate(
            **inputs,
            num_beams=config.beams,
            max_new_tokens=config.max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            no_repeat_ngram_size=config.no_repeat_ngram,
            forced_bos_token_id=config.forced_bos,
            forced_eos_token_id=config.forced_eos,
            decoder_start_token_id=config.decoder_start,
            bos_token_id=0,
            eos_token_id=config.eos,
            pad_token_id=config.pad,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **(beam_settings if config.beams > 1 else {}),
        )
