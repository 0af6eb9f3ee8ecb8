"""Florence-2 as one module: vision tower, projector, BART, and the embedding that ties input and output tokens.

Two ways through the decoder: `forward`/`decode` for whole sequences (training, the reference in tests), and
`encode_prompt` + `decode_step` for generation. The latter two are exported as they stand, so they hold no Python branch
on tensor values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from florence_edge.errors import InputError

from .bart import CrossCache, Decoder, Encoder, SelfCache
from .config import FlorenceConfig
from .davit import DaViT, DepthwiseConv
from .layers import MASKED
from .projector import Projector


class StepOutput(NamedTuple):
    """Result of `decode_step`: logits `[B, K, V]` and, per layer, the new keys and values `[B, heads, K, head_dim]`."""

    logits: Tensor
    keys: list[Tensor]
    values: list[Tensor]


class FlorenceModel(nn.Module):
    """Florence-2. B images or prompts, N image tokens, T prompt or decoder tokens, S = N + T, K beams, D width."""

    suppression: Tensor | None

    def __init__(self, config: FlorenceConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = DaViT(config.vision)
        self.projector = Projector(config)
        self.embedding = nn.Embedding(config.text.vocab_size, config.text.dim)
        self.encoder = Encoder(config.text)
        self.decoder = Decoder(config.text)
        self.register_buffer("suppression", _suppression(config), persistent=False)
        self.apply(_initialise)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels `[B, 3, H, W]`, normalised RGB -> image features `[B, N, D]`, the pooled token first.

        Any H and W within `FlorenceConfig.image_tokens`; `InputError` names the limit otherwise. An exported graph has
        the H and W of its example.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self.config.vision.in_channels:
            channels = self.config.vision.in_channels
            raise InputError(f"pixels must be [B, {channels}, H, W], got shape {tuple(pixels.shape)}")
        self.config.image_tokens(pixels.shape[2], pixels.shape[3])
        features: Tensor = self.projector(self.vision(pixels))
        return features

    def encode_prompt(self, features: Tensor, prompt_ids: Tensor, prompt_mask: Tensor) -> CrossCache:
        """Encodes image and prompt together and projects the cross-attention keys and values of every decoder layer.

        features `[B, N, D]`; prompt_ids int64 `[B, T]`; prompt_mask bool `[B, T]`, True where a token is real. Padding
        is masked everywhere, so a padded prompt gives what it gives alone.
        """
        self._check_length(features.shape[1] + prompt_ids.shape[1], "image and prompt")
        tokens = torch.cat([features, self.embedding(prompt_ids).to(features.dtype)], dim=1)
        mask = F.pad(prompt_mask, (features.shape[1], 0), value=True)
        return self.decoder.cross_cache(self.encoder(tokens, mask), mask)

    def decode_step(
        self, token_ids: Tensor, position: Tensor, ancestors: Tensor, self_cache: SelfCache, cross: CrossCache
    ) -> StepOutput:
        """One step of all K beams of B prompts. The self cache is read, never written and never reordered.

        token_ids int64 `[B, K]`, the token at `position` (int64 scalar tensor, 0 for the start token) of each beam;
        ancestors int32 `[B, K, L]`, the beam slot that holds position t of beam k's history, -1 where there is none;
        self_cache keys and values `[B, heads, L, K, head_dim]` per layer, slots that no ancestor names may hold
        anything finite. The caller writes the returned entries to `cache[:, :, position]` and updates the ancestors.
        """
        tokens = self.embedding(token_ids)
        hidden, keys, values = self.decoder.step(tokens, position, ancestors, SelfCache(*self_cache), cross)
        return StepOutput(self._logits(hidden), keys, values)

    def decode(
        self,
        features: Tensor,
        prompt_ids: Tensor,
        decoder_ids: Tensor,
        prompt_mask: Tensor | None = None,
        *,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing on encoded features `[B, N, D]` -> logits `[B, T, V]`, or `[n, V]` of the `wanted` positions.

        To train many prompts on one image, encode it once and pass `features[image_of]`, image_of int64 `[B]`. `wanted`
        bool `[B, T]` spares the widest product of the model where nothing is asked, such as on padding.
        """
        if prompt_mask is None:
            prompt_mask = torch.ones_like(prompt_ids, dtype=torch.bool)
        self._check_length(decoder_ids.shape[1], "decoder")
        cross = self.encode_prompt(features, prompt_ids, prompt_mask)
        hidden = self.decoder(self.embedding(decoder_ids), cross)
        return self._logits(hidden if wanted is None else hidden[wanted])

    def forward(
        self, pixels: Tensor, prompt_ids: Tensor, decoder_ids: Tensor, prompt_mask: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: logits `[B, T, V]` of the token after each of decoder_ids `[B, T]`, causal.

        pixels `[B, 3, H, W]`; prompt_ids int64 `[B, T']` without image tokens; prompt_mask bool `[B, T']`, default all
        real. Padding at the end of decoder_ids needs no mask: no earlier position sees it.
        """
        return self.decode(self.encode_image(pixels), prompt_ids, decoder_ids, prompt_mask)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, self.embedding.weight)
        return logits if self.suppression is None else logits + self.suppression

    def _check_length(self, length: int, what: str) -> None:
        limit = self.config.text.max_positions
        # Under export a length is a symbol; comparing it would bake the example's answer into the graph.
        if not torch.compiler.is_exporting() and length > limit:
            raise InputError(f"{what} take {length} positions; the model has {limit}")


def _suppression(config: FlorenceConfig) -> Tensor | None:
    """Returns what is added to the logits so that unused ids are never emitted, `[V]`, or None if there are none."""
    if not config.text.unused_tokens:
        return None
    # A fact of the config, not a weight: it must be there even where the weights are still on the meta device.
    bias = torch.zeros(config.text.vocab_size, device="cpu")
    bias[list(config.text.unused_tokens)] = MASKED
    return bias


def _initialise(module: nn.Module) -> None:
    """Truncated normal with unit gain for training from scratch; biases zero, LayerNorms identity."""
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        return
    # Depthwise convolutions sit on the residual path itself: unit gain would double its variance at every one of them.
    gain = 0.06 if isinstance(module, DepthwiseConv) else 1.0
    fan_in = module.embedding_dim if isinstance(module, nn.Embedding) else module.weight[0].numel()
    std = gain * fan_in**-0.5
    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    if not isinstance(module, nn.Embedding) and module.bias is not None:
        nn.init.zeros_(module.bias)
