"""JSON schemas of what the API answers: the results of the SDK, as `Result.to_dict` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def ref(name: str) -> Json:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(about: str = "", *, examples: Sequence[str] = ()) -> Json:
    """A text."""
    return {
        "type": "string",
        **({"description": about} if about else {}),
        **({"examples": list(examples)} if examples else {}),
    }


def obj(properties: Mapping[str, Json], *, required: Sequence[str] | None = None) -> Json:
    """An object without further keys; all are required unless said otherwise."""
    needed = list(properties if required is None else required)
    return {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
        **({"required": needed} if needed else {}),
    }


def _many(items: Json, count: int | None = None) -> Json:
    bounds = {} if count is None else {"minItems": count, "maxItems": count}
    return {"type": "array", "items": items, **bounds}


_NUMBER: Json = {"type": "number"}
_WHOLE: Json = {"type": "integer"}
_POINT = _many(_NUMBER, 2)
_BOX = _many(_NUMBER, 4)
_RINGS = _many(_many(_POINT))

INPUT: Json = {
    "description": "A phrase, a class name or several, a box x1 y1 x2 y2 in pixels, or nothing.",
    "oneOf": [{"type": "null"}, {"type": "string"}, _many({"type": "string"}), _BOX],
}

_TIMES: Json = {
    "type": "object",
    "description": "Milliseconds: queue, load, preprocess and vision of the picture; search and parse of a task.",
    "additionalProperties": _NUMBER,
}

_RESULT: Mapping[str, Json] = {
    "task": text("The task's token."),
    "size": ref("Size"),
    "scores": {
        "description": "One per item, geometric mean of the tokens' probabilities; null where unknown.",
        **_many({"type": ["number", "null"]}),
    },
    "finish": {"enum": ["eos", "length"]},
    "tokens": _WHOLE,
    "dropped": _WHOLE,
    "timings_ms": _TIMES,
    "raw": text("The answer as the model wrote it."),
}

_KINDS: Mapping[str, Mapping[str, Json]] = {
    "Text": {"text": text()},
    "Detections": {
        "boxes": _many(_BOX),
        "labels": _many(text()),
        "class_ids": _many(_WHOLE),
        "classes": _many(text()),
        "polygons": _many(_RINGS),
    },
    "Polygons": {"polygons": _many(_RINGS), "labels": _many(text())},
    "Quads": {"quads": _many(_many(_POINT, 4)), "texts": _many(text())},
}

SCHEMAS: Mapping[str, Json] = {
    "Size": obj({"width": _WHOLE, "height": _WHOLE}),
    **{name: obj({**_RESULT, **more}) for name, more in _KINDS.items()},
    "Result": {"anyOf": [ref(name) for name in _KINDS]},
    "Answer": obj(
        {
            "image": ref("Size"),
            "timings_ms": _TIMES,
            "results": {"type": "object", "additionalProperties": ref("Result")},
        }
    ),
    "Task": obj({key: text() for key in ("task", "name", "method", "input", "takes", "answer")}),
    "Problem": obj(
        {
            "type": text(),
            "title": text(),
            "status": _WHOLE,
            "detail": text("What was given, what is allowed, what to do."),
            "given": text(),
            "allowed": text(),
            "remedy": text(),
        },
        required=("type", "title", "status", "detail"),
    ),
}
