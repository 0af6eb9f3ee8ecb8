"""What `florence-edge doctor` looks at on any machine: the interpreter, the libraries, processor, memory and GPUs.

Every check reads and reports; nothing is installed, downloaded or changed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import operator
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from florence_edge.units import size

State = Literal["ok", "absent", "wrong", "fact"]
"""`absent` is something optional that is not there; only `wrong` makes the doctor's exit code 1."""


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was found, and what mends it.

    `extra` is the optional part of the package that a library which is absent would bring.
    """

    topic: str
    name: str
    state: State
    found: str
    fix: str = ""
    extra: str = ""


PACKAGE = "florence-edge"
EXTRAS = {
    "onnx": "run models on a CPU",
    "openvino": "run models faster on Intel and AMD CPUs, and on Intel GPUs",
    "video": "cameras and video files",
    "bags": "ROS bags",
    "foxglove": "live results in Foxglove",
    "serve": "the live view and the JSON API",
    "supervision": "results for supervision",
    "tensorrt": "run TensorRT engines",
    "build": "build TensorRT engines",
    "train": "train and fine-tune",
    "lora": "train adapters",
    "augment": "train on changed pictures",
    "tensorboard": "training curves in TensorBoard",
    "eval": "measure on annotated data",
    "ray": "label on a Ray cluster",
    "convert": "make bundles of checkpoints",
    "bench": "measure speed and memory",
    "rivals": "race transformers and OpenVINO",
    "loadgen": "MLPerf's load generator",
}
"""The optional parts of the package and what each is for; a library that several bring belongs to the first."""
OLDEST_PYTHON = (3, 10)
_SAME_IMPORT = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
"""Distributions that bring the same import as the one the package metadata names."""
_IMPORT_NAMES = {"opencv-python": "cv2", "Pillow": "PIL"}
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?\s*\(?(?P<range>[^;)]*)\)?\s*(;(?P<marker>.*))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"](?P<name>[\w-]+)['\"]")
_BOUND = re.compile(r"(>=|<=|==|!=|>|<)\s*([\d.]+)")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def interpreter() -> Iterator[Check]:
    """The Python that runs this."""
    found = f"{platform.python_version()} ({sys.executable})"
    supported = sys.version_info >= OLDEST_PYTHON
    fix = "" if supported else f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer"
    yield Check("python", "version", "ok" if supported else "wrong", found, fix)


def libraries() -> Iterator[Check]:
    """Every library the package metadata names, against its supported range."""
    try:
        requirements = importlib.metadata.requires(PACKAGE) or []
        yield Check("libraries", PACKAGE, "ok", importlib.metadata.version(PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "libraries",
            PACKAGE,
            "wrong",
            "imported, but not installed",
            f"pip install {PACKAGE} (in a checkout: pip install -e .)",
        )
        return
    order = ["", *EXTRAS]
    named: dict[str, tuple[str, str]] = {}
    for text in requirements:
        match = _REQUIREMENT.fullmatch(text.strip())
        if match is None:
            continue
        name, marker = match["name"], match["marker"] or ""
        extra = _EXTRA.search(marker)
        group = extra["name"] if extra else ""
        if name == PACKAGE or group not in order or "python_version" in marker:
            continue
        if name not in named or order.index(group) < order.index(named[name][1]):
            named[name] = (match["range"].strip(), group)
    for name, (supported, group) in sorted(named.items(), key=lambda item: order.index(item[1][1])):
        yield _library(name, supported, group)


def _library(name: str, supported: str, extra: str) -> Check:
    """One library; the state of an optional one that is missing is `absent`."""
    install = f"pip install '{PACKAGE}[{extra}]'" if extra else f"pip install '{name}{supported}'"
    for candidate in (name, *_SAME_IMPORT.get(name, ())):
        try:
            version = importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
        found = f"{version} (needs {supported})" if supported else version
        if within(version, supported):
            return Check("libraries", candidate, "ok", found)
        return Check("libraries", candidate, "wrong", found, f"pip install '{candidate}{supported}'")
    if importlib.util.find_spec(_IMPORT_NAMES.get(name, name).replace("-", "_")) is not None:
        return Check("libraries", name, "ok", "importable, of unknown version")
    return Check("libraries", name, "absent" if extra else "wrong", "not installed", install, extra)


def within(version: str, supported: str) -> bool:
    """Whether a version lies in a range such as `>=1.20,<2`; only the leading numbers are compared."""
    numbers = _numbers(version)
    return all(_COMPARE[sign](numbers, _numbers(bound)) for sign, bound in _BOUND.findall(supported))


def _numbers(version: str) -> tuple[int, ...]:
    """`1.23.2rc1` is (1, 23, 2); zeros at the end do not count."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def machine(root: Path = Path("/")) -> Iterator[Check]:
    """Processor, memory and GPUs. `root` is where `proc` and `etc` lie."""
    processor = re.search(r"^model name\s*:\s*(.+)$", text_of(root / "proc/cpuinfo"), re.MULTILINE)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("machine", "system", "fact", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Check("machine", "processor", "fact", f"{processor[1] if processor else 'unknown'}, {usable} usable cores")
    memory = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE))
    if memory:
        total, free = (size(int(memory[key]) * 1024) for key in ("MemTotal", "MemAvailable"))
        yield Check("machine", "memory", "fact", f"{total}, {free} available")
    yield from _gpus()


def _gpus() -> Iterator[Check]:
    query = "name,compute_cap,memory.total,driver_version"
    listed = output_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    if listed is None:
        yield Check("machine", "NVIDIA GPU", "absent", "nvidia-smi is not there or does not answer")
        return
    for index, line in enumerate(listed.splitlines()):
        yield Check("machine", f"GPU {index}", "fact", line.strip())


def text_of(path: Path) -> str:
    """A file's text, empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def output_of(*command: str) -> str | None:
    """What a program prints, None when it is not there, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
