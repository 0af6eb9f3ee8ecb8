"""An opened bundle with its engine: checks, takes turns, and nothing else between a question and its answer."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import cast

from .backends import Backend, Hypothesis, ImageFeatures, StreamingBackend
from .bundle import Bundle
from .codec import Codec, Question
from .errors import BackendError, InputError
from .geometry import Float32Array
from .images import ImageSource
from .streaming import Steps, TextStream
from .turns import Turns
from .view import Prepared, Stopwatch, View, prepare


class Runtime:
    """The engine of one model, shared by the threads that use the model: one of them runs it at a time."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        self.codec = Codec.open(bundle)
        self._turns = Turns()
        self._streams: weakref.WeakSet[TextStream] = weakref.WeakSet()
        self._closed = False

    def prepare(self, image: ImageSource | View, *, bgr: bool = False) -> Prepared | View:
        """Reads an image outside of any turn; a view is returned when this model made it, else `InputError`."""
        self.check_open()
        if not isinstance(image, View):
            return prepare(image, self.bundle.manifest.image, bgr=bgr)
        if image.owner is not self:
            raise InputError("the view was made by another model; encode the image with the model that is asked")
        return image

    def see(self, image: Prepared | View) -> View:
        """Encodes a prepared image; a view is returned."""
        if isinstance(image, View):
            return image
        watch = Stopwatch()
        with watch.measure("vision"):
            features = self.encode(image.pixels)
        return View(features, image.size, {**image.timings_ms, **watch.stages}, self)

    def encode(self, pixels: Float32Array) -> ImageFeatures:
        """Encodes images [B, 3, H, W] float32."""
        with self._turn():
            return self.backend.encode_image(pixels)

    def generate(
        self, features: ImageFeatures, questions: Sequence[Question], image_of: Sequence[int]
    ) -> list[Hypothesis]:
        """Answers questions that share their options, which is for the caller to see to."""
        with self._turn():
            return self.backend.generate(
                features, [question.ids for question in questions], questions[0].options, image_of
            )

    def stream(self, view: View, question: Question, stages: dict[str, float]) -> TextStream:
        """The answer to one question piece by piece; `stages` is what its image cost."""
        watch = Stopwatch()
        watch.stages.update(stages)
        stream = TextStream(
            self._steps(view, question, watch),
            read=lambda ids: self.codec.text(question, ids),
            finish=lambda hypothesis: self.codec.result(question, hypothesis, watch.stages),
        )
        self._streams.add(stream)
        return stream

    def _steps(self, view: View, question: Question, watch: Stopwatch) -> Steps:
        """Runs the engine with the turn held throughout; one that cannot stream gives its whole answer at the end."""
        with self._turn():
            if not isinstance(self.backend, StreamingBackend):
                with watch.measure("search"):
                    (hypothesis,) = self.backend.generate(view.features, [question.ids], question.options)
                return hypothesis
            with closing(self.backend.stream(view.features, question.ids, question.options)) as steps:
                while True:
                    try:
                        with watch.measure("search"):
                            ids = next(steps)
                    except StopIteration as stop:
                        return cast(Hypothesis, stop.value)
                    yield ids

    def check_open(self) -> None:
        """Raises `BackendError` after `close`."""
        if self._closed:
            raise BackendError("this model was closed; load it again with Florence.load")

    def close(self) -> None:
        """Waits for the call that is running and frees the engine; an unread stream of this thread is given up."""
        if self._turns.mine:
            for stream in list(self._streams):
                stream.close()
        with self._turns.take():
            if not self._closed:
                self._closed = True
                self.backend.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns.take():
            self.check_open()
            yield
