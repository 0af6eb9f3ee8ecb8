"""The strict reader: what it accepts, and that every kind of fault is found and all of them are reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.errors import InputError
from florence_edge.schema import decode


@dataclass(frozen=True)
class Inner:
    size: int
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    ratio: float
    on: bool
    either: bool | Literal["never"]
    maybe: Inner | None
    triple: tuple[float, float, float]
    dims: tuple[int | str, ...]
    table: Mapping[str, Inner]
    late: int = field(default=7, metadata={"since": 2})

    def __post_init__(self) -> None:
        if self.ratio < 0:
            raise InputError("ratio must not be negative")


VALID: dict[str, Any] = {
    "name": "x",
    "ratio": 1,
    "on": True,
    "either": "never",
    "maybe": {"size": 3, "mode": "b"},
    "triple": [0, 1.5, 2],
    "dims": ["B", 3],
    "table": {"k": {"size": 1, "mode": "a"}},
    "late": 1,
}

inner = st.builds(Inner, st.integers(), st.sampled_from(["a", "b"]))
finite = st.floats(allow_nan=False, allow_infinity=False)
outer = st.builds(
    Outer,
    name=st.text(),
    ratio=st.floats(0, 1e9),
    on=st.booleans(),
    either=st.one_of(st.booleans(), st.just("never")),
    maybe=st.none() | inner,
    triple=st.tuples(finite, finite, finite),
    dims=st.lists(st.integers() | st.text()).map(tuple),
    table=st.dictionaries(st.text(), inner),
    late=st.integers(),
)


@given(outer)
def test_what_was_written_as_json_is_read_back(value: Outer) -> None:
    faults: list[str] = []
    assert decode(Outer, json.loads(json.dumps(asdict(value))), faults=faults) == value
    assert faults == []


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("name", 3, "name is 3; it must be a text"),
        ("ratio", "1", "it must be a finite number"),
        ("ratio", True, "it must be a finite number"),
        ("ratio", float("nan"), "it must be a finite number"),
        ("ratio", -1, "ratio must not be negative"),
        ("on", 1, "on is 1; it must be true or false"),
        ("either", "always", "true or false or one of 'never'"),
        ("maybe", {"size": 1.5, "mode": "a"}, "maybe.size is 1.5; it must be an integer"),
        ("maybe", {"size": True, "mode": "a"}, "maybe.size is True; it must be an integer"),
        ("maybe", {"size": 1, "mode": "c"}, "maybe.mode is 'c'; it must be one of 'a', 'b'"),
        ("maybe", {"size": 1, "mode": "a", "more": 1}, "unknown key maybe.more"),
        ("maybe", {"mode": "a"}, "missing key maybe.size"),
        ("triple", [1, 2], "a list of 3 entries, each a finite number"),
        ("triple", [1, 2, None], "triple[2] is null"),
        ("dims", "B", "it must be a list of an integer or a text"),
        ("dims", [1.5], "dims[0] is 1.5; it must be an integer or a text"),
        ("table", [], "table is []; it must be an object"),
        ("table", {"k": None}, "table.k is null; it must be an object"),
    ],
)
def test_each_kind_of_fault_is_named_with_its_place(key: str, value: Any, says: str) -> None:
    faults: list[str] = []
    assert decode(Outer, {**VALID, key: value}, faults=faults) is None
    assert len(faults) == 1
    assert says in faults[0]


def test_all_faults_are_reported_together() -> None:
    faults: list[str] = []
    broken = {**VALID, "name": 1, "on": "yes", "more": 0, "triple": [1, 2, "3"]}
    del broken["dims"]
    assert decode(Outer, broken, faults=faults, where="root") is None
    assert [fault.split(" is ")[0] for fault in sorted(faults)] == [
        "missing key root.dims",
        "root.name",
        "root.on",
        "root.triple[2]",
        "unknown key root.more",
    ]


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_a_document_that_is_no_object_is_a_fault(document: Any) -> None:
    faults: list[str] = []
    assert decode(Outer, document, faults=faults) is None
    assert "must be an object" in faults[0]


def test_a_key_of_a_later_revision_may_only_be_absent_from_an_older_one() -> None:
    older = {key: value for key, value in VALID.items() if key != "late"}
    faults: list[str] = []
    read = decode(Outer, older, faults=faults, revision=1)
    assert read is not None
    assert read.late == 7
    assert type(read.ratio) is float  # JSON has 1 for 1.0
    assert decode(Outer, older, faults=faults, revision=2) is None
    assert faults == ["missing key late"]
