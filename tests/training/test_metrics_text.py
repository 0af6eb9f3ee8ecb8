"""Caption metrics against the published evaluation's own code, reading metrics against hand-computed cases."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from florence_train.evaluate.captions import ORDER, bleu, cider, common_subsequence, rouge_l, words
from florence_train.evaluate.reading import bare, edit_distance, normalised

VOCABULARY = ["a", "red", "cube", "ball", "left", "of", "the", "on", "table", "two"]
CAPTIONS = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=12)
CORPORA = st.lists(st.tuples(CAPTIONS, st.lists(CAPTIONS, min_size=1, max_size=4)), min_size=2, max_size=6)


def published(scorer: Any, corpus: list[tuple[list[str], list[list[str]]]]) -> tuple[Any, Any]:
    truths = {index: [" ".join(ref) for ref in refs] for index, (_, refs) in enumerate(corpus)}
    found = {index: [" ".join(caption)] for index, (caption, _) in enumerate(corpus)}
    result: tuple[Any, Any] = scorer.compute_score(truths, found)
    return result


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_cider_is_the_published_one(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    _, each = published(scorer, corpus)
    found, truths = zip(*corpus, strict=True)
    np.testing.assert_allclose(cider(found, truths), each, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_bleu_is_the_published_one(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    scorer = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer").BleuScorer(n=4)
    # Without any run of four words the published code divides one of its two small constants by the other.
    assume(any(len(caption) >= ORDER for caption, _ in corpus))
    for caption, refs in corpus:
        scorer += (" ".join(caption), [" ".join(ref) for ref in refs])
    expected, _ = scorer.compute_score(option="closest", verbose=0)
    found, truths = zip(*corpus, strict=True)
    # The published code keeps a corpus without a common run of four words at about 1e-4 instead of 0.
    assert bleu(found, truths)(np.ones(len(corpus))) == pytest.approx(expected[3], abs=2e-3)


def test_bleu_of_a_corpus_with_long_matches_is_the_published_one_exactly() -> None:
    scorer = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer").BleuScorer(n=4)
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(20):
        truth = rng.choice(VOCABULARY, 12).tolist()
        pairs.append((truth[: rng.integers(8, 12)], [truth, rng.choice(VOCABULARY, 9).tolist()]))
    for caption, refs in pairs:
        scorer += (" ".join(caption), [" ".join(ref) for ref in refs])
    expected, _ = scorer.compute_score(option="closest", verbose=0)
    found, truths = zip(*pairs, strict=True)
    assert 0.3 < expected[3] < 1
    assert bleu(found, truths)(np.ones(20)) == pytest.approx(expected[3], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(CORPORA)
def test_rouge_is_the_published_one(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    scorer = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge()
    _, each = published(scorer, corpus)
    np.testing.assert_allclose([rouge_l(caption, refs) for caption, refs in corpus], each, atol=1e-9)


def test_bleu_weighs_captions_like_repeated_ones() -> None:
    rng = np.random.default_rng(1)
    truths = [[rng.choice(VOCABULARY, 10).tolist()] for _ in range(4)]
    found = [refs[0][: 5 + index] for index, refs in enumerate(truths)]
    repeated = [0, 2, 2, 2, 3]
    expected = bleu([found[i] for i in repeated], [truths[i] for i in repeated])(np.ones(5))
    assert 0 < expected < 1
    assert bleu(found, truths)(np.array([1.0, 0.0, 3.0, 1.0])) == pytest.approx(expected)


def test_captions_and_references_without_words_score_nothing() -> None:
    assert (rouge_l([], [["a"]]), rouge_l(["a"], [[]]), rouge_l(["a"], [[], ["a"]])) == (0.0, 0.0, 1.0)
    assert bleu([[]], [[["a"]]])(np.ones(1)) == 0.0
    assert cider([[], ["a"]], [[["a"]], [["a"]]])[0] == 0.0


def test_a_perfect_caption_of_an_uncommon_scene_has_cider_ten() -> None:
    found = [words("a red cube left of the ball"), words("two green cones behind one box")]
    assert cider(found, [[caption] for caption in found]).tolist() == pytest.approx([10.0, 10.0])


@settings(max_examples=80, deadline=None)
@given(CAPTIONS, CAPTIONS)
def test_common_subsequence_is_symmetric_and_bounded(a: list[str], b: list[str]) -> None:
    length = common_subsequence(a, b)
    assert length == common_subsequence(b, a) <= min(len(a), len(b))
    assert common_subsequence(a, a) == len(a)


SENTENCES = [
    "A red cube, left of a blue ball.",
    'A sign that says "STOP" hangs (crookedly) on the wall; two men don\'t look at it!',
    "The man's hat isn't on his head... it's there -- on a T-shirt rack.",
    "3 cups, 1.5 litres of milk and a $20 bill: that's 1,000 things?",
    "A black-and-white photo of dogs' bowls.",
    "She cannot see U.S. flags & the well-lit street/road.",
    "We'll [maybe] go at 5:30, I'd say they can't and won't.",
    "it\u2019s a \u201cquoted\u201d word \u2013 yes",
    "two people #3 @home, 50% off; it reads K7XQ2, and ABC-12.",
    "A t.v. and a 3-d picture",
]


def test_words_are_those_of_the_ptb_tokenizer() -> None:
    module = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    if shutil.which("java") is None:
        pytest.skip("the PTB tokenizer is a Java program, and there is no java")
    rows = {index: [{"caption": text}] for index, text in enumerate(SENTENCES)}
    expected = module.PTBTokenizer().tokenize(rows)
    assert [" ".join(words(text)) for text in SENTENCES] == [expected[index][0] for index in range(len(SENTENCES))]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("AB12", "A812", 1), ("ab", "ba", 2)],
)
def test_edit_distance_of_known_pairs(a: str, b: str, distance: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def recursive_distance(a: str, b: str) -> int:
    """Levenshtein's recurrence as it is written."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return recursive_distance(a[1:], b[1:])
    return 1 + min(recursive_distance(a[1:], b), recursive_distance(a, b[1:]), recursive_distance(a[1:], b[1:]))


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_the_recurrence(a: str, b: str) -> None:
    assert edit_distance(a, b) == recursive_distance(a, b)


def test_texts_that_differ_in_form_only_are_equal() -> None:
    assert normalised("  A red\ncube. ") == normalised("a red cube")
    assert normalised("a red cube") != normalised("a red cubes")
    assert normalised("A red cube .") == normalised("a red cube")


@pytest.mark.parametrize(
    ("phrase", "without"),
    [("A red cube.", "red cube"), ("an apple", "apple"), ("the A", "a"), ("a", "a"), ("", ""), ("another", "another")],
)
def test_a_leading_article_does_not_count(phrase: str, without: str) -> None:
    assert bare(phrase) == without
