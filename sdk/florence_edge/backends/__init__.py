"""What an engine must offer (three verbs), and how one is found by name.

`registry` finds one by name: those that live beside this file, and those that other packages register.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchOptions

Finish = Literal["eos", "length"]


@dataclass(frozen=True)
class Hypothesis:
    """The best answer to one prompt.

    `ids` are the generated token ids [T] int64 without the start token, `</s>` included when it was generated.
    `token_logprobs` [T] float32 are the natural-log probabilities the model gave each of them before any token was
    banned (0 for a forced token), so `exp` of their mean is the geometric mean probability. `score` is the search's
    own: their sum divided by `T ** length_penalty`. `finish` is "length" when the token limit ended the answer.
    """

    ids: Int64Array
    score: float
    token_logprobs: Float32Array
    finish: Finish


class ImageFeatures(Protocol):
    """Encoded images [B, N, D] on whatever device the backend uses; only the backend that made them can read them."""

    def __len__(self) -> int:
        """Number of images B."""
        ...

    def numpy(self) -> Float32Array:
        """A copy on the host, [B, N, D] float32."""
        ...


@runtime_checkable
class Backend(Protocol):
    """An engine that runs the three graphs of a bundle."""

    def encode_image(self, pixels: Float32Array) -> ImageFeatures:
        """Encodes images [B, 3, H, W] float32, resized and normalised as the bundle says."""
        ...

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        """Answers prompts, one hypothesis each.

        `prompt_ids` are token ids [T_i] without image tokens, `<s>` and `</s>` included; lengths may differ.
        `image_of[i]` is the row of `features` that prompt `i` asks about, by default `i`.
        """
        ...

    def close(self) -> None:
        """Frees what the backend holds; calling it twice is allowed."""
        ...


@runtime_checkable
class StreamingBackend(Backend, Protocol):
    """A backend that can also tell tokens as soon as they are certain."""

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        """Answers one prompt about the one image of `features`.

        Yields the token ids [n] that have become certain since the last yield: with one beam every token as it is
        chosen, with several the prefix all hypotheses that may still win agree on. Returns the hypothesis.
        """
        ...
