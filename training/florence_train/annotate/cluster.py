"""Labelling over more images than one machine can do: Ray Data runs the same questions on many workers.

Every worker opens the model once. Answers come back in the order of the images and go to the same file as those of one
process, so a run may be begun here and ended there. Only images that can be read alone, files and shards that every
worker reaches under the same path, can be shared out.
"""

from __future__ import annotations

import pickle
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.card import identity
from florence_edge.errors import FlorenceError, InputError, missing
from florence_edge.model import Florence
from florence_edge.stream import Event, Frame
from florence_edge.stream.pictures import NO_IMAGE
from florence_edge.view import prepare
from florence_train.data import Picture

from .filters import Filter
from .model import open_model
from .plan import Plan
from .report import Report
from .run import Job, answers_about, collect, event_of, label
from .sources import Numbered, by_number, open_images

_BATCH = 8
"""Images that a worker takes at a time."""


@dataclass(frozen=True)
class Opening:
    """How each worker opens the model, by a path or name that holds on all of them."""

    model: str
    backend: str = "onnx"
    threads: int | None = 1

    def __call__(self) -> Florence:
        """The model."""
        return open_model(self.model, backend=self.backend, threads=self.threads)


def annotate_on_ray(
    opening: Opening,
    source: str,
    *,
    out: str | Path,
    plan: Plan,
    filters: Sequence[Filter] = (),
    workers: int = 2,
) -> Report:
    """Does what `annotate` does, with the same result, on `workers` processes of a Ray cluster.

    The cluster is the one that `RAY_ADDRESS` names, or one started here. Raises `InputError` for a source whose images
    cannot be read alone, `DependencyError` without Ray.
    """
    if workers < 1:
        raise InputError(f"workers is {workers}; it must be 1 or more")
    pictures = by_number(source)
    with opening() as model:
        name = identity(model.bundle)
    job = Job(name, open_images(source), plan, Path(out))
    collect(job, lambda start: _events(job, pictures[start:], opening, workers), on_image=lambda: None)
    return label(job.out, plan, filters=filters)


def _events(job: Job, pictures: Sequence[Numbered], opening: Opening, workers: int) -> Generator[Event, None, None]:
    """The answers about some images, in their order."""
    if not pictures:
        return
    ray = _ray()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows = [{"picture": pickle.dumps(one.picture)} for one in pictures]
    answers = ray.data.from_items(rows).map_batches(
        _Worker, fn_constructor_args=(opening, job.plan), batch_size=_BATCH, concurrency=workers
    )
    for row, one in zip(answers.iter_rows(), pictures, strict=True):
        error, results, errors = pickle.loads(row["answers"])
        image = NO_IMAGE if error is not None else one.image()
        frame = Frame(image, one.time_ns, one.index, job.source.tag, name=one.name, error=error)
        yield event_of(frame, job, results, errors)


class _Worker:
    """A process of the cluster with its model."""

    def __init__(self, opening: Opening, plan: Plan) -> None:
        self._model, self._plan = opening(), plan

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Answers about some images, pickled: (error of the image, results, errors of questions) each."""
        return {"answers": [pickle.dumps(self._one(pickle.loads(picture))) for picture in rows["picture"]]}

    def _one(self, picture: Picture) -> tuple[FlorenceError | None, Mapping[str, Any], Mapping[str, Any]]:
        try:
            image = prepare(picture.load(), self._model.bundle.manifest.image)
        except FlorenceError as error:
            return error, {}, {}
        return None, *answers_about(self._model, image, self._plan)


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise missing("ray", extra="ray", needed_for="labelling on a cluster") from error
    return ray
