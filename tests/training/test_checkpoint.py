"""Checkpoint folders: both published layouts in every container, the native one written, transformers as the judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor as _AutoProcessor

from florence_edge.errors import InputError
from florence_edge.options import SearchConfig
from florence_edge.tasks import TASKS
from florence_train import checkpoint
from florence_train.checkpoint import load_checkpoint, save_checkpoint
from florence_train.generation import read_generation
from florence_train.model import FlorenceModel
from florence_train.tiny import tiny_config, write_tiny_checkpoint
from florence_train.tokenizer import load_tokenizer, train_tokenizer
from support.oracle import REFERENCE, reference_features, reference_logits
from support.published import Container, Layout, published_config, write_published

AutoProcessor: Any = _AutoProcessor
LAYOUTS: tuple[Layout, ...] = ("microsoft", "native")
CONTAINERS: tuple[Container, ...] = ("bin", "safetensors", "sharded")


def logits_gap(model: FlorenceModel, reference: Any) -> float:
    """Largest difference of teacher-forced logits on the ids that both have, for one random batch."""
    generator = torch.Generator().manual_seed(5)
    size = model.config.text.vocab_size
    pixels = torch.randn(2, 3, 64, 64, generator=generator)
    ids = torch.randint(size, (2, 12), generator=generator)
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        ours = model(pixels, ids[:, :5], ids[:, 5:])
    theirs = reference_logits(reference, reference_features(reference, pixels), ids[:, :5], ids[:, 5:], mask)
    return float((ours - theirs[..., :size]).abs().max())


def same_weights(left: FlorenceModel, right: FlorenceModel) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_both_layouts_of_one_model_load_to_bit_equal_fp32_weights(
    tmp_path: Path, container: Container, dtype: torch.dtype
) -> None:
    for layout in LAYOUTS:
        reference = write_published(tmp_path / layout, layout=layout, container=container, dtype=dtype)
    (microsoft, config), (native, other) = (load_checkpoint(tmp_path / layout) for layout in LAYOUTS)
    assert config == other == published_config("tiny")
    assert same_weights(microsoft, native)
    assert {tensor.dtype for tensor in native.state_dict().values()} == {torch.float32}
    assert not native.training
    assert logits_gap(native, reference) < 1e-3


def test_rows_behind_the_last_token_are_cut_and_real_logits_equal_transformers_on_the_same_files(
    tmp_path: Path,
) -> None:
    write_published(tmp_path, layout="native")
    stored = json.loads((tmp_path / "config.json").read_text())["text_config"]["vocab_size"]
    model, config = load_checkpoint(tmp_path)
    assert config.text.vocab_size == published_config("tiny").text.vocab_size < stored
    assert config.text.unused_tokens == ()
    reference = REFERENCE.from_pretrained(tmp_path, attn_implementation="eager")
    assert logits_gap(model, reference) < 1e-3


def test_an_image_token_that_other_tokens_follow_keeps_its_row_and_is_never_emitted(tmp_path: Path) -> None:
    write_published(tmp_path, layout="native")
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    image = document["added_tokens"][-1]
    document["added_tokens"] += [{**image, "id": image["id"] + 2, "content": "<DocVQA>"}]
    document["added_tokens"] += [{**image, "id": image["id"] + 1, "content": "<extra>"}]
    path.write_text(json.dumps(document))
    model, config = load_checkpoint(tmp_path)
    assert config.text.vocab_size == image["id"] + 3
    assert config.text.unused_tokens == (image["id"],)
    ids = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 64, 64), ids, ids)
    assert (logits.softmax(-1)[..., image["id"]] == 0).all()
    save_checkpoint(model, config, tmp_path / "saved", tokenizer=load_tokenizer(tmp_path))
    again, reread = load_checkpoint(tmp_path / "saved")
    assert reread == config
    assert same_weights(model, again)
    with pytest.raises(InputError, match="unused_tokens"):
        save_checkpoint(model, config, tmp_path / "mute")


def test_without_a_tokenizer_the_vocabulary_ends_before_the_image_token(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        write_published(tmp_path / layout, layout=layout)
        (tmp_path / layout / "tokenizer.json").unlink()
        assert load_checkpoint(tmp_path / layout)[1] == published_config("tiny")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def test_transformers_loads_what_we_save_without_missing_or_unexpected_keys(tiny: Path) -> None:
    reference, report = REFERENCE.from_pretrained(tiny, attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    assert logits_gap(load_checkpoint(tiny)[0], reference) < 1e-3
    settings = read_generation(tiny)
    theirs = reference.generation_config
    assert (theirs.num_beams, theirs.no_repeat_ngram_size) == (settings.beams, settings.no_repeat_ngram)
    assert (theirs.forced_bos_token_id, theirs.decoder_start_token_id, theirs.early_stopping) == (0, 2, True)


def test_the_native_processor_reads_our_folder_and_feeds_the_model_as_we_do(tiny: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny)
    image = Image.effect_noise((90, 70), 80).convert("RGB")
    inputs = processor(text="<OD>", images=image, return_tensors="pt")
    prompt = next(task.prompt for task in TASKS if task.token == "<OD>")
    tokens = config_tokens(tiny)
    assert inputs["input_ids"][0, tokens:].tolist() == load_tokenizer(tiny).encode(prompt).ids
    assert (inputs["input_ids"][0, :tokens] == load_checkpoint(tiny)[1].text.vocab_size).all()
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)


def test_what_transformers_saves_itself_is_read_back(tiny: Path, tmp_path: Path) -> None:
    """Its own files leave defaults out and put the image processor's settings elsewhere."""
    REFERENCE.from_pretrained(tiny).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tiny).save_pretrained(tmp_path)
    (model, config), (again, reread) = load_checkpoint(tiny), load_checkpoint(tmp_path)
    assert reread == config
    assert same_weights(model, again)
    assert read_generation(tmp_path) == read_generation(tiny)


