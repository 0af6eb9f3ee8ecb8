"""Caption metrics: CIDEr-D, BLEU and ROUGE-L over words, as the COCO caption evaluation defines them.

Sources: CIDEr-D (Vedantam et al., 2015, section 5 and the published defaults n = 4, sigma = 6), BLEU (Papineni et al.,
2002, corpus level, closest reference length, no smoothing), ROUGE-L (Lin, 2004, with beta = 1.2 over the best
precision and the best recall of the references). The published evaluation cuts text into words with the Stanford PTB
tokenizer, a Java program; `words` follows its rules for plain English without it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from .resampling import Float64Array, Statistic

ORDER = 4
_SIGMA = 6.0
_BETA = 1.2
_WORD = re.compile(
    r"""n't\b | '(?:s|m|d|re|ve|ll)\b                      # clitics
    | [a-z]+(?=n't\b) | can(?=not\b) | (?<=can)not\b       # what stands before them
    | (?:[a-z]\.){2,}                                      # abbreviations
    | \d+(?:[.,:/]\d+)*(?![\w-]) | @?\w+(?:[-./&]\w+)*    # numbers, words
    | \S""",
    re.VERBOSE,
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""How the PTB tokenizer spells brackets; the published evaluation means to drop them, but looks for capitals."""
_PUNCTUATION = frozenset(".?!,:;-'`\"“”‘’…–—") | {"...", "--", "''", "``"}

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]


def words(text: str) -> list[str]:
    """The lower-case words of a text, punctuation left out; clitics are words of their own ("isn't" is "is n't")."""
    return [
        _BRACKETS.get(word, word) for word in _WORD.findall(text.lower().replace("’", "'")) if word not in _PUNCTUATION
    ]


def grams(text: Words, order: int) -> Grams:
    """How often each run of `order` words occurs."""
    return Counter(tuple(text[start : start + order]) for start in range(len(text) - order + 1))


def cider(found: Sequence[Words], truths: Sequence[Sequence[Words]]) -> Float64Array:
    """CIDEr-D of each caption [N] float64, 0 to 10; a corpus has the mean of its captions.

    Words are weighed by the number of images whose references hold them, so scores depend on the whole corpus.
    """
    held = Counter(chain.from_iterable(set(chain.from_iterable(map(_all_grams, refs))) for refs in truths))
    total = math.log(max(1, len(truths)))
    weights = {gram: total - math.log(max(1, images)) for gram, images in held.items()}
    scores = np.zeros(len(found))
    for index, (caption, refs) in enumerate(zip(found, truths, strict=True)):
        vectors = [_vectors(ref, weights, total) for ref in refs]
        mine = _vectors(caption, weights, total)
        pairs = zip(vectors, refs, strict=True)
        scores[index] = np.mean([_similarity(mine, other, len(caption) - len(ref)) for other, ref in pairs])
    return 10 * scores


def bleu(found: Sequence[Words], truths: Sequence[Sequence[Words]]) -> Statistic:
    """BLEU-4 of a corpus, 0 to 1, as a statistic over its captions."""
    rows = np.array([_bleu_counts(caption, refs) for caption, refs in zip(found, truths, strict=True)], np.float64)

    def statistic(weights: Float64Array) -> float:
        length, closest, *rest = (weights @ rows).tolist()
        matched, possible = rest[:ORDER], rest[ORDER:]
        if not all(matched):
            return 0.0
        logs = [math.log(hit / of) for hit, of in zip(matched, possible, strict=True)]
        return math.exp(sum(logs) / ORDER + min(0.0, 1 - closest / length))

    return statistic


def rouge_l(caption: Words, refs: Sequence[Words]) -> float:
    """ROUGE-L of one caption, 0 to 1."""
    if not caption or not any(refs):
        return 0.0
    common = [common_subsequence(caption, ref) for ref in refs]
    precision = max(common) / len(caption)
    recall = max(length / len(ref) for length, ref in zip(common, refs, strict=True) if ref)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_subsequence(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for place, other in enumerate(b, 1):
            diagonal, row[place] = row[place], diagonal + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def _all_grams(text: Words) -> Grams:
    return Counter(chain.from_iterable(grams(text, order).elements() for order in range(1, ORDER + 1)))


def _vectors(text: Words, weights: dict[tuple[str, ...], float], unseen: float) -> list[dict[tuple[str, ...], float]]:
    """Counts times weights per order; runs of words that no reference holds weigh most (`unseen`)."""
    return [
        {gram: count * weights.get(gram, unseen) for gram, count in grams(text, order).items()}
        for order in range(1, ORDER + 1)
    ]


def _similarity(
    mine: Sequence[dict[tuple[str, ...], float]], other: Sequence[dict[tuple[str, ...], float]], difference: int
) -> float:
    """Mean over the orders of the clipped cosine, less for another length."""
    penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
    total = 0.0
    for a, b in zip(mine, other, strict=True):
        norm = math.sqrt(sum(v * v for v in a.values())) * math.sqrt(sum(v * v for v in b.values()))
        if norm:
            total += penalty * sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b) / norm
    return total / ORDER


def _bleu_counts(caption: Words, refs: Sequence[Words]) -> list[int]:
    """Length, closest reference length, matched runs per order, possible runs per order."""
    matched, possible = [], []
    for order in range(1, ORDER + 1):
        most: Grams = Counter()
        for ref in refs:
            most |= grams(ref, order)
        mine = grams(caption, order)
        matched.append((mine & most).total())
        possible.append(max(0, len(caption) - order + 1))
    closest = min((abs(len(ref) - len(caption)), len(ref)) for ref in refs)[1]
    return [len(caption), closest, *matched, *possible]
