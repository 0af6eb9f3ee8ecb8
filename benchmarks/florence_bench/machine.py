"""What the numbers were measured on: processor, memory, GPU, system, libraries.

`Machine.key` holds what two results must share to be comparable; the name of the folder they lie in comes from it too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from florence_edge.health.checks import text_of

from .power.nvml import Nvml

LIBRARIES = (
    "florence-edge",
    "numpy",
    "Pillow",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "torch",
    "transformers",
    "onnx",
    "openvino",
    "mlcommons-loadgen",
)
_HYPERVISOR = re.compile(r"^flags\s*:.*\bhypervisor\b", re.MULTILINE)
_INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "bf16")


@dataclass(frozen=True)
class Machine:
    """A machine and the software on it.

    `cores` are the processor cores this process may use, `memory_bytes` all of the memory, `instructions` the vector
    extensions that matter to inference. `board` is the device tree's or firmware's model name. `gpus` have their name
    and memory. `virtual` says that a hypervisor lies in between, whose other guests cannot be seen from here.
    """

    processor: str
    cores: int
    memory_bytes: int
    instructions: tuple[str, ...]
    architecture: str
    board: str | None
    gpus: tuple[str, ...]
    virtual: bool
    system: str
    python: str
    libraries: Mapping[str, str]

    @property
    def key(self) -> tuple[str, ...]:
        """What decides speed, save for the software: results of different keys are not compared."""
        memory = f"{round(self.memory_bytes / 2**30)} GiB"
        return (self.processor, f"{self.cores} cores", memory, self.architecture, self.board or "", *self.gpus)

    @property
    def name(self) -> str:
        """A folder name: processor or board, GPU, cores."""
        parts = [self.board or self.processor, *self.gpus[:1], f"{self.cores}-cores"]
        return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def this_machine(root: Path = Path("/")) -> Machine:
    """The machine this runs on; `root` is where `proc` and `sys` lie."""
    info = text_of(root / "proc/cpuinfo")
    memory = re.search(r"^MemTotal:\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    flags = set((_field(info, "flags") or _field(info, "Features") or "").split())
    with Nvml.open() as nvml:
        gpus = tuple(f"{gpu.name}, {round(gpu.memory_bytes / 2**30)} GiB" for gpu in nvml.gpus())
    return Machine(
        processor=_field(info, "model name") or _field(info, "Model") or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        architecture=platform.machine(),
        board=_board(root),
        gpus=gpus,
        virtual=_HYPERVISOR.search(info) is not None,
        system=f"{_release(root)}, {platform.system()} {platform.release()}",
        python=platform.python_version(),
        libraries=installed(LIBRARIES),
    )


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """The versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _board(root: Path) -> str | None:
    """Single-board computers name themselves in the device tree; a virtual machine's firmware name says nothing."""
    return text_of(root / "proc/device-tree/model").strip("\0\n ") or None


def _release(root: Path) -> str:
    named = re.search(r'^PRETTY_NAME="?([^"\n]+)', text_of(root / "etc/os-release"), re.MULTILINE)
    return named[1] if named else platform.system()


def _field(info: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1].strip() if found else None
