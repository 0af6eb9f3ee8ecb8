"""Backends by name: the ones of this package, and those that other packages register.

An entry point of the group `florence_edge.backends` names a module with the two functions of `BackendModule`; it is
imported only when its backend is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast

from florence_edge.bundle import Bundle
from florence_edge.errors import DependencyError, FlorenceError, InputError

from . import Backend

GROUP = "florence_edge.backends"
BUILT_IN: Mapping[str, str] = {name: f"florence_edge.backends.{name}" for name in ("onnx", "openvino", "tensorrt")}

MOST_THREADS = 1024
"""More than any edge machine has cores: a larger number is a slip, and would keep the system busy for minutes."""


class BackendModule(Protocol):
    """What a module must offer to be found by name."""

    def probe(self) -> str:
        """Says in one line what the backend would run with; raises `DependencyError` where it cannot run here."""
        ...

    def open_backend(
        self, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> Backend:
        """Opens a bundle; an argument that the backend has no use for must be None."""
        ...


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here, and with what; or why not, and what mends it."""

    name: str
    opens: bool
    detail: str


def open_backend(
    name: str, bundle: Bundle, *, threads: int | None = None, providers: Sequence[str] | None = None
) -> Backend:
    """Opens a bundle with the backend of this name.

    Raises `InputError` for an unknown name, `DependencyError` where the backend's library is missing, `BackendError`
    where it cannot run the bundle.
    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
        raise InputError(f"threads is {threads!r}; it must lie in 1..{MOST_THREADS}, or be None (the backend chooses)")
    if isinstance(providers, str):
        raise InputError(f"providers is {providers!r}; it must be a list of names, such as [{providers!r}]")
    return _load(name).open_backend(bundle, threads=threads, providers=providers)


def available() -> tuple[Availability, ...]:
    """Every known backend with what it would run with, or why it does not open."""
    return tuple(_availability(name) for name in names())


def names() -> tuple[str, ...]:
    """Names of all backends, whether or not they can run here; the built-in ones first."""
    return tuple(dict.fromkeys([*BUILT_IN, *sorted(_registered())]))


def _availability(name: str) -> Availability:
    try:
        return Availability(name, True, _load(name).probe())
    except FlorenceError as error:
        return Availability(name, False, str(error))


def _load(name: str) -> BackendModule:
    """The module of a backend; a built-in name cannot be taken by another package."""
    if name in BUILT_IN:
        return cast(BackendModule, import_module(BUILT_IN[name]))
    registered = _registered()
    if name not in registered:
        raise InputError(f"unknown backend {name!r}; the backends are: {', '.join(names())}")
    entry = registered[name]
    try:
        return cast(BackendModule, entry.load())
    except ImportError as error:
        raise DependencyError(f"the backend {name!r} ({entry.value}) cannot be imported: {error}") from error


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
