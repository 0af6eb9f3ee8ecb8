"""The JSON Schema of a report, made from its dataclasses: `python -m florence_bench.json_schema` rewrites the file."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .report import FORMAT, SCHEMA, Report

_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def report_schema() -> dict[str, Any]:
    """The schema of `Report`, draft 2020-12, one definition per dataclass."""
    definitions: dict[str, Any] = {}
    _dataclass(Report, definitions)
    root = definitions.pop(Report.__name__)
    root["properties"]["format"] = {"const": FORMAT}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "florence-edge benchmark report",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _dataclass(kind: Any, definitions: dict[str, Any]) -> None:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    definitions[kind.__name__] = {}
    definitions[kind.__name__] = {
        "type": "object",
        "properties": {name: _schema(hints[name], definitions) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in definitions:
            _dataclass(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(one, definitions) for one in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    return {"type": _SCALARS[kind]}


def text() -> str:
    """The file's content."""
    return json.dumps(report_schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text(), encoding="utf-8")
