"""This project, as its users call it: a bundle behind `Florence`, the image encoded once for all questions."""

from __future__ import annotations

from collections.abc import Sequence

from florence_bench.recorder import Recorder
from florence_edge.backends.registry import open_backend
from florence_edge.bundle import Bundle
from florence_edge.model import Florence
from florence_edge.options import SearchConfig, SearchOptions

from . import Job, Question


class FlorenceContender:
    """A bundle, its hashes checked as `Florence.load` does; what the job says about pixels is in it anyway."""

    def __init__(self, job: Job) -> None:
        bundle = Bundle.open(job.folder)
        self._recorder = Recorder(open_backend(job.backend, bundle, threads=job.threads, providers=job.providers))
        self._model = Florence(bundle, self._recorder)

    def answer(self, image: bytes, questions: Sequence[Question], search: SearchConfig) -> list[list[int]]:
        """See `Contender.answer`; what comes back was also parsed."""
        options = SearchOptions(
            beams=search.beams, max_new_tokens=search.max_new_tokens, min_new_tokens=search.min_new_tokens
        )
        view, ids = self._model.encode(image), []
        for question in questions:
            given = list(question.input) if isinstance(question.input, tuple) else question.input
            self._model.run(question.task, view, given, search=options)
            ids.append(self._recorder.answered[0].tolist())
        return ids

    def close(self) -> None:
        """Frees the engine."""
        self._model.close()


def open_contender(job: Job) -> FlorenceContender:
    """Opens the bundle."""
    return FlorenceContender(job)
