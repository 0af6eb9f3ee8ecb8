"""A backend around a backend that notes what passed through, by the three verbs alone."""

from __future__ import annotations

from collections.abc import Sequence

from florence_edge.backends import Backend, Hypothesis, ImageFeatures
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchOptions


class Recorder:
    """A backend that notes the last question it passed on and the ids of the answer."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.question: tuple[ImageFeatures, Int64Array] | None = None
        self.answered: tuple[Int64Array, ...] = ()

    def encode_image(self, pixels: Float32Array) -> ImageFeatures:
        """See `Backend.encode_image`."""
        return self._inner.encode_image(pixels)

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        """See `Backend.generate`."""
        hypotheses = self._inner.generate(features, prompt_ids, options, image_of)
        self.question = (features, prompt_ids[0])
        self.answered = tuple(hypothesis.ids for hypothesis in hypotheses)
        return hypotheses

    def close(self) -> None:
        """Closes the backend."""
        self._inner.close()
