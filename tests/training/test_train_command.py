from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from florence_edge.cli.main import main
from florence_edge.errors import InputError
from florence_train.checkpoint import load_checkpoint
from florence_train.cli import register
from florence_train.recipe import load_recipe
from florence_train.run import train
from florence_train.tiny import write_tiny_checkpoint

SCRATCH = """
[model.image]
height = 64
width = 64
[model.vision]
dims = [8, 16]
depths = [1, 1]
heads = [1, 2]
groups = [1, 2]
patch_sizes = [7, 3]
patch_strides = [4, 4]
patch_paddings = [3, 1]
patch_prenorms = [false, true]
window = 4
max_grid = 8
[model.text]
dim = 16
encoder_layers = 1
decoder_layers = 1
encoder_heads = 2
decoder_heads = 2
encoder_ffn = 32
decoder_ffn = 32
max_positions = 256
[tokenizer]
text_tokens = 320
scenes = 3
[data]
images_per_step = 2
prompts_per_image = 2
workers = 0
[data.weights]
"<OD>" = 1.0
"<CAPTION>" = 1.0
[optimizer]
steps = 3
warmup_steps = 1
[loss]
location_sigma = [20.0, 4.0]
dense = 1.0
[output]
log_every = 1
"""


def _recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _data(folder: Path) -> Path:
    lines = []
    for index in range(3):
        Image.fromarray(np.full((64, 64, 3), 60 * index, np.uint8)).save(folder / f"{index}.png")
        lines.append({"image": f"{index}.png", "prefix": "<CAPTION>", "suffix": f"a picture of grey {index}"})
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_scratch_training_writes_a_checkpoint_that_transformers_loads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    outcome = train(load_recipe(_recipe(tmp_path, SCRATCH)), tmp_path / "run")
    assert outcome.finished
    _, info = transformers.Florence2ForConditionalGeneration.from_pretrained(
        tmp_path / "run" / "checkpoint", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    metadata = json.loads((tmp_path / "run" / "checkpoint" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["step"] == 3
    assert metadata["recipe_sha256"] == load_recipe(tmp_path / "recipe.toml").digest()
    generation = json.loads((tmp_path / "run" / "checkpoint" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["no_repeat_ngram_size"] == 0


def test_fine_tuning_changes_only_what_is_not_frozen(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start")
    text = (
        f'start = "{start}"\n[data]\nsource = "{_data(tmp_path)}"\nimages_per_step = 2\nworkers = 0\n'
        '[data.weights]\n"<CAPTION>" = 1.0\n[optimizer]\nsteps = 2\nwarmup_steps = 1\nfreeze = ["vision", "encoder"]\n'
        "[output]\nlog_every = 1\n"
    )
    train(load_recipe(_recipe(tmp_path, text)), tmp_path / "run")
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in (start, tmp_path / "run" / "checkpoint"))
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector", "embedding", "decoder"}


@pytest.mark.parametrize(
    ("line", "message"),
    [('freeze = ["visoin"]', "nothing is called visoin"), ('freeze = ["enc"]', "nothing is called enc")],
)
def test_an_unknown_part_to_freeze_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = _recipe(tmp_path, SCRATCH.replace("warmup_steps = 1", f"warmup_steps = 1\n{line}"))
    with pytest.raises(InputError, match=message):
        train(load_recipe(path), tmp_path / "run")


def test_a_recipe_with_a_start_and_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="either `start`"):
        train(load_recipe(_recipe(tmp_path, 'start = "somewhere"\n' + SCRATCH)), tmp_path / "run")


def test_the_command_resumes_and_tells_where_the_checkpoint_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence_edge.cli import main as module

    class Entry:
        name, value = "train", "florence_train.cli:register"

        def load(self) -> object:
            return register

    monkeypatch.setattr(module, "entry_points", lambda group: [Entry()])
    arguments = ["train", str(_recipe(tmp_path, SCRATCH)), str(tmp_path / "run"), "--json"]
    assert main([*arguments, "--until", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["step"], first["finished"]) == (1, False)
    assert main(arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["step"], second["finished"]) == (3, True)
    assert (Path(second["checkpoint"]) / "model.safetensors").is_file()
