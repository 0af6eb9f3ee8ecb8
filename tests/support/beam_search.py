"""Drives the beam kernels as a client does, and says in plain Python what they must find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from support.kernels import DTYPES, Kernels, dims, structs

Array = npt.NDArray[Any]
Logits = Callable[[Sequence[int]], Array]
EMPTY = -1e9


@dataclass(frozen=True)
class Options:
    """The fields of florence_beam_dims that define a search, by their names there."""

    beams: int = 3
    vocab: int = 23
    max_length: int = 14
    start_token: int = 2
    eos_token: int = 2
    forced_bos_token: int = 0
    forced_eos_token: int = 2
    no_repeat_ngram: int = 3
    min_new_tokens: int = 0
    early_stopping: int = 0
    length_penalty: float = 1.0

    def __str__(self) -> str:
        """What differs from the defaults."""
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(f"{name}={getattr(self, name)}" for name in changed) or "defaults"


@dataclass(frozen=True)
class Found:
    """One hypothesis with its start token; logprobs has one entry per generated token."""

    tokens: list[int]
    score: float
    logprobs: list[float] = field(default_factory=list)


class Search:
    """One search on one implementation of the kernels."""

    def __init__(
        self, kernels: Kernels, options: Options, *, batch: int = 1, dtype: str = "fp32", capacity: int | None = None
    ) -> None:
        self.kernels, self.options, self.batch = kernels, options, batch
        self.kind = DTYPES[dtype][1]
        self.capacity = capacity or options.max_length
        self.dims = dims("beam", batch=batch, dtype=DTYPES[dtype][0], capacity=self.capacity, **vars(options))
        # Whatever begin does not set must not matter.
        self.block = np.full(kernels.bytes_for("florence_beam_state_size", self.dims), 0xAB, np.uint8)
        self.base = kernels.memory.upload(self.block)
        self.state = structs()["florence_beam_state"]()
        kernels.bind(self.dims, self.base, self.state)
        self.progress = np.zeros(2, np.int32)
        self.progress_at = kernels.memory.upload(self.progress)
        kernels.checked("florence_beam_begin", self.dims, self.state, self.progress_at, None)

    def step(self, logits: Array, allowed: Array | None = None) -> None:
        """logits [batch * beams, vocab]; allowed bool of that shape: the tokens that may follow."""
        memory, workspace = self.kernels.memory, self.kernels.workspace("florence_beam_step", self.dims)
        given = np.ascontiguousarray(logits.astype(self.kind))
        assert workspace is not None
        addresses = [memory.upload(given), memory.upload(workspace)]
        if allowed is not None:
            addresses.append(memory.upload(np.packbits(allowed, axis=1, bitorder="little")))
        bits = addresses[2] if allowed is not None else None
        arguments = (self.dims, self.state, addresses[0], bits, self.progress_at, addresses[1], None)
        self.kernels.checked("florence_beam_step", *arguments)
        memory.synchronize()
        memory.download(addresses[1], workspace)
        for address in addresses:
            memory.release(address)

    def get(self, name: str) -> Array:
        """A copy of one array of the state, in its shape."""
        memory = self.kernels.memory
        memory.download(self.base, self.block)
        per_image = {"can_improve", "image_done"}
        per_token = {"indirection", "running_tokens", "running_logprobs", "finished_tokens", "finished_logprobs"}
        shape: tuple[int, ...] = (self.batch, self.options.beams)
        if name in per_token:
            shape = (*shape, self.capacity)
        elif name in per_image:
            shape = (self.batch,)
        elif name == "position":
            shape = (1,)
        kind = np.uint8 if name == "indirection" else np.float32 if name.endswith(("logprobs", "scores")) else np.int32
        start = getattr(self.state, name) - self.base
        size = math.prod(shape) * np.dtype(kind).itemsize
        return np.array(self.block[start : start + size].view(kind).reshape(shape))

    def images_left(self) -> int:
        self.kernels.memory.download(self.progress_at, self.progress)
        return int(self.progress[0])

    def best(self, image: int) -> Found:
        length = int(self.get("finished_lengths")[image, 0])
        tokens = self.get("finished_tokens")[image, 0, :length].tolist()
        logprobs = self.get("finished_logprobs")[image, 0, 1:length].tolist()
        return Found(tokens, float(self.get("finished_scores")[image, 0]), logprobs)

    def logits(self, functions: Sequence[Logits]) -> Array:
        """Logits of every running sequence; NaN for finished images, whose rows nobody may read."""
        length, done = int(self.get("position")[0]) + 1, self.get("image_done")
        logits = np.full((self.batch, self.options.beams, self.options.vocab), np.nan, np.float32)
        for image, beams in enumerate(self.get("running_tokens")[:, :, :length].tolist()):
            if not done[image]:
                logits[image] = [functions[image](tokens) for tokens in beams]
        return logits.reshape(-1, self.options.vocab)

    def run(self, functions: Sequence[Logits], allowed: Sequence[Logits] | None = None) -> list[Found]:
        """Searches to the end with one logits function per image; those of `allowed` are 1 for tokens that may follow,
        else 0."""
        for _ in range(self.options.max_length):
            if self.images_left() == 0:
                break
            self.step(self.logits(functions), None if allowed is None else self.logits(allowed) > 0)
        assert self.images_left() == 0
        return [self.best(image) for image in range(self.batch)]


def log_probabilities(options: Options, tokens: Sequence[int], logits: Array, allowed: Array | None) -> Array:
    """Log-softmax and the logits processors of transformers, float64."""
    shifted = logits.astype(np.float64) - logits.max()
    scores = shifted - np.log(np.exp(shifted).sum())
    length, size = len(tokens), options.no_repeat_ngram
    for start in range(length - size + 1 if size else 0):
        if list(tokens[start : start + size - 1]) == list(tokens[length - size + 1 :]):
            scores[tokens[start + size - 1]] = -np.inf
    if length - 1 < options.min_new_tokens:
        scores[options.eos_token] = -np.inf
    if allowed is not None:
        scores[allowed == 0] = -np.inf
    forced = options.forced_bos_token if length == 1 else -1
    if length == options.max_length - 1 and options.forced_eos_token >= 0:
        forced = options.forced_eos_token
    if forced >= 0:
        scores = np.where(np.arange(len(scores)) == forced, 0.0, -np.inf)
    return np.asarray(scores)


def reference(options: Options, logits: Logits, allowed: Logits | None = None) -> Found:
    """The search of transformers >= 4.50 for one image, in float64."""
    running = [Found([options.start_token], 0.0 if beam == 0 else EMPTY) for beam in range(options.beams)]
    finished = [(Found([options.start_token], EMPTY), False)] * options.beams
    improves = True
    while True:
        candidates = continued(options, running, logits, allowed)
        ends = [
            len(found.tokens) >= options.max_length or found.tokens[-1] == options.eos_token for found in candidates
        ]
        finished = merged(options, finished, candidates, ends)
        after = [replace(found, score=found.score + EMPTY * end) for found, end in zip(candidates, ends, strict=True)]
        running = best_of(after, options.beams)
        improves = improves and improvable(options, running[0], finished)
        full = options.early_stopping == 1 and all(kept for _, kept in finished)
        if not improves or full or all(ends):
            return finished[0][0]


def continued(options: Options, running: list[Found], logits: Logits, allowed: Logits | None) -> list[Found]:
    """The best 2K continuations of K running beams."""
    candidates = []
    for beam in running:
        may = None if allowed is None else allowed(beam.tokens)
        scores = log_probabilities(options, beam.tokens, logits(beam.tokens), may)
        candidates += [
            Found([*beam.tokens, int(token)], beam.score + scores[token], [*beam.logprobs, float(scores[token])])
            for token in np.argsort(-scores, kind="stable")[: 2 * options.beams]
        ]
    return best_of(candidates, 2 * options.beams)


def merged(
    options: Options, finished: list[tuple[Found, bool]], candidates: list[Found], ends: list[bool]
) -> list[tuple[Found, bool]]:
    """The best of what was finished and of those among the first K candidates that end; whether each counts."""
    entries = list(finished)
    for rank, (found, end) in enumerate(zip(candidates, ends, strict=True)):
        counts = end and rank < options.beams
        score = found.score / (len(found.tokens) - 1) ** options.length_penalty
        entries.append((replace(found, score=score if counts else score + EMPTY), counts))
    return sorted(entries, key=lambda entry: -entry[0].score)[: options.beams]


def improvable(options: Options, best: Found, finished: list[tuple[Found, bool]]) -> bool:
    """Whether the best running beam, at the length that the rule assumes, beats a finished hypothesis."""
    hopeful = options.early_stopping == 2 and options.length_penalty > 0
    length = options.max_length if hopeful else len(best.tokens)
    score = best.score / (length - 1) ** options.length_penalty
    worst = min(found.score for found, _ in finished)
    return any(score > (worst if counts else EMPTY) for _, counts in finished)


def best_of(found: list[Found], count: int) -> list[Found]:
    """The best scored, of equal ones the earlier."""
    return sorted(found, key=lambda one: -one.score)[:count]
