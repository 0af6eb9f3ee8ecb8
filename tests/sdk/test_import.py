"""What `import florence_edge` costs, and that its lazy names are the real ones."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import florence_edge

SDK = Path(__file__).parents[2] / "sdk"
ENGINES = {"torch", "onnx", "onnxruntime", "tensorrt", "pycuda", "cv2", "supervision", "transformers", "rich"}
HEAVY = ENGINES | {"tokenizers", "PIL", "numpy"}


def python(script: str) -> dict[str, Any]:
    """Runs a script in a fresh interpreter that can import nothing of this project but the SDK; returns its JSON."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SDK)},
    )
    values: dict[str, Any] = json.loads(done.stdout)
    return values


IMPORT = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
import florence_edge
print(json.dumps({"seconds": time.perf_counter() - start, "modules": sorted(set(sys.modules) - before)}))
"""


def test_importing_the_package_is_quick_and_pulls_in_no_library() -> None:
    runs = [python(IMPORT) for _ in range(3)]
    assert min(run["seconds"] for run in runs) < 0.3
    assert not HEAVY & {module.partition(".")[0] for module in runs[0]["modules"]}


def test_the_class_is_there_without_any_engine() -> None:
    script = "import json, sys; from florence_edge import Florence; print(json.dumps({'modules': sorted(sys.modules)}))"
    assert not ENGINES & {module.partition(".")[0] for module in python(script)["modules"]}


@pytest.mark.parametrize("name", florence_edge.__all__)
def test_every_public_name_is_found_where_it_is_defined(name: str) -> None:
    value = getattr(florence_edge, name)
    home = getattr(value, "__module__", None)
    if home is not None:
        assert getattr(importlib.import_module(home), name) is value
    assert name in dir(florence_edge)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Yolo'"):
        florence_edge.Yolo  # noqa: B018 - the access is the point


def test_submodules_do_not_hide_the_public_names() -> None:
    script = (
        "import json, florence_edge, pkgutil, importlib\n"
        "for module in pkgutil.iter_modules(florence_edge.__path__):\n"
        "    importlib.import_module(f'florence_edge.{module.name}')\n"
        "kinds = {name: type(getattr(florence_edge, name)).__name__ for name in florence_edge.__all__}\n"
        "print(json.dumps(kinds))"
    )
    kinds = python(script)
    assert [name for name, kind in kinds.items() if kind == "module"] == ["errors", "results"]
