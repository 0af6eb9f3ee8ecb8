"""What the model is asked to do for one request: one encoding of the picture, then one task after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from PIL import Image

from florence_edge.errors import InputError
from florence_edge.images import Limits, load_image
from florence_edge.model import Florence
from florence_edge.preprocess import ImageSpec
from florence_edge.prompts import prompt_for
from florence_edge.results import Result
from florence_edge.stream.asks import Ask
from florence_edge.view import Prepared, Stopwatch, View, prepare

from .problems import RequestError
from .worker import Gone, LeftError

Tell = Callable[[str, Mapping[str, Any]], None]
"""Takes an event of a running job: its name and its data."""


@dataclass(frozen=True, eq=False)
class Work:
    """One request: a picture that was read, and what is asked about it."""

    image: Prepared
    asks: tuple[Ask, ...]
    accepted: float

    @classmethod
    def of(cls, data: bytes, asks: tuple[Ask, ...], spec: ImageSpec, limits: Limits) -> Work:
        """Reads the picture and checks every input against it; raises `RequestError` or `InputError`."""
        _check_pixels(data, limits)
        watch = Stopwatch()
        with watch.measure("load"):
            picture = load_image(data, limits=limits)
        image = prepare(picture, spec)
        for ask in asks:
            try:
                prompt_for(ask.row, ask.input, image.size)
            except InputError as error:
                raise InputError(f"{ask.name}: {error}") from error
        return cls(replace(image, timings_ms={**image.timings_ms, **watch.stages}), asks, time.perf_counter())

    def answer(self, model: Florence, gone: Gone) -> dict[str, Any]:
        """The answers to everything that is asked, all or none."""
        view = self._encode(model, gone)
        results = {}
        for ask in self.asks:
            if gone():
                raise LeftError
            try:
                results[ask.name] = model.run(ask.task, view, ask.input, search=ask.search).to_dict()
            except InputError as error:
                raise InputError(f"{ask.name}: {error}") from error
        return {**_head(view), "results": results}

    def stream(self, model: Florence, gone: Gone, tell: Tell) -> dict[str, Any]:
        """The answer to the one thing that is asked, also told as it is written: `image`, `piece`s, `result`."""
        view, (ask,) = self._encode(model, gone), self.asks
        tell("image", _head(view))
        result = written(model, view, ask, gone, lambda text: tell("piece", {"text": text}))
        found = {"name": ask.name, "result": result.to_dict()}
        tell("result", found)
        return {**_head(view), "results": {ask.name: found["result"]}}

    def _encode(self, model: Florence, gone: Gone) -> View:
        waited = (time.perf_counter() - self.accepted) * 1e3
        if gone():
            raise LeftError
        return model.encode(replace(self.image, timings_ms={**self.image.timings_ms, "queue": waited}))


def written(model: Florence, view: View, ask: Ask, gone: Gone, tell: Callable[[str], None]) -> Result:
    """The answer to one task; its text is told piece by piece, and the rest given up when nobody waits for it."""
    with closing(model.stream(ask.task, view, ask.input, search=ask.search)) as stream:
        for piece in stream:
            if gone():
                raise LeftError
            tell(piece)
        return stream.result


def _head(view: View) -> dict[str, Any]:
    """What all answers about a picture share."""
    return {"image": {"width": view.size.width, "height": view.size.height}, "timings_ms": dict(view.timings_ms)}


def _check_pixels(data: bytes, limits: Limits) -> None:
    """Refuses a picture that is too large by its header; whatever else is wrong with it, `load_image` says better."""
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many(str(error), limits) from error
    except Exception:  # see `images`: header readers raise anything
        return
    if width * height > limits.max_pixels:
        raise _too_many(f"the picture has {width} x {height} = {width * height} pixels", limits)


def _too_many(given: str, limits: Limits) -> RequestError:
    return RequestError(
        "too-large", given, allowed=f"at most {limits.max_pixels} pixels", remedy="make the picture smaller"
    )
