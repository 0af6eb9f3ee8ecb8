"""Rename tables from the two published checkpoint layouts to this model's parameter names, and the one engine for them.

In a pattern `#` stands for a number and `@` for `weight` or `bias`; they are copied to the target in order. Rows that
name no target are `TIED` (one tensor stored under several names) or `ZERO` (must be all zeros and is dropped).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from florence_edge.errors import CheckpointError, listing

EMBEDDING = "embedding.weight"
MAX_LISTED = 40


@dataclass(frozen=True)
class Rename:
    """One row: a source pattern, the target pattern, and whether the matrix is stored transposed."""

    source: str
    target: str
    transposed: bool = False

    def ours(self, key: str) -> str | None:
        """Our name of the checkpoint's `key`, or None if this row does not match it."""
        return _translate(key, self.source, self.target)

    def theirs(self, name: str) -> str | None:
        """The checkpoint's name of our `name`, or None if this row does not match it."""
        return _translate(name, self.target, self.source)


@dataclass(frozen=True)
class NameTable:
    """One layout: its rename rows, the names under which the tied embedding may be stored, and all-zero leftovers."""

    renames: tuple[Rename, ...]
    tied: tuple[str, ...]
    zero: tuple[str, ...] = ()


def _rows(source: str, target: str, pairs: Mapping[str, str]) -> tuple[Rename, ...]:
    return tuple(Rename(source + theirs, target + ours) for theirs, ours in pairs.items())


def _attention(theirs: str, ours: str) -> dict[str, str]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    return {f"{theirs}.{a}.@": f"{ours}.{b}.@" for a, b in parts.items()}


_TEXT_STACK = {"embed_positions.weight": "positions.weight", "layernorm_embedding.@": "norm.@"}
_TEXT_MLP = {"fc1.@": "mlp.fc1.@", "fc2.@": "mlp.fc2.@", "final_layer_norm.@": "mlp_norm.@"}
_ENCODER_LAYER = {
    **_attention("self_attn", "attention"),
    "self_attn_layer_norm.@": "attention_norm.@",
    **_TEXT_MLP,
}
_DECODER_LAYER = {
    **_attention("self_attn", "self_attention"),
    "self_attn_layer_norm.@": "self_norm.@",
    **_attention("encoder_attn", "cross_attention"),
    "encoder_attn_layer_norm.@": "cross_norm.@",
    **_TEXT_MLP,
}


def _text(prefix: str) -> tuple[Rename, ...]:
    """BART has the same names in both layouts, below different prefixes."""
    return (
        *_rows(f"{prefix}.encoder.", "encoder.", _TEXT_STACK),
        *_rows(f"{prefix}.encoder.layers.#.", "encoder.layers.#.", _ENCODER_LAYER),
        *_rows(f"{prefix}.decoder.", "decoder.", _TEXT_STACK),
        *_rows(f"{prefix}.decoder.layers.#.", "decoder.layers.#.", _DECODER_LAYER),
    )


def _tied(prefix: str, head: str) -> tuple[str, ...]:
    stacks = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    return (*(f"{prefix}.{stack}.weight" for stack in stacks), f"{head}.weight")


_MICROSOFT_BLOCK = {
    "conv1.fn.dw.@": "conv1.@",
    "conv2.fn.dw.@": "conv2.@",
    "ffn.norm.@": "norm2.@",
    "ffn.fn.net.fc1.@": "mlp.fc1.@",
    "ffn.fn.net.fc2.@": "mlp.fc2.@",
}


def _microsoft_block(attention: str) -> dict[str, str]:
    wrapped = {"norm.@": "norm1.@", "fn.qkv.@": "attention.qkv.@", "fn.proj.@": "attention.proj.@"}
    return {**_MICROSOFT_BLOCK, **{f"{attention}.{theirs}": ours for theirs, ours in wrapped.items()}}


MICROSOFT = NameTable(
    renames=(
        *_rows("vision_tower.convs.#.", "vision.stages.#.embed.", {"proj.@": "conv.@", "norm.@": "norm.@"}),
        *_rows(
            "vision_tower.blocks.#.#.spatial_block.",
            "vision.stages.#.blocks.#.spatial.",
            _microsoft_block("window_attn"),
        ),
        *_rows(
            "vision_tower.blocks.#.#.channel_block.",
            "vision.stages.#.blocks.#.channel.",
            _microsoft_block("channel_attn"),
        ),
        Rename("image_projection", "projector.proj.weight", transposed=True),
        Rename("image_proj_norm.@", "projector.norm.@"),
        Rename("image_pos_embed.row_embeddings.weight", "projector.rows.weight"),
        Rename("image_pos_embed.column_embeddings.weight", "projector.columns.weight"),
        Rename("visual_temporal_embed.pos_idx_to_embed", "projector.temporal"),
        *_text("language_model.model"),
    ),
    tied=_tied("language_model.model", "language_model.lm_head"),
    zero=("language_model.final_logits_bias",),
)


def _native_block(attention: str) -> dict[str, str]:
    same = {f"{name}.@": f"{name}.@" for name in ("conv1", "norm1", "conv2", "norm2")}
    attention_rows = {f"{attention}.qkv.@": "attention.qkv.@", f"{attention}.proj.@": "attention.proj.@"}
    return {**same, **attention_rows, "ffn.fc1.@": "mlp.fc1.@", "ffn.fc2.@": "mlp.fc2.@"}


