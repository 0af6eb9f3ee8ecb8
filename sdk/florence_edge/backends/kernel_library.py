"""The native kernels by ctypes: where the library lies, what its functions take, whether it is the right one.

The one owner of the C ABI in Python; `kernels/include/florence_kernels.h` documents every struct and function. It knows
nothing of arrays, devices or frameworks: tensors and streams are addresses.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import BackendError, DependencyError, listing

ABI_VERSION = 2
"""FLORENCE_ABI_VERSION of the header that the tables below were written from."""

LIBRARY = "libflorence_kernels.so"
FOLDERS_VARIABLE = "FLORENCE_LIBRARY_PATH"
"""Names folders, separated by colons, that are searched for native libraries before all others."""

BUILD = "cmake -S . -B build/gpu -DCMAKE_CUDA_ARCHITECTURES=native && cmake --build build/gpu --parallel"
"""Builds what is missing, in a checkout; the same folder as `make test-gpu`."""

DTYPES: Mapping[str, int] = {"float32": 0, "float16": 1, "bfloat16": 2}
"""`florence_dtype` by NumPy's names."""

EARLY_STOPPING: Mapping[bool | str, int] = {False: 0, True: 1, "never": 2}
"""`florence_early_stopping` by the values of transformers."""

MAX_BEAMS, MAX_WINDOW, MAX_VOCABULARY = 8, 12, 131072
VISION_HEAD_DIM, DECODER_HEAD_DIMS = 32, (32, 64)
"""What the kernels hold, as FLORENCE_MAX_BEAMS and kernels/src/checks.h have it."""

_BUILD_FOLDERS = ("build/gpu", "build/cuda", "build/native")


def _struct(name: str, **fields: Any) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


def _same(kind: Any, names: str) -> dict[str, Any]:
    """Fields of one type, in order."""
    return dict.fromkeys(names.split(), kind)


ResizeDims = _struct(
    "florence_resize_dims",
    **_same(c_int32, "in_height in_width"),
    row_stride=c_int64,
    **_same(c_int32, "out_height out_width channel_order dtype"),
    **_same(c_float * 3, "mean std"),
)
WindowDims = _struct("florence_window_dims", **_same(c_int32, "batch height width channels heads window dtype path"))
ChannelDims = _struct("florence_channel_dims", **_same(c_int32, "batch tokens channels groups dtype path"))
SelfDims = _struct(
    "florence_self_dims",
    **_same(c_int32, "batch beams heads head_dim max_length row_stride dtype append"),
    scale=c_float,
)
CrossDims = _struct(
    "florence_cross_dims",
    **_same(c_int32, "batch beams heads head_dim source_length row_stride dtype"),
    scale=c_float,
)
BeamDims = _struct(
    "florence_beam_dims",
    **_same(c_int32, "batch beams vocab max_length capacity dtype start_token eos_token forced_bos_token"),
    **_same(c_int32, "forced_eos_token no_repeat_ngram min_new_tokens early_stopping"),
    length_penalty=c_float,
)
BeamState = _struct(
    "florence_beam_state",
    **_same(c_void_p, "position next_tokens parents indirection running_tokens running_logprobs running_scores"),
    **_same(c_void_p, "finished_tokens finished_logprobs finished_scores finished_lengths finished_flags"),
    **_same(c_void_p, "can_improve image_done length_norms arrivals"),
)


@dataclass(frozen=True)
class Signature:
    """Argument types and result of a function; `cuda` marks those that only a CUDA build exports."""

    arguments: tuple[Any, ...]
    result: Any = c_int
    cuda: bool = False


def _operations() -> Iterator[tuple[str, Signature]]:
    """Launchers, their twins, and how much scratch memory a launcher wants."""
    for name, dims, pointers, workspace in (
        ("resize_normalize", ResizeDims, 2, True),
        ("window_attention", WindowDims, 3, False),
        ("channel_attention", ChannelDims, 2, True),
        ("decoder_self_attention", SelfDims, 9, False),
        ("kv_append", SelfDims, 6, False),
        ("decoder_cross_attention", CrossDims, 6, True),
    ):
        yield from _operation(name, (POINTER(dims), *[c_void_p] * pointers), workspace)
    state = (POINTER(BeamDims), POINTER(BeamState))
    yield from _operation("beam_begin", (*state, c_void_p), False)
    yield from _operation("beam_step", (*state, *[c_void_p] * 3), True)


def _operation(name: str, arguments: tuple[Any, ...], workspace: bool) -> Iterator[tuple[str, Signature]]:
    complete = (*arguments, *[c_void_p] * workspace, c_void_p)  # the stream is last
    yield f"florence_{name}", Signature(complete, cuda=True)
    yield f"florence_{name}_cpu", Signature(complete)
    if workspace:
        yield f"florence_{name}_workspace", Signature(arguments[:1], c_size_t, cuda=True)


