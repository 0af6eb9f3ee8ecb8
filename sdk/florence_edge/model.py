"""`Florence`: one method per task. What happens behind them is in `runtime`, `codec` and `batching`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal, cast, overload

from .backends import Backend
from .backends.registry import open_backend
from .batching import Batch, Item, OnError
from .bundle import Bundle, Verify
from .card import facts
from .codec import Question
from .errors import FlorenceError, InputError
from .images import ImageSource
from .options import SearchOptions
from .prompts import TaskInput
from .results import Detections, Polygons, Quads, Result, Text
from .runtime import Runtime
from .selection import Selection
from .streaming import TextStream
from .tasks import DETAIL, find
from .view import Prepared, Stopwatch, View

Picture = View | ImageSource
"""An encoded image, or anything that `Florence.encode` takes."""

Detail = Literal["brief", "detailed", "paragraph"]
Box = Sequence[float]
Labels = str | Sequence[str]


class Florence:
    """A Florence-2 model, loaded from a bundle: encode an image once, ask about it often.

    Every method takes an image (a path, the bytes of a file, a PIL image, a uint8 array [H, W, 3] RGB) or the `View`
    that `encode` made of one; boxes given and returned are x1 y1 x2 y2 in pixels of the original image. `search`
    changes how one answer is searched for; the limit of new tokens is otherwise the task's own. Bad arguments raise
    `InputError`, unusable images its subclass `ImageError`, a failing engine `BackendError`.

    Threads may share a model: reading and resizing images runs in parallel, the engine serves one call at a time.
    Use it as a context manager, or call `close`, to free the engine's memory at a known moment.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._runtime = Runtime(bundle, backend)

    @classmethod
    def load(
        cls,
        bundle: str | PathLike[str] | Bundle,
        *,
        backend: str = "onnx",
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        verify: Verify = "sha256",
    ) -> Florence:
        """Opens a bundle folder, or a bundled model by its name, with one of the installed backends.

        `threads` is the number of CPU threads (None: the backend's choice), `providers` ONNX Runtime's execution
        providers in order of preference, or one of OpenVINO's devices. `verify` is as in `Bundle.open`. Raises
        `BundleError` for a bundle that is missing, altered or of a newer format, `DependencyError` for a backend whose
        library is not installed, and `BackendError` when the backend cannot open the bundle. Nothing is downloaded.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify=verify)
        engine = open_backend(backend, opened, threads=threads, providers=providers)
        try:
            return cls(opened, engine)
        except FlorenceError:
            engine.close()
            raise

    @property
    def bundle(self) -> Bundle:
        """The bundle this model was loaded from."""
        return self._runtime.bundle

    @property
    def backend(self) -> Backend:
        """The engine, for whoever needs features or hypotheses themselves; it is not guarded against other threads."""
        return self._runtime.backend

    def info(self) -> dict[str, Any]:
        """What this model is, as plain values: backend, source, licence, precision, sizes, limits, files, parity."""
        return {"backend": type(self.backend).__name__, **facts(self.bundle)}

    def close(self) -> None:
        """Frees the engine, once a call that is running has ended; views become useless. May be called twice."""
        self._runtime.close()

    def __enter__(self) -> Florence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Florence({str(self.bundle.folder)!r}, backend={type(self.backend).__name__})"

    def encode(self, image: ImageSource | Prepared, *, bgr: bool = False) -> View:
        """Encodes an image for any number of questions. `bgr` says that an array has OpenCV's channel order.

        What `view.prepare` made of an image, in another thread say, is taken as it is.
        """
        ready = image if isinstance(image, Prepared) else self._runtime.prepare(image, bgr=bgr)
        return self._runtime.see(ready)

    # Any task by its name

    def run(self, task: str, image: Picture, input: TaskInput = None, *, search: SearchOptions | None = None) -> Result:
        """Answers one task.

        `task` is an upstream token (`<OD>`), the token without brackets (`od`), or the name of a method (`detect`).
        `input` is what the task takes: nothing, a phrase, one or more class names, or a box.
        """
        question, subject = self._question(task, image, input, search)
        view = self._runtime.see(subject)
        watch = Stopwatch()
        with watch.measure("search"):
            (hypothesis,) = self._runtime.generate(view.features, [question], [0])
        spent = {} if subject is view else view.timings_ms
        return self._runtime.codec.result(question, hypothesis, {**spent, **watch.stages})

    @overload
    def run_many(
        self,
        items: Iterable[Item],
        *,
        search: SearchOptions | None = ...,
        batch_size: int = ...,
        errors: Literal["raise"] = ...,
    ) -> list[Result]: ...

    @overload
    def run_many(
        self, items: Iterable[Item], *, search: SearchOptions | None = ..., batch_size: int = ..., errors: OnError
    ) -> list[Result | FlorenceError]: ...

    def run_many(
        self,
        items: Iterable[Item],
        *,
        search: SearchOptions | None = None,
        batch_size: int = 4,
        errors: OnError = "raise",
    ) -> list[Result] | list[Result | FlorenceError]:
        """Answers a mixed batch of `(image, task)` and `(image, task, input)`; results come in the order of the items.

        Each distinct image (the same file, or the same object) is read and encoded once. Up to `batch_size` images are
        encoded together and up to that many questions searched together, which is also what the memory needed grows
        with; every answer equals that of a single `run`. The timings of a result are its share of the batch's.

        With `errors="raise"` the first bad item ends the call, its place named in the message; with `errors="return"`
        a bad item's `FlorenceError` takes the place of its result and all others are answered.
        """
        answers = Batch(self._runtime, search=search, size=batch_size, on_error=errors).run(items)
        return cast("list[Result]", answers) if errors == "raise" else answers

    def stream(
        self, task: str, image: Picture, input: TaskInput = None, *, search: SearchOptions | None = None
    ) -> TextStream:
        """Answers one task piece by piece: iterate over the text as it is written, then take the parsed `.result`.

        Arguments are checked and the image is encoded before this returns.
        """
        question, subject = self._question(task, image, input, search)
        view = self._runtime.see(subject)
        return self._runtime.stream(view, question, {} if subject is view else dict(view.timings_ms))

    # Text

    def caption(self, image: Picture, *, detail: Detail = "brief", search: SearchOptions | None = None) -> Text:
        """Describes the image in a phrase ("brief"), a sentence or two ("detailed") or a "paragraph"."""
        if detail not in DETAIL:
            raise InputError(f"detail is {detail!r}; it must be one of {', '.join(DETAIL)}")
        return cast(Text, self.run(DETAIL[detail], image, search=search))

    def read(self, image: Picture, *, search: SearchOptions | None = None) -> Text:
        """All text in the image, in reading order."""
        return cast(Text, self.run("<OCR>", image, search=search))

    def ask(self, image: Picture, prompt: str, *, search: SearchOptions | None = None) -> Text:
        """Sends a prompt of your own, as models fine-tuned on questions take it; the answer comes back as it is."""
        return cast(Text, self.run("ask", image, prompt, search=search))

    def classify_region(self, image: Picture, box: Box, *, search: SearchOptions | None = None) -> Text:
        """Names the category of what lies in a box."""
        return cast(Text, self.run("<REGION_TO_CATEGORY>", image, box, search=search))

    def describe_region(self, image: Picture, box: Box, *, search: SearchOptions | None = None) -> Text:
        """Describes what lies in a box."""
        return cast(Text, self.run("<REGION_TO_DESCRIPTION>", image, box, search=search))

    def read_region(self, image: Picture, box: Box, *, search: SearchOptions | None = None) -> Text:
        """The text in a box."""
        return cast(Text, self.run("<REGION_TO_OCR>", image, box, search=search))

    # Regions; what `allowed_labels`, `min_score` and `max_regions` keep is told by `Selection`

    def detect(
        self,
        image: Picture,
        classes: Labels | None = None,
        *,
        search: SearchOptions | None = None,
        allowed_labels: Labels | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Detections:
        """Finds objects: every category the model knows, or the class or classes asked for (open vocabulary).

        With classes, `class_ids` index them. A class that is not in the image may still be found: look at the scores.
        """
        kept = Selection(allowed_labels, min_score, max_regions)
        return kept.of(cast(Detections, self.run("detect", image, classes, search=search)))

    def propose(
        self,
        image: Picture,
        *,
        search: SearchOptions | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Detections:
        """Boxes around anything that looks like an object, without labels."""
        kept = Selection(None, min_score, max_regions)
        return kept.of(cast(Detections, self.run("<REGION_PROPOSAL>", image, search=search)))

    def describe_regions(
        self,
        image: Picture,
        *,
        search: SearchOptions | None = None,
        allowed_labels: Labels | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Detections:
        """Finds objects and describes each with a phrase."""
        kept = Selection(allowed_labels, min_score, max_regions)
        return kept.of(cast(Detections, self.run("<DENSE_REGION_CAPTION>", image, search=search)))

    def ground(
        self,
        image: Picture,
        caption: str,
        *,
        search: SearchOptions | None = None,
        allowed_labels: Labels | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Detections:
        """Finds what the phrases of a caption mean; a phrase may have several boxes."""
        kept = Selection(allowed_labels, min_score, max_regions)
        return kept.of(cast(Detections, self.run("<CAPTION_TO_PHRASE_GROUNDING>", image, caption, search=search)))

    def segment(
        self,
        image: Picture,
        phrase: str,
        *,
        search: SearchOptions | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Polygons:
        """The outline of what a phrase refers to."""
        kept = Selection(None, min_score, max_regions)
        return kept.of(cast(Polygons, self.run("<REFERRING_EXPRESSION_SEGMENTATION>", image, phrase, search=search)))

    def segment_region(
        self,
        image: Picture,
        box: Box,
        *,
        search: SearchOptions | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Polygons:
        """The outline of what lies in a box."""
        kept = Selection(None, min_score, max_regions)
        return kept.of(cast(Polygons, self.run("<REGION_TO_SEGMENTATION>", image, box, search=search)))

    def read_regions(
        self,
        image: Picture,
        *,
        search: SearchOptions | None = None,
        allowed_labels: Labels | None = None,
        min_score: float | None = None,
        max_regions: int | None = None,
    ) -> Quads:
        """Lines of text with the corners of each."""
        kept = Selection(allowed_labels, min_score, max_regions)
        return kept.of(cast(Quads, self.run("<OCR_WITH_REGION>", image, search=search)))

    def _question(
        self, task: str, image: Picture, given: TaskInput, search: SearchOptions | None
    ) -> tuple[Question, Prepared | View]:
        """What to ask and about which image, every argument checked before the engine runs."""
        self._runtime.check_open()
        row = find(task, with_input=given is not None)
        subject = self._runtime.prepare(image)
        return self._runtime.codec.question(row, given, subject.size, search), subject
