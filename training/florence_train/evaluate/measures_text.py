"""What is measured of answers that are texts: captions, categories, descriptions, what was read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence_edge.results import Result, Text

from .answers import Answer
from .captions import bleu, cider, rouge_l, words
from .reading import edit_distance, normalised
from .resampling import Float64Array, mean, ratio
from .section import Scored, Section


def caption(section: Section) -> None:
    """CIDEr, BLEU-4, ROUGE-L, and how often the text is a reference word for word.

    Tabletop captions have one way to say everything, so an exact match there means that every object,
    colour and relation is right.
    """
    answers = section.answers
    found = [words(text_of(answer.found)) for answer in answers]
    truths = [[words(text_of(truth)) for truth in answer.truths] for answer in answers]
    rouge = [rouge_l(mine, refs) for mine, refs in zip(found, truths, strict=True)]
    right = exact(answers)
    paper = "COCO caption CIDEr" if section.task == "<CAPTION>" else ""
    section.add("CIDEr", mean(cider(found, truths)), len(answers), paper=paper)
    section.add("BLEU-4", bleu(found, truths), len(answers))
    section.add("ROUGE-L", mean(rouge), len(answers))
    section.add("exact match", mean(right), len(answers))
    section.quality = np.maximum(rouge, right)


def category(section: Section) -> None:
    """Accuracy, calibration, and accuracy per category."""
    right = exact(section.answers)
    section.add("accuracy", mean(right), len(right))
    _calibration(section, right)
    names = np.array([normalised(text_of(answer.truths[0])) for answer in section.answers])
    rows = [(str(name), (int((names == name).sum()), float(right[names == name].mean()))) for name in np.unique(names)]
    section.table("per category", ("regions", "accuracy"), rows)
    section.quality = right


def reading(section: Section) -> None:
    """Character error rate (of the nearest reference), exact match (with case), calibration."""
    answers = section.answers
    texts = [" ".join(text_of(answer.found).split()) for answer in answers]
    truths = [[" ".join(text_of(truth).split()) for truth in answer.truths] for answer in answers]
    pairs = [
        min((edit_distance(text, ref), len(ref)) for ref in refs) for text, refs in zip(texts, truths, strict=True)
    ]
    errors, lengths = np.array(pairs, np.float64).T
    right = np.array(
        [not a.error and text in refs for a, text, refs in zip(answers, texts, truths, strict=True)], np.float64
    )
    section.add("CER", ratio(errors, lengths), len(answers))
    section.add("exact match", mean(right), len(answers))
    _calibration(section, right)
    section.quality = np.where(right > 0, 1.0, (1 - errors / np.maximum(lengths, 1)).clip(0, 1))


def reply(section: Section) -> None:
    """How often a free prompt is answered with a reference word for word."""
    right = exact(section.answers)
    section.add("exact match", mean(right), len(right))
    section.quality = right


def exact(answers: Sequence[Answer]) -> Float64Array:
    """1 for each answer that is one of its references but for case, white space and a final stop, else 0."""
    return np.array(
        [
            not answer.error
            and normalised(text_of(answer.found)) in {normalised(text_of(truth)) for truth in answer.truths}
            for answer in answers
        ],
        np.float64,
    )


def text_of(result: Result) -> str:
    """The text of an answer."""
    return result.text if isinstance(result, Text) else result.raw


def _calibration(section: Section, right: Float64Array) -> None:
    scores = np.array([answer.found.scores[0] for answer in section.answers])
    section.add_calibration("ECE", Scored(scores.astype(np.float64), right, np.arange(len(right))))