SIGNATURES: Mapping[str, Signature] = {
    "florence_abi_version": Signature(()),
    "florence_version": Signature((), c_char_p),
    "florence_cuda_version": Signature(()),
    "florence_cuda_archs": Signature((), c_char_p),
    "florence_status_string": Signature((c_int,), c_char_p),
    "florence_last_error": Signature((), c_char_p),
    **dict(_operations()),
    "florence_beam_state_size": Signature((POINTER(BeamDims),), c_size_t),
    "florence_beam_state_bind": Signature((POINTER(BeamDims), c_void_p, POINTER(BeamState))),
    "florence_graph_begin": Signature((c_void_p,), cuda=True),
    "florence_graph_end": Signature((c_void_p, POINTER(c_void_p), POINTER(c_uint64)), cuda=True),
    "florence_graph_abort": Signature((c_void_p,), cuda=True),
    "florence_graph_upload": Signature((c_void_p, c_void_p), cuda=True),
    "florence_graph_launch": Signature((c_void_p, c_void_p), cuda=True),
    "florence_graph_destroy": Signature((c_void_p,), cuda=True),
}
"""Every function of the header."""


class KernelLibrary:
    """An open `libflorence_kernels.so` of the right ABI.

    `cuda_version` is that of the toolkit it was built with, 13000 for 13.0; 0 means that it has the CPU twins only.
    """

    def __init__(self, path: Path) -> None:
        """Opens a library; `BackendError` where that fails or its ABI is another."""
        try:
            self._library = ctypes.CDLL(str(path))
            found = int(self._library.florence_abi_version())
        except (OSError, AttributeError) as error:
            raise BackendError(
                f"{path} is no library of florence-edge kernels: {error}; build it again: {BUILD}"
            ) from error
        if found != ABI_VERSION:
            raise BackendError(
                f"{path} has kernel ABI {found}, this package needs {ABI_VERSION}; build it again: {BUILD}"
            )
        self.path = path
        self.cuda_version = int(self._library.florence_cuda_version())
        for name, signature in SIGNATURES.items():
            if self.cuda_version or not signature.cuda:
                function = getattr(self._library, name)
                function.argtypes, function.restype = signature.arguments, signature.result
        self.version = self._library.florence_version().decode()
        self.architectures = self._library.florence_cuda_archs().decode()

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that returns a status, such as `florence_beam_step`; `BackendError` unless that is 0.

        Tensors and streams are addresses (None: NULL); a struct is given itself and passed by reference.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            detail = self._library.florence_last_error() or self._library.florence_status_string(status)
            raise BackendError(f"{name} returned {status}: {detail.decode(errors='replace')}")

    def size(self, name: str, dims: ctypes.Structure) -> int:
        """Bytes as a function such as `florence_beam_state_size` states them; `BackendError` for dims it refuses."""
        size = int(getattr(self._library, name)(dims))
        if size == 0 and (detail := self._library.florence_last_error()):
            raise BackendError(f"{name} refuses these sizes: {detail.decode(errors='replace')}")
        return size


def open_library(*, cuda: bool) -> KernelLibrary:
    """Opens the first usable library of this machine, with `cuda` the first that holds CUDA kernels.

    Raises `DependencyError`, listing what was found and why it was passed over.
    """
    passed: list[str] = []
    for path in find(LIBRARY):
        try:
            library = KernelLibrary(path)
        except BackendError as error:
            passed.append(str(error))
            continue
        if library.cuda_version or not cuda:
            return library
        passed.append(f"{path} was built without CUDA")
    wanted = f"no usable {LIBRARY}{' with CUDA kernels' if cuda else ''} was found"
    raise DependencyError(
        listing(f"{wanted}; in a checkout run: {BUILD}; or name its folder in {FOLDERS_VARIABLE}", passed)
    )


def find(name: str) -> list[Path]:
    """Native libraries of this file name on this machine, in the order in which they are tried."""
    return [path for folder in _folders() if (path := folder / name).is_file()]


def _folders() -> list[Path]:
    """Where native libraries are looked for: named by the user, built in this checkout, installed."""
    named = [os.environ.get(variable, "") for variable in (FOLDERS_VARIABLE, "LD_LIBRARY_PATH")]
    checkout = Path(__file__).resolve().parents[3]
    built = _BUILD_FOLDERS if (checkout / "kernels").is_dir() else ()
    folders = [
        *(Path(folder) for folders in named for folder in folders.split(os.pathsep) if folder),
        *(checkout / folder / part for folder in built for part in ("kernels", "kernels/plugins")),
        *(Path(prefix) / "lib" for prefix in (sys.prefix, "/usr/local", "/usr")),
    ]
    return list(dict.fromkeys(folders))
