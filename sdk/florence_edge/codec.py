"""Between a caller's words and a model's token ids: questions go in, results come out. It runs no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from time import perf_counter

from .backends import Hypothesis
from .bundle import Bundle
from .errors import BundleError, InputError
from .forms import Form
from .geometry import ImageSize, Int64Array
from .grammar import ParseOptions, parse_ids
from .manifest import Manifest
from .options import FormedOptions, SearchOptions
from .prompts import TaskInput, class_names, prompt_for
from .results import Result, Text
from .tasks import NOTHING, InputKind, Task
from .tokens import Tokens


@dataclass(frozen=True, eq=False)
class Question:
    """A task with its input, as the prompt's token ids [T] and the search options it is asked with."""

    task: Task
    input: TaskInput
    size: ImageSize
    ids: Int64Array
    options: SearchOptions


class Codec:
    """The tokenizer and the limits of one bundle."""

    def __init__(self, tokens: Tokens, manifest: Manifest) -> None:
        self.tokens, self._manifest = tokens, manifest

    @classmethod
    def open(cls, bundle: Bundle) -> Codec:
        """The codec of a bundle; `BundleError` for a tokenizer that cannot be read or is not the manifest's."""
        tokens, stated = Tokens.load(bundle.tokenizer), bundle.manifest.tokenizer.vocabulary
        if tokens.vocabulary != stated:
            raise BundleError(
                f"{bundle.tokenizer} is of another model: it has {tokens.vocabulary}, but the manifest says {stated}; "
                "convert the checkpoint again"
            )
        return cls(tokens, bundle.manifest)

    def question(self, task: Task, given: TaskInput, size: ImageSize, search: SearchOptions | None = None) -> Question:
        """What to send to the model for a task with the input `given`, about an image of `size`.

        Raises `InputError` for an input that the task does not take, a prompt past the model's positions, and search
        options outside their range or the model's limits.
        """
        if search is not None and not isinstance(search, SearchOptions):
            raise InputError(f"search is {search!r:.80}; give SearchOptions, such as SearchOptions(beams=1)")
        ids = self.tokens.encode(prompt_for(task, given, size))
        limit = self._manifest.limits.prompt_tokens
        if len(ids) > limit:
            raise InputError(
                f"the prompt of {task.token} has {len(ids)} tokens, but this model takes at most {limit}; shorten the "
                "input or ask in several calls"
            )
        return Question(task, given, size, ids, self._options(task, given, search or SearchOptions()))

    def result(self, question: Question, hypothesis: Hypothesis, stages: Mapping[str, float]) -> Result:
        """The answer in pixels of the original image; `stages` are the milliseconds spent so far."""
        start = perf_counter()
        result = parse_ids(
            question.task,
            hypothesis.ids,
            question.size,
            tokens=self.tokens,
            logprobs=hypothesis.token_logprobs,
            finish=hypothesis.finish,
            options=ParseOptions.for_input(question.task, question.input),
        )
        curve = self._manifest.calibration.get(question.task.token)
        scores = result.scores if curve is None else curve(result.scores)
        return replace(result, scores=scores, timings_ms={**stages, "parse": (perf_counter() - start) * 1e3})

    def text(self, question: Question, ids: Int64Array) -> str:
        """The text of an answer so far: what `Text.text` will hold, or for other results `raw`."""
        result = parse_ids(question.task, ids, question.size, tokens=self.tokens)
        return result.text if isinstance(result, Text) else result.raw

    def _options(self, task: Task, given: TaskInput, search: SearchOptions) -> SearchOptions:
        """The search options of one call: without a limit of its own, the task's budget as far as the bundle allows."""
        config, limit = self._manifest.search, self._manifest.limits.new_tokens
        wanted = search.max_new_tokens
        if wanted is not None and wanted > limit:
            raise InputError(f"max_new_tokens is {wanted}, but this model writes at most {limit} tokens")
        budget = min(task.budget, config.max_new_tokens)
        options = replace(search, max_new_tokens=budget if wanted is None else wanted)
        if options.constrained:
            values = {item.name: getattr(options, item.name) for item in fields(SearchOptions)}
            options = FormedOptions(**values, form=self.form(task, given))
        config.over(options)
        return options

    def form(self, task: Task, given: TaskInput) -> Form:
        """The form of a task's answers; of classes, the labels are their names, as they are given or in lower case."""
        names = class_names(given) if task.input is InputKind.CLASSES else ()
        spellings = dict.fromkeys(
            f"{space}{name}" for each in names for name in (each, each.lower()) for space in ("", " ")
        )
        labels = tuple(self._label(text) for text in spellings)
        return Form(task.grammar, self.tokens, labels, self._label(NOTHING))

    def _label(self, text: str) -> tuple[int, ...]:
        """The token ids of a label, without those around a prompt."""
        return tuple(self.tokens.encode(text)[1:-1].tolist())
