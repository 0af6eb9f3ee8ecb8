"""`config.json` and the image processor's file of both published layouts, as tables against `FlorenceConfig`.

An absent key takes the default of the class that wrote the file, as transformers itself would read it. Keys that the
model has no use for are ignored; values that would change its arithmetic are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from florence_edge.errors import CheckpointError, InputError, listing
from florence_edge.preprocess import ImageSpec

from .folder import CONFIG_FILE, read_json, read_optional_json
from .model.config import BASE, LARGE, FlorenceConfig

BICUBIC = 3


class Layout(Enum):
    """Who wrote the checkpoint: `microsoft/*` with its remote code, or transformers (`florence-community/*`)."""

    MICROSOFT = "microsoft"
    NATIVE = "native"


@dataclass(frozen=True)
class Key:
    """One row: our field, and the dotted key of each layout inside its section of config.json."""

    field: str
    native: str
    microsoft: str = ""

    def of(self, layout: Layout) -> str:
        """The key in one layout; they share it where the row names only one."""
        return self.microsoft or self.native if layout is Layout.MICROSOFT else self.native


VISION_KEYS = (
    Key("dims", "embed_dim", "dim_embed"),
    Key("depths", "depths"),
    Key("heads", "num_heads"),
    Key("groups", "num_groups"),
    Key("patch_sizes", "patch_size"),
    Key("patch_strides", "patch_stride"),
    Key("patch_paddings", "patch_padding"),
    Key("patch_prenorms", "patch_prenorm"),
    Key("in_channels", "in_channels", "in_chans"),
    Key("window", "window_size"),
    Key("mlp_ratio", "mlp_ratio"),
    Key("qkv_bias", "qkv_bias"),
    Key("drop_path_rate", "drop_path_rate"),
    Key("max_grid", "max_position_embeddings", "image_pos_embed.max_pos_embeddings"),
    Key("max_temporal", "max_temporal_embeddings", "visual_temporal_embedding.max_temporal_embeddings"),
)
TEXT_KEYS = (
    Key("vocab_size", "vocab_size"),
    Key("dim", "d_model"),
    Key("encoder_layers", "encoder_layers"),
    Key("decoder_layers", "decoder_layers"),
    Key("encoder_heads", "encoder_attention_heads"),
    Key("decoder_heads", "decoder_attention_heads"),
    Key("encoder_ffn", "encoder_ffn_dim"),
    Key("decoder_ffn", "decoder_ffn_dim"),
    Key("max_positions", "max_position_embeddings"),
    Key("dropout", "dropout"),
    Key("attention_dropout", "attention_dropout"),
    Key("activation_dropout", "activation_dropout"),
)
DEFAULTS = {
    Layout.NATIVE: replace(BASE, text=replace(LARGE.text, vocab_size=50265)),
    Layout.MICROSOFT: LARGE,
}
"""What each layout's own config classes assume where a key is absent."""

