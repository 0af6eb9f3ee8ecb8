"""A scripted engine and a bundle for it: the whole SDK without graphs, weights or an inference library.

The bundle is a real folder with a real tokenizer; only its graph files are empty. The engine reads the prompt back,
asks a script for the answer, and gives its tokens with made-up probabilities, cut at the token limit like a real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.bundle import Bundle, seal, staging
from florence_edge.errors import BackendError
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.manifest import (
    Graph,
    Graphs,
    Limits,
    Manifest,
    Producer,
    Source,
    Tensor,
    TokenizerInfo,
)
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.preprocess import ImageSpec
from florence_edge.tasks import FREE_PROMPT, TASKS, InputKind, Task
from florence_edge.tokens import Tokens
from support.vocabularies import build_tokenizer

Script = Callable[[Task, str, float], str]
"""Task, its input as written in the prompt, and the image's mean normalised value to the answer's text."""

ANSWERS = {
    "<CAPTION>": "a red cube left of a ball",
    "<DETAILED_CAPTION>": "a red cube left of a blue ball, on a wooden table",
    "<MORE_DETAILED_CAPTION>": "A red cube stands left of a blue ball. Both are on a table. Café ☕ beside them.",
    "<OCR>": "OPEN",
    "<OCR_WITH_REGION>": "OPEN<loc_100><loc_200><loc_300><loc_200><loc_300><loc_250><loc_100><loc_250>",
    "<OD>": "cube<loc_100><loc_200><loc_300><loc_400>ball<loc_500><loc_500><loc_700><loc_700>",
    "<DENSE_REGION_CAPTION>": "a red cube<loc_100><loc_200><loc_300><loc_400>",
    "<REGION_PROPOSAL>": "<loc_100><loc_200><loc_300><loc_400><loc_500><loc_500><loc_700><loc_700>",
    "<CAPTION_TO_PHRASE_GROUNDING>": (
        "a red cube<loc_100><loc_200><loc_300><loc_400>a ball<loc_500><loc_500><loc_700><loc_700>"
    ),
    "<REFERRING_EXPRESSION_SEGMENTATION>": "<loc_100><loc_200><loc_300><loc_200><loc_300><loc_400><loc_100><loc_400>",
    "<REGION_TO_SEGMENTATION>": "<loc_100><loc_200><loc_300><loc_200><loc_300><loc_400>",
    "<OPEN_VOCABULARY_DETECTION>": "red cube<loc_100><loc_200><loc_300><loc_400>",
    "<REGION_TO_CATEGORY>": "cube",
    "<REGION_TO_DESCRIPTION>": "a red cube on a table",
    "<REGION_TO_OCR>": "OPEN",
    "<ASK>": "yes",
}
"""A plausible answer to every task."""


def plausible(task: Task, given: str, brightness: float) -> str:
    """The answer of `ANSWERS`, whatever the input and the image."""
    return ANSWERS[task.token]


def make_bundle(folder: Path, *, prompt_tokens: int = 200, new_tokens: int = 200, side: int = 32) -> Bundle:
    """Writes the bundle of a scripted engine and opens it."""
    tokenizer = build_tokenizer()
    ids = Tokens(tokenizer).vocabulary
    pixels, made = Tensor("pixels", "float32", ("B", 3, side, side)), Tensor("made", "float32", ("B", ids.size))
    with staging(folder) as out:
        tokenizer.save(str(out / "tokenizer.json"))
        for name in ("vision", "encoder", "decoder"):
            (out / f"{name}.onnx").write_bytes(b"")
        manifest = Manifest(
            producer=Producer("florence-edge tests", "0", "3"),
            source=Source("scripted", "none", "0" * 64, "Apache-2.0"),
            precision="fp32",
            model={},
            image=ImageSpec(height=side, width=side),
            tokenizer=TokenizerInfo.of("tokenizer.json", ids),
            limits=Limits(prompt_tokens=prompt_tokens, new_tokens=new_tokens),
            search=SearchConfig(max_new_tokens=new_tokens),
            graphs=Graphs(*(Graph(f"{name}.onnx", (pixels,), (made,)) for name in ("vision", "encoder", "decoder"))),
        )
        seal(out, manifest)
    return Bundle.open(folder)


@dataclass(frozen=True, eq=False)
class FakeFeatures:
    """The mean of each image's pixels, [B, 1, 1]."""

    means: Float32Array

    def __len__(self) -> int:
        return len(self.means)

    def numpy(self) -> Float32Array:
        return self.means


class FakeBackend:
    """Answers by a script and notes what it was asked: `encoded` batch sizes, `searches` as (prompts, options)."""

    def __init__(self, bundle: Bundle, script: Script = plausible) -> None:
        self.script, self.closed = script, False
        self.encoded: list[int] = []
        self.searches: list[tuple[int, SearchOptions]] = []
        self._tokens, self._config = Tokens.load(bundle.tokenizer), bundle.manifest.search

    def encode_image(self, pixels: Float32Array) -> FakeFeatures:
        assert pixels.dtype == np.float32
        assert pixels.ndim == 4
        self.encoded.append(len(pixels))
        if not np.isfinite(pixels).all():
            raise BackendError("the pixels are not finite")
        return FakeFeatures(pixels.mean(axis=(1, 2, 3), dtype=np.float32).reshape(-1, 1, 1))

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        assert not self.closed
        self.searches.append((len(prompt_ids), options or SearchOptions()))
        rows = range(len(prompt_ids)) if image_of is None else image_of
        return [
            self._answer(ids, float(features.numpy()[row, 0, 0]), options)
            for ids, row in zip(prompt_ids, rows, strict=True)
        ]

    def close(self) -> None:
        self.closed = True

    def _answer(self, prompt_ids: Int64Array, brightness: float, options: SearchOptions | None) -> Hypothesis:
        task, given = question_of(self._tokens.decode(prompt_ids[1:-1]))
        ids = self._tokens.encode(self.script(task, given, brightness))
        limit = self._config.over(options).max_new_tokens
        finish: tuple[Int64Array, bool] = (ids, False) if len(ids) <= limit else (np.append(ids[: limit - 1], 2), True)
        logprobs = np.linspace(-0.1, -0.9, len(finish[0]), dtype=np.float32)
        return Hypothesis(finish[0], float(logprobs.mean()), logprobs, "length" if finish[1] else "eos")


class FakeStreamingBackend(FakeBackend):
    """The same, and tells its tokens one by one."""

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        (hypothesis,) = self.generate(features, [prompt_ids], options)
        for index in range(len(hypothesis.ids)):
            yield hypothesis.ids[index : index + 1]
        return hypothesis


def question_of(prompt: str) -> tuple[Task, str]:
    """The task and the written input that a prompt came from; a prompt of no task is a free one."""
    for task in sorted(TASKS, key=lambda task: task.input is not InputKind.NONE):
        match = re.fullmatch(re.escape(task.prompt).replace(r"\{input\}", "(.*)"), prompt)
        if match and (task.token != "<OPEN_VOCABULARY_DETECTION>" or not prompt.startswith("Locate the phrases")):
            return task, match.group(1) if match.groups() else ""
    return FREE_PROMPT, prompt
