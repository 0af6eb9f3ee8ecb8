"""Reads JSON values into frozen dataclasses, strictly: unknown and absent keys and wrong types, all reported at once.

It knows the types a configuration is made of (scalars, `Literal`, unions, tuples, `Mapping[str, T]`, dataclasses) and
nothing of what any configuration means. A dataclass that raises `InputError` for values that do not fit together has
its message reported as one more fault. A field added in a later revision of a format carries
`field(metadata={"since": revision})` and a default; only data of an older revision may leave it out.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

T = TypeVar("T")

_WORDS = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false", type(None): "null"}


def decode(cls: type[T], value: Any, *, faults: list[str], where: str = "", revision: int = 0) -> T | None:
    """`value` (as `json.loads` gives it) as an instance of the dataclass `cls`, or None with the reasons in `faults`.

    `where` is the path of `value` inside the document, for messages. `revision` is the one the document states.
    """
    before = len(faults)
    if not isinstance(value, Mapping):
        faults.append(f"{where or 'the document'} is {_show(value)}; it must be an object")
        return None
    hints = get_type_hints(cls)
    items = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # callers pass dataclasses only
    faults.extend(f"unknown key {_join(where, key)}" for key in value if key not in items)
    read = {}
    for name, item in items.items():
        if name in value:
            read[name] = _read(hints[name], value[name], faults, _join(where, name), revision)
        elif item.metadata.get("since", 0) <= revision:
            faults.append(f"missing key {_join(where, name)}")
    if len(faults) > before:
        return None
    try:
        return cls(**read)
    except InputError as error:
        faults.append(f"{where}: {error}" if where else str(error))
        return None


def _read(kind: Any, value: Any, faults: list[str], where: str, revision: int) -> Any:
    """One value of the type `kind`; what does not fit becomes a fault and None."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return decode(kind, value, faults=faults, where=where, revision=revision)  # type: ignore[arg-type]  # a class
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, faults, where, revision)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_read(one, item, faults, f"{where}[{i}]", revision) for i, (one, item) in pairs)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(key): _read(arguments[1], item, faults, _join(where, key), revision) for key, item in value.items()}
    if _is_scalar(kind, value):
        return float(value) if kind is float else value
    faults.append(f"{where} is {_show(value)}; it must be {_describe(kind)}")
    return None


def _read_union(kinds: tuple[Any, ...], value: Any, faults: list[str], where: str, revision: int) -> Any:
    """The first member of a union that fits; with one member besides null, its own faults are the better report."""
    for kind in kinds:
        trial: list[str] = []
        result = _read(kind, value, trial, where, revision)
        if not trial:
            return result
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return _read(others[0], value, faults, where, revision)
    faults.append(f"{where} is {_show(value)}; it must be {' or '.join(_describe(kind) for kind in kinds)}")
    return None


def _is_scalar(kind: Any, value: Any) -> bool:
    """Whether `value` is of the scalar type `kind`; true and false are no integers, and an integer is a number."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _describe(kind: Any) -> str:
    """A type in words for a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(one) for one in arguments)
    if origin is tuple:
        many = arguments[1:] == (Ellipsis,)
        return f"a list of {'' if many else f'{len(arguments)} entries, each '}{_describe(arguments[0])}"
    if origin is Mapping or is_dataclass(kind):
        return "an object"
    return _WORDS.get(kind, str(kind))


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _show(value: Any) -> str:
    """A value for a message, shortened."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
