"""Unusable checkpoint folders: every fault is named, all of them at once, and no pickle ever runs code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from florence_edge.errors import CheckpointError
from florence_train.checkpoint import load_checkpoint
from florence_train.names import MICROSOFT, NATIVE, NameTable
from support.oracle import reference_model
from support.published import Layout, pad_rows, published_config, to_microsoft, write_folder, write_tensors

CONFIG = published_config("tiny")
IMAGE_FILE = "preprocessor_config.json"


@pytest.fixture(scope="module")
def native() -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = reference_model(CONFIG).state_dict()
    return tensors


def write(folder: Path, layout: Layout, tensors: dict[str, Tensor]) -> Path:
    write_folder(folder, layout, CONFIG, tensors, container="bin")
    return folder


def message(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("table", [MICROSOFT, NATIVE], ids=["microsoft", "native"])
def test_every_name_of_a_layout_matches_one_row_and_every_row_is_used(
    table: NameTable, native: dict[str, Tensor]
) -> None:
    tensors = to_microsoft(native) if table is MICROSOFT else native
    names = tensors.keys() - {*table.tied, *table.zero}
    matches = [[row for row in table.renames if row.ours(name)] for name in names]
    assert {len(rows) for rows in matches} == {1}
    assert {row for rows in matches for row in rows} == set(table.renames)


def test_missing_unknown_and_misshapen_tensors_are_listed_together(tmp_path: Path, native: dict[str, Tensor]) -> None:
    tensors = to_microsoft(native)
    gone = "vision_tower.blocks.2.1.channel_block.ffn.fn.net.fc2.bias"
    bent = "language_model.model.decoder.layers.1.encoder_attn.k_proj.weight"
    deep = "language_model.model.encoder.layers.2.fc1.weight"
    whole = "image_proj_norm.weight"
    del tensors[gone]
    tensors[bent] = tensors[bent][:, :-1]
    tensors["vision_tower.head.weight"] = torch.zeros(3)
    tensors[deep] = torch.zeros(4, 4)
    tensors[whole] = tensors[whole].long()
    text = message(write(tmp_path, "microsoft", tensors))
    for part in (
        f"missing tensor {gone} [64]",
        f"misshapen tensor {bent}: [64, 63], expected [64, 64]",
        "unknown tensor vision_tower.head.weight [3]",
        f"surplus tensor {deep}: the model has no such layer",
        f"tensor {whole} is torch.int64",
    ):
        assert part in text
    assert text.count("\n") == 5


def test_a_misshapen_projection_is_reported_as_it_is_stored(tmp_path: Path, native: dict[str, Tensor]) -> None:
    tensors = to_microsoft(native)
    tensors["image_projection"] = torch.zeros(64, 32)
    assert "image_projection: [64, 32], expected [64, 64]" in message(write(tmp_path, "microsoft", tensors))


def test_tied_names_must_agree_and_a_final_bias_must_be_zero(tmp_path: Path, native: dict[str, Tensor]) -> None:
    tensors = to_microsoft(native)
    tensors["language_model.lm_head.weight"] = tensors["language_model.lm_head.weight"] + 1
    tensors["language_model.final_logits_bias"] = torch.ones(1, CONFIG.text.vocab_size)
    text = message(write(tmp_path, "microsoft", tensors))
    assert "language_model.lm_head.weight must equal language_model.model.shared.weight" in text
    assert "language_model.final_logits_bias must be all zeros" in text


@pytest.mark.parametrize("kept", range(4))
def test_any_one_name_of_the_tied_embedding_is_enough(tmp_path: Path, native: dict[str, Tensor], kept: int) -> None:
    tensors = to_microsoft(native)
    for name in set(MICROSOFT.tied) - {MICROSOFT.tied[kept]}:
        del tensors[name]
    model, _ = load_checkpoint(write(tmp_path, "microsoft", tensors))
    assert torch.equal(model.embedding.weight, native["lm_head.weight"])


def test_a_long_list_of_faults_is_cut(tmp_path: Path, native: dict[str, Tensor]) -> None:
    tensors = {name: tensor for name, tensor in to_microsoft(native).items() if "blocks" not in name}
    lines = message(write(tmp_path, "microsoft", tensors)).splitlines()
    gone = len(native) - len(tensors) + 1
    assert lines[-1].strip() == f"- ... and {gone - 40} more"
    assert len(lines) == 42


def test_a_missing_embedding_is_missed(tmp_path: Path, native: dict[str, Tensor]) -> None:
    tensors = {name: tensor for name, tensor in native.items() if name not in NATIVE.tied}
    assert "missing tensor model.language_model.shared.weight" in message(write(tmp_path, "native", tensors))


def test_tensors_of_the_other_layout_are_refused(tmp_path: Path, native: dict[str, Tensor]) -> None:
    for layout, tensors in (("microsoft", pad_rows(native)), ("native", to_microsoft(native))):
        text = message(write(tmp_path / layout, layout, tensors))  # type: ignore[arg-type]  # a literal in a tuple
        assert f"none of the {len(tensors)} tensors has a name of the layout" in text


class Payload:
    """What a malicious pickle would hold."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, native: dict[str, Tensor]) -> None:
    write(tmp_path, "microsoft", to_microsoft(native))
    torch.save({"image_projection": Payload(tmp_path / "witness")}, tmp_path / "pytorch_model.bin")
    assert "a pickle that asks for code is never run" in message(tmp_path)
    assert not (tmp_path / "witness").exists()


