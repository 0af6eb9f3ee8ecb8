"""Searches on the device: one replay of a recorded graph is one token of every beam of every image.

Nothing in a step depends on the host, so one graph serves all steps of a search and the host only watches two numbers
in pinned memory. Answers that must have a form are the exception: which tokens may follow is decided on the host.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from florence_edge._beams import guide_of
from florence_edge._guide import Guide
from florence_edge.backends._beam_state import SearchResult, allowed_bits
from florence_edge.errors import BackendError
from florence_edge.geometry import Float32Array
from florence_edge.options import SearchConfig

if TYPE_CHECKING:
    from .decoding import Decoder

IN_FLIGHT = 2
"""Replays the host launches ahead of the last one known to be done. With fewer the GPU would wait for the host; what is
launched beyond the end is to no purpose."""

_POLL_S = 2e-5
_POLLS_BETWEEN_CHECKS = 500


class Search:
    """A search with its step recorded: begun, advanced, read, and begun again."""

    def __init__(self, decoder: Decoder, config: SearchConfig) -> None:
        self._decoder, self._config, self._lane = decoder, config, decoder.lane
        self._dims = decoder.dims(config)
        self._step = self._lane.recording("the decoder's step")
        self.result = SearchResult(self._lane.kernels, self._dims, decoder.block, config)

    def begin(self, config: SearchConfig) -> None:
        """Puts the start of the search on the stream; `config` is the one it was made for, but for the form."""
        self._decoder.progress[:] = self._decoder.batch, 1
        arguments = (self._dims, self._decoder.state, self._decoder.progress.ctypes.data)
        self._lane.kernels.call("florence_beam_begin", *arguments, self._lane.stream.handle)

    def run(self) -> None:
        """Advances until every image is done, without ever waiting for the device to be idle."""
        for launched in range(1, self._config.max_new_tokens + 1):
            if not self._searching:
                break
            self._advance()
            self._wait(launched - IN_FLIGHT + 1)
        self.fetch()

    def steps(self) -> Iterator[int]:
        """Advances step by step and copies the state after each; yields the tokens per sequence."""
        for _ in range(self._config.max_new_tokens):
            if not self._searching:
                return
            self._advance()
            self.fetch()
            yield self._length

    def fetch(self) -> None:
        """Copies the state to the host, behind all that was launched, and waits for it."""
        driver, stream = self._lane.device.driver, self._lane.stream
        driver.memcpy_dtoh_async(self._decoder.block, self._decoder.block_address, stream)
        stream.synchronize()

    def close(self) -> None:
        """Destroys what was recorded; the stream must be idle."""
        self._step.close()

    @property
    def _searching(self) -> bool:
        """Whether any image is still searching, as far as the host can see."""
        return bool(self._decoder.progress[0])

    @property
    def _length(self) -> int:
        """Tokens per sequence, as far as the host can see."""
        return int(self._decoder.progress[1])

    def _advance(self) -> None:
        """Launches one step."""
        self._step.run(self._enqueue)

    def _enqueue(self) -> None:
        self._decoder.forward()
        self._decoder.choose(self._dims, None)

    def _wait(self, steps: int) -> None:
        """Waits until so many steps are done, or the search is; sleeps, so that other threads run."""
        polls = 0
        while self._length <= steps and self._searching:
            time.sleep(_POLL_S)
            polls += 1
            # A stream that is idle, or broken, will report nothing more.
            idle = polls % _POLLS_BETWEEN_CHECKS == 0 and self._lane.stream.is_done()
            if idle and self._length <= steps and self._searching:
                raise BackendError(
                    f"the decoder stopped after {self._length - 1} tokens without finishing; the GPU reports no fault: "
                    "check the engines (florence-edge verify BUNDLE) and report this"
                )


class FormedSearch(Search):
    """A search for answers that must have a form.

    A token costs two launches, one copy to the host and back, and a wait: while the engine computes logits, the host
    reads the beams' tokens of the step before and writes the bits of those that may follow. n-gram ban and least length
    are in these bits too, since they yield where they and the form leave nothing.
    """

    def __init__(self, decoder: Decoder, config: SearchConfig) -> None:
        super().__init__(decoder, config)
        self._dims = decoder.dims(replace(config, no_repeat_ngram=0, min_new_tokens=0))
        self._bits, self._allowed = decoder.bits()
        self._scratch: Float32Array = np.empty((config.beams, decoder.vocabulary), np.float32)
        self._guides: list[Guide | None] = []
        self._forward = self._lane.recording("the decoder's pass")
        self._choose = self._lane.recording("the beam step")

    def begin(self, config: SearchConfig) -> None:
        """Puts the start of the search on the stream, and waits for it: the host reads the state before every step."""
        super().begin(config)
        self._guides = [guide_of(config) for _ in range(self._decoder.batch)]
        self.fetch()

    def run(self) -> None:
        """Advances until every image is done."""
        for _ in self.steps():
            pass

    def close(self) -> None:
        """Destroys what was recorded; the stream must be idle."""
        self._forward.close()
        self._choose.close()

    def _advance(self) -> None:
        self._forward.run(self._decoder.forward)
        for bits, history, guide in zip(self._bits, self.result.running(self._length), self._guides, strict=True):
            if history is not None:
                bits[:] = allowed_bits(history, self._config, guide, self._scratch)
        self._lane.device.driver.memcpy_htod_async(self._allowed, self._bits, self._lane.stream)
        self._choose.run(lambda: self._decoder.choose(self._dims, self._allowed))
