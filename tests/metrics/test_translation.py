"""BLEU is sacrebleu's, the sentence's the textbook's; error rates are edits per token."""

import itertools
import math

import numpy as np
import pytest

from jaxembed.metrics import corpus_bleu, sentence_bleu, sequence_error_rate, word_error_rate
from jaxembed.metrics.translation import edit_distance

HYPOTHESES = ["The cat sat on the mat, quickly.", "", "a dog runs", "two Men are in the park ."]
REFERENCES = ["The cat sat on a mat, quickly!", "nothing at all", "", "Two men are at the park."]
MORE = ["A cat sat on the mat.", "", "the dog runs", "Two men stand in a park."]


@pytest.mark.parametrize("tokenize", ["13a", "none", "char", "intl", "zh"])
@pytest.mark.parametrize("smooth", [("exp", None), ("floor", 0.1), ("add-k", 1), ("none", None)])
def test_corpus_bleu_equals_sacrebleu(tokenize, smooth):
    sacrebleu = pytest.importorskip("sacrebleu")
    method, value = smooth
    for references, lowercase in itertools.product([[REFERENCES], [REFERENCES, MORE]], [0, 1]):
        wanted = sacrebleu.corpus_bleu(
            HYPOTHESES,
            references,
            tokenize=tokenize,
            smooth_method=method,
            smooth_value=value,
            lowercase=bool(lowercase),
        )
        got = corpus_bleu(
            HYPOTHESES,
            references,
            tokenize=tokenize,
            smooth_method=method,
            smooth_value=value,
            lowercase=bool(lowercase),
        )
        assert abs(got.score - wanted.score) <= 1e-9 and float(got) == got.score
        assert got.brevity_penalty == wanted.bp and list(got.precisions) == wanted.precisions
        assert f"tok:{tokenize}" in got.signature and f"nrefs:{len(references)}" in got.signature


def test_texts_and_lists_of_texts_are_references():
    pytest.importorskip("sacrebleu")
    assert corpus_bleu(HYPOTHESES, REFERENCES) == corpus_bleu(HYPOTHESES, [REFERENCES])
    assert abs(corpus_bleu(REFERENCES[:1], REFERENCES[:1]).score - 100) < 1e-9


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], ["a", "b"], "1 hypotheses but 2 references"),
        ([], [], "0 hypotheses"),
        ("a", ["a"], "takes lists"),
    ],
)
def test_texts_without_partners_are_refused(hypotheses, references, message):
    with pytest.raises(ValueError, match=message):
        corpus_bleu(hypotheses, references)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "order", "wanted"),
    [
        # va m'en ! : p1 = 1, p2 = 0 of one bigram; the textbook's own examples follow.
        ("va !", "va !", 2, 1.0),
        ("A B B C D", "A B C D E F", 2, math.exp(1 - 6 / 5) * (4 / 5) ** 0.5 * (3 / 4) ** 0.25),
        ("il est calme .", "il est mouillé .", 2, (3 / 4) ** 0.5 * (1 / 3) ** 0.25),
        ("a a a", "a b", 1, (1 / 3) ** 0.5),
        ("a", "a b", 4, math.exp(-1)),
        ("", "a b", 4, 0.0),
        ("x y", "a b", 4, 0.0),
    ],
)
def test_sentence_bleu_is_the_textbook_s(hypothesis, reference, order, wanted):
    assert sentence_bleu(hypothesis, reference, max_order=order) == pytest.approx(wanted, abs=1e-12)
    listed = sentence_bleu(hypothesis.split(), reference.split(), max_order=order)
    assert listed == pytest.approx(wanted, abs=1e-12)


def test_edit_distance_is_the_shortest_way():
    rng = np.random.default_rng(0)

    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        change = slow(a[1:], b[1:]) + (a[0] != b[0])
        return min(change, slow(a[1:], b) + 1, slow(a, b[1:]) + 1)

    for _ in range(60):
        a, b = (tuple("xyz"[i] for i in rng.integers(0, 3, rng.integers(0, 6))) for _ in "ab")
        assert edit_distance(a, b) == slow(a, b) == edit_distance(b, a)


def test_error_rates_count_the_nearest_right_answer():
    assert word_error_rate(["a b c", "d"], ["a x c", "d e"]) == pytest.approx(2 / 5)
    answers = [[["K", "AE"], ["K", "AH", "T"]], "D AO G"]
    assert word_error_rate(["K AH T", "D AO"], answers) == pytest.approx(1 / 6)
    assert sequence_error_rate(["K AH T", "D AO"], answers) == 0.5
    assert word_error_rate([""], ["a b"]) == 1.0
    for rate in (word_error_rate, sequence_error_rate):
        with pytest.raises(ValueError, match="1 hypotheses but 2 references"):
            rate(["a"], ["a", "b"])
        with pytest.raises(ValueError, match="no tokens|no hypotheses"):
            rate([], [])
