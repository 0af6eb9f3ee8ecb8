"""How an answer is searched for: what a bundle fixes, and what one call may change.

Names and meaning are those of `transformers.GenerationConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

from .errors import InputError
from .forms import Form

EarlyStopping = bool | Literal["never"]

MOST_BEAMS = 32
"""Memory and time grow with the beams, and answers have long stopped changing."""

_LOWEST_PENALTY, _HIGHEST_PENALTY = -2.0, 10.0
"""Exponents beyond these take scores of long answers out of the range of float32."""


@dataclass(frozen=True)
class SearchOptions:
    """What one call changes about the search; None keeps the bundle's own setting.

    `beams` is the number of beams, 1 (greedy) to 32. `max_new_tokens` and `min_new_tokens` count every generated token,
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

    def __post_init__(self) -> None:
        given = {name: value for name in _TYPES if (value := getattr(self, name)) is not None}
        faults = [
            f"{name} is {value!r}; it must be {words}"
            for name, value in given.items()
            for kind, plain, words in (_TYPES[name],)
            if not isinstance(value, kind) or (isinstance(value, bool) and plain is not bool)
        ]
        if faults:
            raise InputError("; ".join(faults))
        for name, value in given.items():  # NumPy's numbers become Python's, which JSON knows
            object.__setattr__(self, name, _TYPES[name][1](value))


_TYPES: Mapping[str, tuple[type, type, str]] = {
    **dict.fromkeys(
        ("beams", "max_new_tokens", "min_new_tokens", "no_repeat_ngram"), (Integral, int, "a whole number")
    ),
    "length_penalty": (Real, float, "a number"),
    "constrained": (bool, bool, "True or False"),
}
"""What an option is, what it is kept as, and that in words; `early_stopping` is for `SearchConfig` to check."""


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
                (not 1 <= self.beams <= MOST_BEAMS, f"beams is {self.beams}; it must lie in 1..{MOST_BEAMS}"),
                (self.max_new_tokens < 1, f"max_new_tokens is {self.max_new_tokens}; it must be 1 or more"),
                (
                    not 0 <= self.min_new_tokens <= self.max_new_tokens,
                    f"min_new_tokens is {self.min_new_tokens}; it must lie in 0..{self.max_new_tokens}, the limit",
                ),
                (self.no_repeat_ngram < 0, f"no_repeat_ngram is {self.no_repeat_ngram}; it must be 0 (off) or more"),
                (
                    not _LOWEST_PENALTY <= self.length_penalty <= _HIGHEST_PENALTY,
                    f"length_penalty is {self.length_penalty}; it must lie in {_LOWEST_PENALTY}..{_HIGHEST_PENALTY}",
                ),
                (
                    not isinstance(self.early_stopping, bool) and self.early_stopping != "never",
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


@dataclass(frozen=True)
class FormedConfig(SearchConfig):
    """The setting of a call whose answers must have a form; a manifest never holds one."""

    form: Form | None = None


_OWN = tuple(item.name for item in fields(SearchOptions) if item.name != "constrained")
"""What `SearchOptions` and `SearchConfig` share."""
