"""The reference implementation: transformers' own Florence-2, in fp32 and eager attention, with seeded random weights.

The default initialisation makes every attention nearly uniform, so that a wrong mask or a wrong order would hardly
show. `randomise` draws weights that make attention peaked and every term of the model matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BartConfig, Florence2Config
from transformers import Florence2ForConditionalGeneration as _Florence2
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from florence_train.model import FlorenceConfig

REFERENCE: Any = _Florence2
"""transformers' model class; untyped there, hence Any here."""


def reference_model(config: FlorenceConfig, *, seed: int = 0) -> Any:
    """Returns transformers' model of these dimensions with random weights, in eval mode.

    Its `<image>` token is an ordinary id, the last one, so that its vocabulary is exactly the config's.
    """
    vision, text = config.vision, config.text
    reference = REFERENCE._from_config(
        Florence2Config(
            vision_config=Florence2VisionConfig(
                embed_dim=vision.dims,
                depths=vision.depths,
                num_heads=vision.heads,
                num_groups=vision.groups,
                patch_size=vision.patch_sizes,
                patch_stride=vision.patch_strides,
                patch_padding=vision.patch_paddings,
                patch_prenorm=vision.patch_prenorms,
                window_size=vision.window,
                mlp_ratio=vision.mlp_ratio,
                qkv_bias=vision.qkv_bias,
                drop_path_rate=vision.drop_path_rate,
                max_position_embeddings=vision.max_grid,
                max_temporal_embeddings=vision.max_temporal,
                projection_dim=text.dim,
            ),
            text_config=BartConfig(
                vocab_size=text.vocab_size,
                d_model=text.dim,
                encoder_layers=text.encoder_layers,
                decoder_layers=text.decoder_layers,
                encoder_attention_heads=text.encoder_heads,
                decoder_attention_heads=text.decoder_heads,
                encoder_ffn_dim=text.encoder_ffn,
                decoder_ffn_dim=text.decoder_ffn,
                max_position_embeddings=text.max_positions,
                dropout=text.dropout,
            ).to_dict(),
            image_token_id=text.vocab_size - 1,
        ),
        attn_implementation="eager",
        dtype=torch.float32,
    )
    randomise(reference, seed=seed)
    return reference.eval()


@torch.no_grad()
def randomise(model: nn.Module, *, seed: int) -> None:
    """Fills every parameter of transformers' model from one seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.copy_(0.2 * noise + (1.0 if name.endswith("weight") else 0.0))
        elif parameter.ndim == 1:
            parameter.copy_(0.2 * noise)
        else:
            parameter.copy_(_gain(name) * parameter[0].numel() ** -0.5 * noise)


# The first part that a name contains decides; other matrices have unit gain. Embeddings, positions and the text's
# queries are made to stand out. Depthwise convolutions, vision attention and the ends of residual branches stay mild:
# 48 branches follow one another, and a qkv gain of 1.4 turns fp32 rounding into features 0.02 apart at 768 pixels.
_GAINS = {
    "conv1": 0.3,
    "conv2": 0.3,
    "shared": 4.0,
    "embed": 4.0,
    "qkv": 0.8,
    "q_proj": 2.0,
    ".proj.": 0.5,
    "out_proj": 0.5,
    "fc2": 0.5,
}


def _gain(name: str) -> float:
    return next((gain for part, gain in _GAINS.items() if part in name), 1.0)


def reference_features(reference: Any, pixels: Tensor) -> Tensor:
    """Image features `[B, N, D]` of pixels `[B, 3, H, W]`."""
    with torch.no_grad():
        features: Tensor = reference.get_image_features(pixels).pooler_output
    return features


def reference_logits(reference: Any, features: Tensor, prompt_ids: Tensor, decoder_ids: Tensor, mask: Tensor) -> Tensor:
    """Teacher-forced logits `[B, T, V]` for features `[B, N, D]`, a prompt and its mask `[B, T']`."""
    with torch.no_grad():
        embedded = torch.cat([features, reference.get_input_embeddings()(prompt_ids)], dim=1)
        seen = torch.cat([torch.ones(features.shape[:2], dtype=torch.bool), mask], dim=1)
        output = reference(inputs_embeds=embedded, attention_mask=seen.long(), decoder_input_ids=decoder_ids)
    logits: Tensor = output.logits
    return logits