_PROJECTOR = "model.multi_modal_projector"
NATIVE = NameTable(
    renames=(
        *_rows("model.vision_tower.convs.#.", "vision.stages.#.embed.", {"conv.@": "conv.@", "norm.@": "norm.@"}),
        *_rows(
            "model.vision_tower.blocks.#.#.spatial_block.",
            "vision.stages.#.blocks.#.spatial.",
            _native_block("window_attn"),
        ),
        *_rows(
            "model.vision_tower.blocks.#.#.channel_block.",
            "vision.stages.#.blocks.#.channel.",
            _native_block("channel_attn"),
        ),
        Rename(f"{_PROJECTOR}.image_projection.weight", "projector.proj.weight"),
        Rename(f"{_PROJECTOR}.image_proj_norm.@", "projector.norm.@"),
        Rename(f"{_PROJECTOR}.image_position_embed.row_embeddings.weight", "projector.rows.weight"),
        Rename(f"{_PROJECTOR}.image_position_embed.column_embeddings.weight", "projector.columns.weight"),
        Rename(f"{_PROJECTOR}.visual_temporal_embed.pos_idx_to_embed", "projector.temporal"),
        *_text("model.language_model"),
    ),
    tied=_tied("model.language_model", "lm_head"),
)


def rename(source: Mapping[str, Tensor], table: NameTable, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns `source` under our names and in fp32, or raises one `CheckpointError` that lists every fault.

    `expected` gives the names and shapes of the model: its state dict, which may lie on the meta device.
    """
    faults: list[str] = []
    renamed: dict[str, Tensor] = {}
    for key in source.keys() - {*table.tied, *table.zero}:
        matches = [(name, row) for row in table.renames if (name := row.ours(key))]
        if len(matches) == 1:
            name, row = matches[0]
            renamed[name] = source[key].T if row.transposed else source[key]
        else:
            faults.append(f"unknown tensor {key} {list(source[key].shape)}")
    if not renamed:
        raise CheckpointError(
            f"none of the {len(source)} tensors has a name of the layout that config.json announces (the first is "
            f"{min(source, default='none')}); the two files do not belong together"
        )
    embedding, tie_faults = _tied_embedding(source, table)
    faults += tie_faults
    if embedding is not None:
        renamed[EMBEDDING] = embedding
    faults += [f"{key} must be all zeros" for key in table.zero if key in source and bool(source[key].any())]
    faults += _misfits(renamed, expected, table)
    if faults:
        raise CheckpointError(listing("the checkpoint's tensors do not fit the model of its config.json", _cut(faults)))
    return {name: tensor.to(torch.float32).contiguous() for name, tensor in renamed.items()}


def restore(parameters: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """The inverse of `rename`; the tied embedding is written once, under the first of its names."""
    restored = {table.tied[0]: parameters[EMBEDDING]}
    for name in parameters.keys() - {EMBEDDING}:
        key, row = next((key, row) for row in table.renames if (key := row.theirs(name)))
        restored[key] = (parameters[name].T if row.transposed else parameters[name]).contiguous()
    return restored


def _translate(name: str, pattern: str, template: str) -> str | None:
    match = _compile(pattern).fullmatch(name)
    if match is None:
        return None
    pieces = re.split("[#@]", template)
    return "".join(chain.from_iterable(zip(pieces, (*match.groups(), ""), strict=True)))


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace("@", "(weight|bias)"))


def _tied_embedding(source: Mapping[str, Tensor], table: NameTable) -> tuple[Tensor | None, list[str]]:
    present = [key for key in table.tied if key in source]
    if not present:
        return None, []
    first = source[present[0]]
    faults = [f"{key} must equal {present[0]}" for key in present[1:] if not torch.equal(source[key], first)]
    return first, faults


def _misfits(renamed: Mapping[str, Tensor], expected: Mapping[str, Tensor], table: NameTable) -> list[str]:
    """Lists what is missing, not in the model, or of another shape, under the names that the checkpoint uses."""

    def stored(name: str) -> str:
        return table.tied[0] if name == EMBEDDING else next(key for row in table.renames if (key := row.theirs(name)))

    transposed = {row.target for row in table.renames if row.transposed}
    missing, surplus = expected.keys() - renamed.keys(), renamed.keys() - expected.keys()
    faults = [f"missing tensor {stored(name)} {list(expected[name].shape)}" for name in missing]
    faults += [f"surplus tensor {stored(name)}: the model has no such layer" for name in surplus]
    for name in renamed.keys() & expected.keys():
        found, wanted = renamed[name], expected[name]
        if found.shape != wanted.shape:
            shapes = [list(tensor.T.shape if name in transposed else tensor.shape) for tensor in (found, wanted)]
            faults.append(f"misshapen tensor {stored(name)}: {shapes[0]}, expected {shapes[1]}")
        elif not found.is_floating_point():
            faults.append(f"tensor {stored(name)} is {found.dtype}, expected floating point")
    return faults


def _cut(faults: list[str]) -> list[str]:
    """Sorts the faults and keeps the list readable when a wholly different model was given."""
    faults = sorted(faults)
    more = len(faults) - MAX_LISTED
    return faults if more <= 0 else [*faults[:MAX_LISTED], f"... and {more} more"]
