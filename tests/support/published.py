"""Random checkpoint folders in both published layouts, at tiny and at true base size.

Names are written down here a second time, by hand and from transformers' side, so that the tests do not check the
rename tables of `florence_train.names` against themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor

from florence_edge.vocabulary import SPECIAL_TOKENS
from florence_train.model import BASE, FlorenceConfig
from florence_train.tiny import tiny_config
from support.oracle import reference_model

Layout = Literal["microsoft", "native"]
Container = Literal["bin", "safetensors", "sharded"]

TINY_TEXT_TOKENS = 300
BASE_TEXT_TOKENS = 50265

# Native name -> microsoft name, as successive replacements of substrings.
_TO_MICROSOFT = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.image_projection.weight", "image_projection"),
    ("model.multi_modal_projector.image_position_embed.", "image_pos_embed."),
    ("model.multi_modal_projector.", ""),
    ("model.language_model.", "language_model.model."),
)
_IN_CONVS = ((".conv.", ".proj."),)
_IN_BLOCKS = (
    (".conv1.", ".conv1.fn.dw."),
    (".conv2.", ".conv2.fn.dw."),
    (".window_attn.", ".window_attn.fn."),
    (".channel_attn.", ".channel_attn.fn."),
    (".ffn.", ".ffn.fn.net."),
    (".norm2.", ".ffn.norm."),
    ("spatial_block.norm1.", "spatial_block.window_attn.norm."),
    ("channel_block.norm1.", "channel_block.channel_attn.norm."),
)


def published_config(size: Literal["tiny", "base"]) -> FlorenceConfig:
    """The dimensions of `write_published`'s models, with the vocabulary that holds exactly the real tokens."""
    return tiny_config(TINY_TEXT_TOKENS + len(SPECIAL_TOKENS)) if size == "tiny" else BASE


def write_published(
    folder: Path,
    *,
    layout: Layout,
    size: Literal["tiny", "base"] = "tiny",
    seed: int = 0,
    container: Container = "safetensors",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Writes a random checkpoint as its publisher would and returns transformers' model with the very same weights.

    The same size and seed give the same model in both layouts. The native one has `<image>` and padding rows.
    """
    config = published_config(size)
    reference = reference_model(config, seed=seed)
    for parameter in reference.parameters():
        parameter.data = parameter.data.to(dtype).float()
    native = {name: tensor.to(dtype) for name, tensor in reference.state_dict().items()}
    tensors = to_microsoft(native) if layout == "microsoft" else pad_rows(native)
    write_folder(folder, layout, config, tensors, container=container)
    return reference


def write_folder(
    folder: Path,
    layout: Layout,
    config: FlorenceConfig,
    tensors: dict[str, Tensor],
    *,
    container: Container = "safetensors",
) -> None:
    """Writes tensors that already have a layout's names, with that layout's JSON files and a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, tensors, container)
    special = config.text.vocab_size - len(SPECIAL_TOKENS)
    documents = microsoft_documents(config) if layout == "microsoft" else native_documents(config)
    documents["tokenizer.json"] = tokenizer_document(special, native=layout == "native")
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))


