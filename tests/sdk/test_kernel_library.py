"""The ctypes tables against the C header that they describe, and against the built library."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

from florence_edge.backends import kernel_library
from florence_edge.backends.kernel_library import ABI_VERSION, SIGNATURES, BeamDims, KernelLibrary, find, open_library
from florence_edge.errors import BackendError, DependencyError
from support.kernels import native_library

HEADER = Path(__file__).parents[2] / "kernels" / "include" / "florence_kernels.h"
TEXT = re.sub(r"#define (?:\\\n|.)*|/\*(?:.|\n)*?\*/", "", HEADER.read_text())
SCALARS = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "float": ctypes.c_float,
    "int": ctypes.c_int,
    "size_t": ctypes.c_size_t,
}
STRUCTS = {
    f"florence_{name}": getattr(kernel_library, python)
    for name, python in (
        ("resize_dims", "ResizeDims"),
        ("window_dims", "WindowDims"),
        ("channel_dims", "ChannelDims"),
        ("self_dims", "SelfDims"),
        ("cross_dims", "CrossDims"),
        ("beam_dims", "BeamDims"),
        ("beam_state", "BeamState"),
    )
}


def declared_fields(body: str) -> list[tuple[str, Any]]:
    """Names and ctypes of a C struct's fields."""
    fields: list[tuple[str, Any]] = []
    for kind, names in re.findall(r"(\w+\*?) ([^;]+);", body):
        for item in names.split(","):
            name, _, count = item.strip().rstrip("]").partition("[")
            base: Any = ctypes.c_void_p if kind.endswith("*") else SCALARS[kind]
            fields.append((name, base * int(count) if count else base))
    return fields


def c_type(declaration: str) -> object:
    """The ctypes type of `const void* q` and its like."""
    kind = re.sub(r"\bconst\b", "", declaration).strip()
    kind = re.sub(r"\s*\w+$", "", kind) if " " in kind else kind
    if kind == "void**":
        return ctypes.POINTER(ctypes.c_void_p)
    if kind == "uint64_t*":
        return ctypes.POINTER(ctypes.c_uint64)
    if kind.endswith("*"):
        struct = STRUCTS.get(kind[:-1])
        return ctypes.POINTER(struct) if struct else ctypes.c_char_p if kind == "char*" else ctypes.c_void_p
    return SCALARS[kind]


def declared_functions() -> dict[str, tuple[list[object], object]]:
    """Argument types and result of every function that the header declares."""
    found: dict[str, tuple[list[object], object]] = {}
    for result, name, arguments in re.findall(r"FLORENCE_API ((?:const )?\w+\*?) (\w+)\(([^)]*)\);", TEXT):
        given = [] if arguments == "void" else [c_type(" ".join(item.split())) for item in arguments.split(",")]
        found[name] = (given, c_type(f"{result} x"))
    for name, arguments in re.findall(r"^FLORENCE_OP\((\w+),([^)]*)\);", TEXT, flags=re.M):
        given = [c_type(" ".join(item.split())) for item in arguments.split(",")]
        found[name] = found[f"{name}_cpu"] = (given, ctypes.c_int)
    return found


def test_every_struct_has_the_fields_of_the_header() -> None:
    declared = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", TEXT, flags=re.S)
    assert {name for _, name in declared} == STRUCTS.keys()
    for body, name in declared:
        assert declared_fields(body) == list(STRUCTS[name]._fields_), name


def test_every_function_has_the_signature_of_the_header() -> None:
    declared = declared_functions()
    assert declared.keys() == SIGNATURES.keys()
    for name, (arguments, result) in declared.items():
        assert (arguments, result) == (list(SIGNATURES[name].arguments), SIGNATURES[name].result), name


def test_the_abi_number_is_the_headers() -> None:
    number = re.search(r"#define FLORENCE_ABI_VERSION (\d+)", HEADER.read_text())
    assert number is not None
    assert int(number[1]) == ABI_VERSION


def test_the_limits_are_those_of_the_sources() -> None:
    text = HEADER.read_text() + (HEADER.parents[1] / "src" / "checks.h").read_text()
    for name, limit in (
        ("FLORENCE_MAX_BEAMS", kernel_library.MAX_BEAMS),
        ("kMaxWindow", kernel_library.MAX_WINDOW),
        ("kMaxVocab", kernel_library.MAX_VOCABULARY),
        ("kHeadDim", kernel_library.VISION_HEAD_DIM),
    ):
        assert re.findall(rf"(?:#define|int) {name} (?:= )?(\d+)", text) == [str(limit)], name


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the library with the CPU twins was built."""
    return native_library().parent


def test_the_users_folder_comes_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / kernel_library.LIBRARY).write_bytes((folder / kernel_library.LIBRARY).read_bytes())
    monkeypatch.setenv(kernel_library.FOLDERS_VARIABLE, f"/nowhere:{tmp_path}")
    assert find(kernel_library.LIBRARY)[0] == tmp_path / kernel_library.LIBRARY
    library = open_library(cuda=False)
    assert library.path.parent == tmp_path
    assert (library.cuda_version, library.architectures) == (0, "")


def test_twins_do_where_no_cuda_is_wanted_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_library, "_folders", lambda: [folder])
    assert open_library(cuda=False).path.parent == folder
    with pytest.raises(DependencyError, match="was built without CUDA"):
        open_library(cuda=True)


def test_refusals_carry_the_librarys_own_words(folder: Path) -> None:
    library = KernelLibrary(folder / kernel_library.LIBRARY)
    with pytest.raises(BackendError, match="beams"):
        library.size(
            "florence_beam_state_size", BeamDims(batch=1, beams=9, vocab=9, max_length=4, capacity=4, eos_token=2)
        )
    with pytest.raises(BackendError, match=r"florence_beam_begin_cpu returned \d+: .+"):
        library.call("florence_beam_begin_cpu", BeamDims(), kernel_library.BeamState(), None, None)


def test_another_abi_and_another_file_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_library, "ABI_VERSION", 99)
    with pytest.raises(BackendError, match=f"kernel ABI {ABI_VERSION}, this package needs 99"):
        KernelLibrary(folder / kernel_library.LIBRARY)
    broken = tmp_path / kernel_library.LIBRARY
    broken.write_bytes(b"no library")
    with pytest.raises(BackendError, match="is no library of florence-edge kernels"):
        KernelLibrary(broken)
