"""The one place where tests are skipped: hardware, headers or a library that this machine lacks."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from support.chromium import NAMES, chromium

# A loaded machine is no failure.
settings.register_profile("florence", deadline=None)
settings.load_profile("florence")

# Most tests run tiny models, where a second thread costs more than it gives, and `make test` already fills every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

OPTIONAL = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "cv2",
    "supervision",
    "scipy",
    "pycocotools",
    "jsonschema",
    "rosbags",
    "mcap",
    "mcap_ros2",
    "foxglove",
    "websockets",
    "uvicorn",
    "httpx2",
    "openapi_spec_validator",
    "accelerate",
    "peft",
    "tensorboard",
)
"""Libraries of extras. `make test-matrix` runs with few of them, to prove that the run time needs no others."""


@cache
def _missing() -> frozenset[str]:
    return frozenset(name for name in OPTIONAL if importlib.util.find_spec(name) is None)


@cache
def _needs(path: Path) -> frozenset[str]:
    """Optional libraries that a test module, or a support module it imports, imports at module level."""
    found: set[str] = set()
    for name in _imports(path):
        root = name.split(".")[0]
        support = Path(__file__).parent / (name.replace(".", "/") + ".py")
        if root == "support" and support.is_file():
            found |= _needs(support)
        elif root in ("florence_train", "florence_convert"):
            found |= {"torch", *(["onnx"] if root == "florence_convert" else [])}
        elif root in OPTIONAL:
            found.add(root)
    return frozenset(found)


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports at module level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out modules whose libraries are missing; the report's header names them."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if _needs(collection_path) & _missing() else None


def pytest_report_header() -> list[str]:
    """Says which optional libraries are absent, since their tests are not collected."""
    return [f"not installed, their tests left out: {', '.join(sorted(_missing()))}"] if _missing() else []


def _has_nvinfer_headers() -> bool:
    return "TENSORRT_ROOT" in os.environ and shutil.which("nvcc") is not None


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True).returncode == 0


def _has_chromium() -> bool:
    return chromium() is not None


REASONS = {
    "browser": (_has_chromium, f"no Chromium: none of {', '.join(NAMES)} is on PATH"),
    "gpu": (_has_gpu, "no CUDA GPU: nvidia-smi finds none"),
    "nvinfer_headers": (_has_nvinfer_headers, "TENSORRT_ROOT names no TensorRT headers, or nvcc is missing"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips marked tests whose precondition does not hold here."""
    for marker, (holds, reason) in REASONS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not holds():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