def to_microsoft(native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames transformers' tensors to microsoft's names; the projection is stored transposed, a zero bias is added."""
    renamed = {}
    for name, tensor in native.items():
        if name == "lm_head.weight":
            target = "language_model.lm_head.weight"
        else:
            target = _replace(name, _TO_MICROSOFT)
            if target.startswith("vision_tower.convs."):
                target = _replace(target, _IN_CONVS)
            if target.startswith("vision_tower.blocks."):
                target = _replace(target, _IN_BLOCKS)
        renamed[target] = tensor.T.contiguous() if target == "image_projection" else tensor
    rows = native["lm_head.weight"].shape[0]
    renamed["language_model.final_logits_bias"] = torch.zeros(1, rows, dtype=native["lm_head.weight"].dtype)
    return renamed


def pad_rows(native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Appends `<image>` and padding up to a multiple of 64 rows to the tied embedding, large enough to win argmax."""
    padded = dict(native)
    shared = native["model.language_model.shared.weight"]
    rows = -(-(shared.shape[0] + 1) // 64) * 64
    extra = 50 * torch.ones(rows - shared.shape[0], shared.shape[1], dtype=shared.dtype)
    grown = torch.cat([shared, extra])
    for name in native:
        if name == "lm_head.weight" or name.endswith(("shared.weight", "embed_tokens.weight")):
            padded[name] = grown
    return padded


def native_documents(config: FlorenceConfig) -> dict[str, Any]:
    """JSON files of a `florence-community/*` folder."""
    vision, text, real = config.vision, config.text, config.text.vocab_size
    return {
        "config.json": {
            "model_type": "florence2",
            "image_token_id": real,
            "text_config": {**_text_document(config), "model_type": "bart", "vocab_size": -(-(real + 1) // 64) * 64},
            "vision_config": {
                **_stage_document(config),
                "model_type": "florence_vision",
                "embed_dim": list(vision.dims),
                "max_position_embeddings": vision.max_grid,
                "max_temporal_embeddings": vision.max_temporal,
                "projection_dim": text.dim,
            },
        },
        "generation_config.json": {
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "num_beams": 3,
            "early_stopping": True,
            "no_repeat_ngram_size": 3,
        },
        "preprocessor_config.json": _image_document(config),
    }


def microsoft_documents(config: FlorenceConfig) -> dict[str, Any]:
    """JSON files of a `microsoft/*` folder."""
    vision, text = config.vision, config.text
    return {
        "config.json": {
            "model_type": "florence2",
            "vocab_size": text.vocab_size,
            "projection_dim": text.dim,
            "text_config": {
                **_text_document(config),
                "model_type": "florence2_language",
                "vocab_size": text.vocab_size,
                "num_beams": 3,
                "early_stopping": True,
                "no_repeat_ngram_size": 3,
                "forced_bos_token_id": 0,
            },
            "vision_config": {
                **_stage_document(config),
                "model_type": "davit",
                "dim_embed": list(vision.dims),
                "projection_dim": text.dim,
                "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.max_grid},
                "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": vision.max_temporal},
                "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
            },
        },
        "generation_config.json": {"num_beams": 3, "early_stopping": False},
        "preprocessor_config.json": _image_document(config),
    }


def tokenizer_document(text_tokens: int, *, native: bool) -> dict[str, Any]:
    """A tokenizer.json like BART's: byte alphabet, filler words, `<mask>` last; with the added tokens if native."""
    base = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"\u0120w{i}" for i in range(text_tokens - len(base) - len(alphabet) - 1)]
    words = [*base, *alphabet, *fillers, "<mask>"]
    added = [(token, words.index(token)) for token in (*base, "<mask>")]
    if native:
        added += [(token, text_tokens + i) for i, token in enumerate((*SPECIAL_TOKENS, "<image>"))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [{"id": index, "content": token, **flags} for token, index in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": ["</s>", 2],
            "cls": ["<s>", 0],
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }


def write_tensors(folder: Path, tensors: dict[str, Tensor], container: Container) -> None:
    """Writes a weight file, or two shards with their index, as `torch.save` or safetensors."""
    if container == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    # safetensors refuses tensors that share memory, so publishers keep one name of a tied tensor.
    first = {tensor.data_ptr(): name for name, tensor in reversed(tensors.items())}
    single = {name: tensors[name].contiguous() for name in first.values()}
    if container == "safetensors":
        save_file(single, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(single)
    shards = {f"model-{i + 1:05d}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, keys in shards.items():
        save_file({key: single[key] for key in keys}, folder / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _replace(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def _text_document(config: FlorenceConfig) -> dict[str, Any]:
    text = config.text
    return {
        "d_model": text.dim,
        "encoder_layers": text.encoder_layers,
        "decoder_layers": text.decoder_layers,
        "encoder_attention_heads": text.encoder_heads,
        "decoder_attention_heads": text.decoder_heads,
        "encoder_ffn_dim": text.encoder_ffn,
        "decoder_ffn_dim": text.decoder_ffn,
        "max_position_embeddings": text.max_positions,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": text.dropout,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }


def _stage_document(config: FlorenceConfig) -> dict[str, Any]:
    vision = config.vision
    return {
        "depths": list(vision.depths),
        "num_heads": list(vision.heads),
        "num_groups": list(vision.groups),
        "patch_size": list(vision.patch_sizes),
        "patch_stride": list(vision.patch_strides),
        "patch_padding": list(vision.patch_paddings),
        "patch_prenorm": list(vision.patch_prenorms),
        "window_size": vision.window,
        "drop_path_rate": vision.drop_path_rate,
    }


def _image_document(config: FlorenceConfig) -> dict[str, Any]:
    size = {"height": config.image.height, "width": config.image.width}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": size,
        "crop_size": size,
        "do_center_crop": False,
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_seq_length": config.image_tokens(config.image.height, config.image.width),
    }
