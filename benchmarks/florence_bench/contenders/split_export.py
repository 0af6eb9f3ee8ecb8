"""Exports a checkpoint to the onnx-community split, with transformers' own model and torch's own exporter.

Only for racing: it gives ONNX Runtime and OpenVINO the very weights of the other contenders. The batch is one; lengths
of prompts and caches are free.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from florence_edge.preprocess import ImageSpec

_OPSET = 17
_PARTS = ("key", "value")
_PROMPT = 5
_PAST = 3


class _Vision(nn.Module):
    """Pixels to projected features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.model.get_image_features(pixel_values).pooler_output
        return features


class _Encoder(nn.Module):
    """Features and embedded prompt to hidden states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.model.language_model.encoder

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(inputs_embeds=inputs_embeds, attention_mask=attention_mask)[0]
        return states


class _FirstStep(nn.Module):
    """The first token: no past; gives the caches of both attentions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head = model.model.language_model.decoder, model.lm_head

    def forward(
        self, inputs_embeds: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        made = self.decoder(
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=True,
        )
        cache = made.past_key_values
        both = (cache.self_attention_cache, cache.cross_attention_cache)
        layers = [part for i in range(len(both[0].layers)) for one in both for part in _tensors(one.layers[i])]
        return (self.head(made.last_hidden_state), *layers)


class _NextStep(nn.Module):
    """A further token: gives the grown cache of the self-attention."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.decoder, self.head, self.dim = model.model.language_model.decoder, model.lm_head, _text(model).d_model

    def forward(self, inputs_embeds: Tensor, encoder_attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for layer in range(len(past) // 4):
            own_key, own_value, cross_key, cross_value = past[4 * layer : 4 * layer + 4]
            cache.self_attention_cache.update(own_key, own_value, layer)
            cache.cross_attention_cache.update(cross_key, cross_value, layer)
            cache.is_updated[layer] = True
        # Only its length is looked at: keys and values come from the cache.
        states = inputs_embeds.new_zeros(1, encoder_attention_mask.shape[1], self.dim)
        made = self.decoder(
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        own = made.past_key_values.self_attention_cache.layers
        return (self.head(made.last_hidden_state), *(part for layer in own for part in _tensors(layer)))


def export_split(checkpoint: str, out: Path, image: ImageSpec) -> Path:
    """Writes the five graphs of a checkpoint in the native layout to `out`, which it returns."""
    model: Any = Florence2ForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about shapes that are meant to be constant
        _export_encoders(model, out, image)
        _export_decoders(model, out)
    return out


def _export_encoders(model: Any, out: Path, image: ImageSpec) -> None:
    dim = _text(model).d_model
    together = torch.zeros(1, _PROMPT, dim)
    _write(out / "vision_encoder.onnx", _Vision(model), {"pixel_values": torch.zeros(1, 3, image.height, image.width)})
    _write(
        out / "embed_tokens.onnx",
        model.get_input_embeddings(),
        {"input_ids": torch.zeros(1, _PROMPT, dtype=torch.int64)},
    )
    mask = torch.ones(1, _PROMPT, dtype=torch.int64)
    _write(out / "encoder_model.onnx", _Encoder(model), {"inputs_embeds": together, "attention_mask": mask})


def _export_decoders(model: Any, out: Path) -> None:
    text = _text(model)
    embedded = {"inputs_embeds": torch.zeros(1, 1, text.d_model)}
    mask = {"encoder_attention_mask": torch.ones(1, _PROMPT, dtype=torch.int64)}
    states = {"encoder_hidden_states": torch.zeros(1, _PROMPT, text.d_model)}
    layers = range(text.decoder_layers)
    own = [f"{i}.decoder.{part}" for i in layers for part in _PARTS]
    both = [f"{i}.{side}.{part}" for i in layers for side in ("decoder", "encoder") for part in _PARTS]
    heads = text.decoder_attention_heads
    lengths = {name: _PAST if ".decoder." in name else _PROMPT for name in both}
    past = {f"past_key_values.{name}": torch.zeros(1, heads, lengths[name], text.d_model // heads) for name in both}
    _write(
        out / "decoder_model.onnx",
        _FirstStep(model),
        {**embedded, **states, **mask},
        ["logits", *(f"present.{name}" for name in both)],
    )
    _write(
        out / "decoder_with_past_model.onnx",
        _NextStep(model),
        {**embedded, **mask, **past},
        ["logits", *(f"present.{name}" for name in own)],
    )


def _write(path: Path, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ("made",)) -> None:
    """One graph; every length but those of pixels, embeddings and heads is free."""
    free = {
        name: {2: f"{name}_length"} if name.startswith("past") else {1: f"{name}_length"}
        for name in inputs
        if name != "pixel_values"
    }
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes=free,
        opset_version=_OPSET,
        dynamo=False,
    )


def _tensors(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values


def _text(model: Any) -> Any:
    return model.config.text_config
