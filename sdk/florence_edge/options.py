"""How an answer is searched for: what a bundle fixes, and what one call may change.

Names and meaning are those of `transformers.GenerationConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from .errors import InputError
from .forms import Form

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class SearchOptions:
    """What one call changes about the search; None keeps the bundle's own setting.

    `beams` is the number of beams, 1 meaning greedy. `max_new_tokens` and `min_new_tokens` count every generated token,
    the forced `<s>` and the final `</s>` included. `length_penalty` is the exponent of the length that divides a
    hypothesis' log-probability. `early_stopping` is True (stop at `beams` finished hypotheses), False (stop when no
    running beam can beat the worst finished one at its present length) or "never" (the same, at its best possible
    length). `no_repeat_ngram` forbids repeating any n-gram of that size, 0 for none. `constrained` lets only
    answers come out that are well formed (`forms`) and whole within the limit; where that and the n-gram ban or
    `min_new_tokens` leave no token, the form counts.
    """

    beams: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    length_penalty: float | None = None
    early_stopping: EarlyStopping | None = None
    no_repeat_ngram: int | None = None
    constrained: bool | None = None


@dataclass(frozen=True)
class FormedOptions(SearchOptions):
    """Options with the form that the answers to one question must have; `Codec` makes them for `constrained=True`."""

    form: Form | None = None


@dataclass(frozen=True)
class SearchConfig:
    """A complete search setting: a bundle's own, or that of one call after `over`.

    The token ids: `decoder_start` begins every hypothesis, `forced_bos` follows it where it is not None, `forced_eos`
    ends a hypothesis that reaches the limit, `eos` ends one, `pad` fills.
    """

    beams: int = 3
    max_new_tokens: int = 1023
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = True
    no_repeat_ngram: int = 3
    decoder_start: int = 2
    forced_bos: int | None = 0
    forced_eos: int | None = 2
    eos: int = 2
    pad: int = 1

    def __post_init__(self) -> None:
        faults = [
            text
            for wrong, text in (
                (self.beams < 1, f"beams is {self.beams}; it must be 1 or more"),
                (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more"),
                (
                    not 0 <= self.min_new_tokens <= self.max_new_tokens,
                    f"min_new_tokens is {self.min_new_tokens}; it must lie in 0..{self.max_new_tokens}, the limit",
                ),
                (self.no_repeat_ngram < 0, f"no_repeat_ngram is {self.no_repeat_ngram}; it must be 0 (off) or more"),
                (
                    self.early_stopping not in (True, False, "never"),
                    f"early_stopping is {self.early_stopping!r}; it must be True, False or 'never'",
                ),
            )
            if wrong
        ]
        if faults:
            raise InputError("; ".join(faults))

    def over(self, options: SearchOptions | None) -> SearchConfig:
        """This setting with what `options` says in place of its own; raises `InputError` when that is invalid."""
        if options is None:
            return self
        changes = {key: value for key in _OWN if (value := getattr(options, key)) is not None}
        values = {**self.to_dict(), **changes}
        form = options.form if isinstance(options, FormedOptions) else None
        return SearchConfig(**values) if form is None else FormedConfig(**values, form=form)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {item.name: getattr(self, item.name) for item in fields(SearchConfig)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SearchConfig:
        """The inverse of `to_dict`; an unknown or missing key is an `InputError`."""
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            unknown, absent = sorted(values.keys() - known), sorted(known - values.keys())
            raise InputError(f"search settings: unknown keys {unknown}, missing keys {absent}")
        return cls(**values)


@dataclass(frozen=True)
class FormedConfig(SearchConfig):
    """The setting of a call whose answers must have a form; a manifest never holds one."""

    form: Form | None = None


_OWN = tuple(item.name for item in fields(SearchOptions) if item.name != "constrained")
"""What `SearchOptions` and `SearchConfig` share."""