def config_tokens(folder: Path) -> int:
    config = load_checkpoint(folder)[1]
    return config.image_tokens(config.image.height, config.image.width)


def test_tiny_checkpoints_round_trip_and_depend_on_the_seed_alone(tiny: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name, seed in (("same", 0), ("other", 1)):
        write_tiny_checkpoint(tmp_path / name, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    files = {path.name for path in tiny.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} < files
    assert len({(tiny / name).stat().st_mode for name in files}) == 1
    assert all((tiny / name).read_bytes() == (tmp_path / "same" / name).read_bytes() for name in files)
    assert not same_weights(load_checkpoint(tiny)[0], load_checkpoint(tmp_path / "other")[0])


def test_everything_survives_saving(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a red cube", "two balls"], text_tokens=270)
    base = tiny_config(tokenizer.get_vocab_size())
    config = replace(
        base,
        vision=replace(base.vision, window=6, drop_path_rate=0.25, qkv_bias=False, mlp_ratio=2.0, max_grid=9),
        text=replace(base.text, dropout=0.2, attention_dropout=0.05, activation_dropout=0.01, max_positions=99),
        image=replace(base.image, height=96, width=160, mean=(0.4, 0.5, 0.6), std=(0.5, 0.5, 0.25)),
    )
    model = FlorenceModel(config)
    generation = SearchConfig(
        beams=1, max_new_tokens=40, min_new_tokens=2, early_stopping="never", no_repeat_ngram=0, forced_bos=None
    )
    save_checkpoint(
        model.half(), config, tmp_path / "model", tokenizer=tokenizer, generation=generation, metadata={"steps": 7}
    )
    again, reread = load_checkpoint(tmp_path / "model")
    assert reread == config
    assert same_weights(model.float(), again)
    assert read_generation(tmp_path / "model") == generation
    assert load_tokenizer(tmp_path / "model").get_vocab() == tokenizer.get_vocab()
    assert json.loads((tmp_path / "model" / "metadata.json").read_text()) == {"steps": 7}


def test_a_failed_save_leaves_the_old_folder_and_no_litter(tiny: Path, tmp_path: Path, monkeypatch: Any) -> None:
    model, config = load_checkpoint(tiny)
    target = tmp_path / "model"
    save_checkpoint(model, config, target, metadata={"run": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(model, config, target, metadata={"run": 2})
    assert json.loads((target / "metadata.json").read_text()) == {"run": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    save_checkpoint(model, config, target, metadata={"run": 3})
    assert json.loads((target / "metadata.json").read_text()) == {"run": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_another_models_tokenizer_is_refused(tiny: Path, tmp_path: Path) -> None:
    model, config = load_checkpoint(tiny)
    with pytest.raises(InputError, match="the tokenizer that the model was made for"):
        save_checkpoint(model, config, tmp_path / "x", tokenizer=train_tokenizer([], text_tokens=260))
    assert list(tmp_path.iterdir()) == []
