"""Backends by name: built in, registered by other packages, absent or broken."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from florence_edge.backends import registry
from florence_edge.backends.registry import available, names, open_backend
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, DependencyError, InputError
from support.fake_backend import FakeBackend


@pytest.fixture
def other_package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package that registers three backends: one that works, one whose library is missing, one that is broken."""
    module = ModuleType("other_package")
    module.probe = lambda: "other 1.0"  # type: ignore[attr-defined]  # a module is made of what is set on it
    module.open_backend = FakeBackend  # type: ignore[attr-defined]
    lacking = ModuleType("lacking_package")

    def probe() -> str:
        raise DependencyError("libother is missing; run: apt install libother")

    lacking.probe = probe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_package", module)
    monkeypatch.setitem(sys.modules, "lacking_package", lacking)
    entries = [
        EntryPoint(name, value, registry.GROUP)
        for name, value in (
            ("other", "other_package"),
            ("lacking", "lacking_package"),
            ("broken", "no_such_package.backend"),
            ("onnx", "other_package"),
        )
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == registry.GROUP else [])
    return module


def test_every_known_backend_says_what_it_has_or_lacks(other_package: ModuleType) -> None:
    assert names() == ("onnx", "openvino", "tensorrt", "broken", "lacking", "other")
    report = {known.name: known for known in available()}
    assert (report["other"].opens, report["other"].detail) == (True, "other 1.0")
    assert (report["lacking"].opens, report["lacking"].detail) == (
        False,
        "libother is missing; run: apt install libother",
    )
    assert not report["broken"].opens
    assert "no_such_package" in report["broken"].detail


def test_a_registered_backend_gets_the_bundle_and_the_settings(
    other_package: ModuleType, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    def opened(bundle: Bundle, *, threads: int | None, providers: Sequence[str] | None) -> FakeBackend:
        given.extend([bundle, threads, providers])
        return FakeBackend(bundle)

    monkeypatch.setattr(other_package, "open_backend", opened)
    assert isinstance(open_backend("other", bundle, threads=2, providers=["x"]), FakeBackend)
    assert given == [bundle, 2, ["x"]]


def test_a_built_in_name_cannot_be_taken(other_package: ModuleType, bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendError, match=r"cannot open .*vision\.onnx"):
        open_backend("onnx", bundle)


def test_unknown_and_unfit_arguments_are_refused(other_package: ModuleType, bundle: Bundle) -> None:
    with pytest.raises(
        InputError, match=r"'coreml'; the backends are: onnx, openvino, tensorrt, broken, lacking, other"
    ):
        open_backend("coreml", bundle)
    with pytest.raises(InputError, match="threads is 0"):
        open_backend("other", bundle, threads=0)
    with pytest.raises(DependencyError, match="no_such_package"):
        open_backend("broken", bundle)