FIXED: Mapping[str, Any] = {
    "text_config.activation_function": "gelu",
    "text_config.scale_embedding": False,
    "text_config.normalize_before": False,
    "text_config.add_final_layer_norm": False,
    "text_config.add_bias_logits": False,
    "vision_config.activation_function": "gelu",
    "vision_config.image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    "vision_config.image_pos_embed.type": "learned_abs_2d",
    "vision_config.visual_temporal_embedding.type": "COSINE",
}
FIXED_IMAGE: Mapping[str, Any] = {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": BICUBIC}
"""Where present, both must hold: the model knows no other arithmetic."""


@dataclass(frozen=True)
class Published:
    """A folder's configuration: the model with all rows of its embedding, the layout, and the `<image>` token's id."""

    config: FlorenceConfig
    layout: Layout
    image_token: int | None


def read_config(folder: Path) -> Published:
    """Reads config.json and the image processor's file of either layout, or raises one `CheckpointError`."""
    document = read_json(folder / CONFIG_FILE)
    layout = _layout(document, folder)
    faults = [
        f"{key} is {value!r}; this model has {wanted!r}"
        for key, wanted in FIXED.items()
        if (value := _get(document, key)) is not None and value != wanted
    ]
    projection = _get(document, "vision_config.projection_dim")
    width = _get(document, "text_config.d_model")
    if None not in (projection, width) and projection != width:
        faults.append(f"vision_config.projection_dim is {projection}, text_config.d_model is {width}; they must agree")
    image = _image_spec(folder, faults)
    sections = {
        "vision": _section(document, "vision_config", VISION_KEYS, layout),
        "text": _section(document, "text_config", TEXT_KEYS, layout),
    }
    try:
        config = FlorenceConfig.from_dict({**sections, "image": image})
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise CheckpointError(listing(f"{folder / CONFIG_FILE} describes no model that can be built", faults))
    return Published(config, layout, document.get("image_token_id"))


def native_documents(config: FlorenceConfig, *, rows: int, image_token: int) -> dict[str, dict[str, Any]]:
    """Returns the contents of config.json, preprocessor_config.json and processor_config.json in the native layout."""
    values = config.to_dict()
    text = {key.native: values["text"][key.field] for key in TEXT_KEYS}
    vision = {key.native: values["vision"][key.field] for key in VISION_KEYS}
    return {
        CONFIG_FILE: {
            "architectures": ["Florence2ForConditionalGeneration"],
            "model_type": "florence2",
            "dtype": "float32",
            "image_token_id": image_token,
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
            "text_config": {"model_type": "bart", **text, "vocab_size": rows, "activation_function": "gelu"},
            "vision_config": {"model_type": "florence_vision", **vision, "projection_dim": config.text.dim},
        },
        "preprocessor_config.json": _image_document(config),
        "processor_config.json": {"processor_class": "Florence2Processor"},
    }


def _image_document(config: FlorenceConfig) -> dict[str, Any]:
    size = {"height": config.image.height, "width": config.image.width}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "do_resize": True,
        "size": size,
        "resample": BICUBIC,
        "do_center_crop": False,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image.mean),
        "image_std": list(config.image.std),
        "image_seq_length": config.image_tokens(config.image.height, config.image.width),
    }


def _layout(document: Mapping[str, Any], folder: Path) -> Layout:
    """Native first: its published files still carry the microsoft keys that they were converted from."""
    vision = document.get("vision_config")
    if document.get("model_type") != "florence2" or not isinstance(vision, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} is not that of a Florence-2 model: model_type must be florence2")
    if "embed_dim" in vision or "image_token_id" in document or vision.get("model_type") == "florence_vision":
        return Layout.NATIVE
    if "dim_embed" in vision or vision.get("model_type") == "davit":
        return Layout.MICROSOFT
    raise CheckpointError(
        f"{folder / CONFIG_FILE} is of neither published layout: vision_config must hold embed_dim (native) or "
        "dim_embed (microsoft)"
    )


def _section(document: Mapping[str, Any], section: str, keys: tuple[Key, ...], layout: Layout) -> dict[str, Any]:
    defaults = DEFAULTS[layout].to_dict()[section.removesuffix("_config")]
    found = {key.field: _get(document, f"{section}.{key.of(layout)}") for key in keys}
    return {**defaults, **{field: value for field, value in found.items() if value is not None}}


def _image_spec(folder: Path, faults: list[str]) -> dict[str, Any]:
    """Reads the image processor's settings; without any file they are the published ones."""
    document = read_optional_json(folder / "preprocessor_config.json")
    if not document:
        document = read_optional_json(folder / "processor_config.json").get("image_processor") or {}
    faults += [
        f"the image processor's {key} is {document[key]!r}; only {wanted!r} is supported"
        for key, wanted in FIXED_IMAGE.items()
        if document.get(key) not in (None, wanted)
    ]
    size = document.get("size") or {}
    if document.get("do_center_crop") and document.get("crop_size") != size:
        faults.append(f"the image processor crops to {document.get('crop_size')}; only a plain resize is supported")
    spec = asdict(ImageSpec())
    names = {"mean": document.get("image_mean"), "std": document.get("image_std"), **_sides(size, faults)}
    return {**spec, **{name: value for name, value in names.items() if value is not None}}


def _sides(size: Any, faults: list[str]) -> dict[str, Any]:
    if isinstance(size, dict) and (not size or {"height", "width"} <= size.keys()):
        return {"height": size.get("height"), "width": size.get("width")}
    faults.append(f"the image processor's size is {size!r}; it must name height and width")
    return {}


def _get(document: Mapping[str, Any], path: str) -> Any:
    """Looks a dotted key up; None where any part of it is absent."""
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
