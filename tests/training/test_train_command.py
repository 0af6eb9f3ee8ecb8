from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from florence_edge.cli import FAILED, INTERRUPTED, TERMINATED
from florence_edge.cli import main as commands
from florence_edge.cli.main import main
from florence_edge.errors import BundleError, DependencyError, InputError
from florence_edge.model import Florence
from florence_train import exporters
from florence_train.checkpoint import load_checkpoint
from florence_train.cli import register
from florence_train.data import digest as data_digest
from florence_train.data import load
from florence_train.folder import digest
from florence_train.recipe import load_recipe
from florence_train.run import train
from florence_train.tiny import write_tiny_checkpoint
from support.records import write_captions

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


class Entry:
    """An entry point as `importlib.metadata` gives it."""

    def __init__(self, name: str, loaded: object) -> None:
        self.name, self.value, self._loaded = name, name, loaded

    def load(self) -> object:
        return self._loaded


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`florence-edge train`, whether or not this package is installed."""
    monkeypatch.setattr(commands, "entry_points", lambda group: [Entry("train", register)])
    return lambda *arguments: main(["train", *map(str, arguments)])


@pytest.fixture
def tuning(tmp_path: Path) -> str:
    """A recipe that fine-tunes a tiny checkpoint on captions."""
    start = write_tiny_checkpoint(tmp_path / "start")
    return (
        f'start = "{start}"\n[data]\nsource = "{write_captions(tmp_path, 5)}"\nimages_per_step = 2\nworkers = 0\n'
        '[data.weights]\n"<CAPTION>" = 1.0\n[optimizer]\nsteps = 4\nwarmup_steps = 1\n[output]\nlog_every = 1\n'
    )


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


def test_fine_tuning_changes_only_what_is_not_frozen(tmp_path: Path, tuning: str) -> None:
    text = tuning.replace("warmup_steps = 1", 'warmup_steps = 1\nfreeze = ["vision", "encoder"]')
    train(load_recipe(_recipe(tmp_path, text)), tmp_path / "run")
    folders = (tmp_path / "start", tmp_path / "run" / "checkpoint")
    before, after = (load_checkpoint(folder)[0].state_dict() for folder in folders)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector", "embedding", "decoder"}


def test_the_checkpoint_names_the_recipe_the_start_and_the_data(tmp_path: Path, tuning: str) -> None:
    recipe = load_recipe(_recipe(tmp_path, tuning))
    train(recipe, tmp_path / "run")
    metadata = json.loads((tmp_path / "run" / "checkpoint" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["recipe"]["optimizer"]["steps"] == 4
    assert metadata["recipe_sha256"] == recipe.digest()
    assert metadata["start_sha256"] == digest(tmp_path / "start")
    assert metadata["data"] == f"sha256:{data_digest(load(tmp_path / 'data.jsonl'))}"


def test_data_that_changed_since_the_run_began_is_refused(tmp_path: Path, tuning: str) -> None:
    recipe = load_recipe(_recipe(tmp_path, tuning))
    train(recipe, tmp_path / "run", until=1)
    write_captions(tmp_path, 4)
    with pytest.raises(InputError, match="other contents of: data"):
        train(recipe, tmp_path / "run")


def test_the_best_model_on_a_held_out_part_is_the_result(tmp_path: Path, tuning: str) -> None:
    """With a learning rate that destroys the model, the best is the start itself."""
    wild = tuning.replace("steps = 4", "steps = 4\nlearning_rate = 10.0")
    text = wild + '[validation]\nevery = 2\nshare = 0.4\nmetric = "<CAPTION> ROUGE-L"\n'
    lines: list[dict[str, float]] = []
    outcome = train(load_recipe(_recipe(tmp_path, text)), tmp_path / "run", report=lines.append)
    told = {int(line["step"]): line for line in lines if "validation <CAPTION> ROUGE-L" in line}
    assert list(told) == [0, 2, 4]
    assert max(line["validation <CAPTION> ROUGE-L"] for line in told.values()) == told[4]["best"] == told[0]["best"]
    kept, start = (
        load_checkpoint(path)[0].state_dict() for path in (tmp_path / "run" / "checkpoint", tmp_path / "start")
    )
    assert all(torch.equal(kept[name], value) for name, value in start.items())
    assert not torch.equal(outcome.model.state_dict()["embedding.weight"], start["embedding.weight"])


def test_a_metric_that_is_not_measured_is_refused_before_the_first_step(tmp_path: Path, tuning: str) -> None:
    for metric, message in (("<CAPTION> mAP", "what was: .*ROUGE-L"), ("<OD> mAP", "asks nothing of <OD>")):
        text = tuning + f'[validation]\nevery = 2\nshare = 0.4\nmetric = "{metric}"\n'
        with pytest.raises(InputError, match=message):
            train(load_recipe(_recipe(tmp_path, text)), tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()


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
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    arguments = [_recipe(tmp_path, SCRATCH), tmp_path / "run", "--json"]
    assert command(*arguments, "--until", "1") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["step"], first["finished"]) == (1, False)
    assert command(*arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["step"], second["finished"]) == (3, True)
    assert (Path(second["checkpoint"]) / "model.safetensors").is_file()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_a_signal_ends_the_command_with_its_own_code_and_the_next_call_finishes(
    tmp_path: Path,
    tuning: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., int],
    number: signal.Signals,
    code: int,
) -> None:
    arguments = (_recipe(tmp_path, tuning), tmp_path / "run")

    def note(line: dict[str, float]) -> str:
        os.kill(os.getpid(), number)
        return ""

    with monkeypatch.context() as patch:
        patch.setattr("florence_train.train_command._note", note)
        assert command(*arguments) == code
    assert "saved after step" in capsys.readouterr().out
    assert command(*arguments) == 0
    assert command(*arguments, "--until", "99") == 0


def test_a_device_that_torch_does_not_know_is_said(
    tmp_path: Path, tuning: str, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    assert command(_recipe(tmp_path, tuning), tmp_path / "run", "--device", "gpu0") == FAILED
    assert "device is 'gpu0', which torch does not know; use cpu" in capsys.readouterr().err


def test_a_dry_run_says_what_a_run_costs_and_writes_nothing(
    tmp_path: Path, tuning: str, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    text = tuning + "[validation]\nevery = 2\nshare = 0.2\n[lora]\nrank = 2\n"
    assert command(_recipe(tmp_path, text), tmp_path / "run", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "run").exists()
    assert (found["steps"], found["images"], found["examples"], found["epochs"]) == (4, 4, {"<CAPTION>": 4}, 2.0)
    assert 0 < found["trained"] < 0.2 * found["parameters"]
    assert found["step_seconds"] > 0
    assert found["validation"] > 0
    assert command(_recipe(tmp_path, text), tmp_path / "run", "--dry-run") == 0
    assert "examples of <CAPTION>" in capsys.readouterr().out


def test_bad_data_is_refused_with_every_fault_or_left_out(
    tmp_path: Path, tuning: str, capsys: pytest.CaptureFixture[str], command: Callable[..., int]
) -> None:
    with (tmp_path / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"image": "9.png", "prefix": "<CAPTION>", "suffix": "gone"}\n')
        file.write('{"image": "0.png", "prefix": "<CAPTION>", "suffix": ""}\n')
        file.write(json.dumps({"image": "0.png", "prefix": "<CAPTION>", "suffix": "far too long " * 300}) + "\n")
    assert command(_recipe(tmp_path, tuning), tmp_path / "run", "--dry-run") == 1
    complaint = capsys.readouterr().err
    assert "line 6" in complaint
    assert "line 7" in complaint
    lenient = tuning.replace("[data.weights]", 'faults = "skip"\n[data.weights]')
    assert command(_recipe(tmp_path, lenient), tmp_path / "run", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], len(found["faults"])) == (5, 2)


def test_the_schedule_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[..., int]) -> None:
    recipe = _recipe(tmp_path, SCRATCH)
    for name, beginning in (("curve.svg", b"<?xml"), ("curve.png", b"\x89PNG")):
        assert command(recipe, tmp_path / "run", "--plot-schedule", tmp_path / name) == 0
        assert (tmp_path / name).read_bytes().startswith(beginning)
    assert not (tmp_path / "run").exists()
    assert command(recipe, tmp_path / "run", "--plot-schedule", tmp_path / "curve.txt") == 1
    assert "must be one of .svg" in capsys.readouterr().err


def test_a_finished_run_ends_in_a_bundle(
    tmp_path: Path, tuning: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    made: list[tuple[Path, Path]] = []

    def export(checkpoint: Path, out: Path, *, overwrite: bool) -> None:
        load_checkpoint(checkpoint)
        made.append((checkpoint, out))

    monkeypatch.setattr(exporters, "entry_points", lambda group: [Entry("onnx", export)])
    arguments = [_recipe(tmp_path, tuning), tmp_path / "run", "--json", "--bundle"]
    assert command(*arguments, "--until", "1") == 0
    assert not made
    capsys.readouterr()
    assert command(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == str(tmp_path / "run" / "bundle")
    assert made == [(tmp_path / "run" / "checkpoint", tmp_path / "run" / "bundle")]


def test_a_bundle_that_cannot_be_made_is_refused_before_training(
    tmp_path: Path, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(_recipe(tmp_path, tuning))
    monkeypatch.setattr(exporters, "entry_points", lambda group: [])
    with pytest.raises(DependencyError, match=r"florence-edge\[convert\]"):
        train(recipe, tmp_path / "run", bundle=tmp_path / "bundle")
    monkeypatch.setattr(exporters, "entry_points", lambda group: [Entry("onnx", lambda *paths, overwrite: None)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(BundleError, match="holds other things"):
        train(recipe, tmp_path / "run", bundle=tmp_path / "full")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_from_a_recipe_to_a_bundle_that_answers(tmp_path: Path, tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = pytest.importorskip("florence_convert.export")
    monkeypatch.setattr(exporters, "entry_points", lambda group: [Entry("onnx", convert.export_bundle)])
    text = tuning + "[lora]\nrank = 2\n"
    train(load_recipe(_recipe(tmp_path, text)), tmp_path / "run", bundle=tmp_path / "bundle")
    with Florence.load(tmp_path / "bundle") as model:
        assert model.bundle.manifest.parity is not None
        assert model.bundle.manifest.source.sha256 == digest(tmp_path / "run" / "checkpoint")
        assert isinstance(model.caption(tmp_path / "0.png").text, str)


@pytest.mark.slow
def test_the_command_runs_under_torchrun(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    arguments = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "florence_edge.cli.main"]
    found = subprocess.run(
        [
            sys.executable,
            *arguments,
            "train",
            _recipe(tmp_path, SCRATCH),
            tmp_path / "run",
            "--device",
            "cpu",
            "--json",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(found.stdout)["finished"]
    assert (tmp_path / "run" / "checkpoint" / "model.safetensors").is_file()
    assert len((tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()) == 3