def _overwrite(path: Path, text: str) -> None:
    path.write_text(text)


def _truncate(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:1000])


def _other_object(folder: Path) -> None:
    torch.save([1, 2], folder / "pytorch_model.bin")


def _no_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not a header")


def _index(table: dict[str, str]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))

    return change


def _lost_tensor(folder: Path) -> None:
    write_tensors(folder, {"here": torch.zeros(1)}, "safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    _index({"here": "part.safetensors", "gone": "part.safetensors"})(folder)


def _json(change: Callable[[dict[str, Any]], object], name: str = "config.json") -> Callable[[Path], None]:
    return lambda folder: edit(folder / name, change)


FAULTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated pickle": (_truncate, ("cannot be read as a file of weights alone",)),
    "pickle of something else": (_other_object, ("other than a table of tensors",)),
    "no weights": (_no_weights, ("holds no weights", "model.safetensors", "pytorch_model.bin")),
    "safetensors garbage": (_garbage, ("cannot be read as safetensors",)),
    "shards outside or absent": (
        _index({"a": "../x.safetensors", "b": "gone.safetensors"}),
        ("../x.safetensors is not a plain file name", "gone.safetensors does not exist"),
    ),
    "empty index": (_index({}), ("names no tensors",)),
    "tensor not in its shard": (_lost_tensor, ("gone is not in part.safetensors",)),
    "no config": (lambda folder: (folder / "config.json").unlink(), ("config.json does not exist",)),
    "config not JSON": (lambda folder: _overwrite(folder / "config.json", "{"), ("cannot be read as JSON",)),
    "config not an object": (lambda folder: _overwrite(folder / "config.json", "[]"), ("expected a JSON object",)),
    "another model": (_json(lambda d: d.update(model_type="bart")), ("not", "Florence-2")),
    "neither layout": (_json(lambda d: d.update(vision_config={})), ("neither published layout",)),
    "other arithmetic": (
        _json(lambda d: (d["text_config"].update(scale_embedding=True), d["vision_config"].update(projection_dim=7))),
        ("text_config.scale_embedding is True", "projection_dim is 7"),
    ),
    "impossible dimensions": (
        _json(lambda d: (d["vision_config"].update(depths=[1, 1]), d["text_config"].update(d_model="wide"))),
        ("depths has 2 stages", "text.dim is 'wide'"),
    ),
    "another image processor": (
        _json(lambda d: d.update(resample=2, do_normalize=False, size={"shortest_edge": 64}), IMAGE_FILE),
        ("resample is 2", "do_normalize is False", "shortest_edge"),
    ),
    "image too large": (
        _json(lambda d: d.update(size={"height": 640, "width": 64}), IMAGE_FILE),
        ("640x64", "position table"),
    ),
    "tokenizer of a larger model": (
        _json(
            lambda d: d["added_tokens"].append({**d["added_tokens"][-1], "id": 1324, "content": "<more>"}),
            "tokenizer.json",
        ),
        ("they belong to different models",),
    ),
    "tokenizer without ends": (
        _json(lambda d: (d["added_tokens"].clear(), d["model"]["vocab"].pop("</s>")), "tokenizer.json"),
        ("</s>",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault: str, tmp_path: Path, native: dict[str, Tensor]) -> None:
    write(tmp_path, "microsoft", to_microsoft(native))
    damage, parts = FAULTS[fault]
    damage(tmp_path)
    text = message(tmp_path)
    for part in parts:
        assert part in text
