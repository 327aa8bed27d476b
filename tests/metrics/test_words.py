import json
import pathlib

import numpy as np
import pytest
from reference.analogies import answer_analogy

from jaxembed.convert.word2vec import read_word2vec_binary
from jaxembed.metrics import words

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
RESULTS = json.loads((GOLDEN / "gensim_results.json").read_text())
METHODS = ["3CosAdd", "3CosMul"]


def draw(count, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def random_sections(keys, count, seed=1):
    random = np.random.default_rng(seed)
    questions = tuple(tuple(random.choice(keys, 4).tolist()) for _ in range(count))
    half = count // 2
    return [
        words.AnalogySection("capitals", questions[:half]),
        words.AnalogySection("gram1", questions[half:]),
    ]


@pytest.mark.parametrize(
    ("case_insensitive", "dummy", "restrict", "expected"), RESULTS["analogies"]
)
def test_analogies_equal_gensim(case_insensitive, dummy, restrict, expected):
    keys, matrix = read_word2vec_binary(GOLDEN / "gensim_vectors.bin")
    scores = words.evaluate_analogies(
        keys,
        matrix,
        words.read_analogies(GOLDEN / "gensim_questions.txt"),
        restrict_vocab=restrict,
        case_insensitive=case_insensitive,
        dummy_for_unknown=dummy,
    )
    found = [[s.name, s.correct, s.total - s.correct] for s in (*scores.sections, scores.overall)]
    assert found[:-1] == expected[:-1]
    assert found[-1][1:] == expected[-1][1:]
    assert scores.asked == 52
    assert scores.semantic == scores.sections[0].__class__("semantic", *_counts(expected[:1]))
    assert scores.syntactic == scores.sections[0].__class__("syntactic", *_counts(expected[1:3]))


def _counts(sections):
    correct = sum(section[1] for section in sections)
    return correct, correct + sum(section[2] for section in sections)


@pytest.mark.parametrize(("case_insensitive", "dummy", "expected"), RESULTS["pairs"])
def test_word_pairs_equal_gensim(case_insensitive, dummy, expected):
    keys, matrix = read_word2vec_binary(GOLDEN / "gensim_vectors.bin")
    scores = words.evaluate_word_pairs(
        keys,
        matrix,
        words.read_word_pairs(GOLDEN / "gensim_pairs.tsv"),
        case_insensitive=case_insensitive,
        dummy_for_unknown=dummy,
    )
    found = [scores.pearson, scores.pearson_pvalue, scores.spearman, scores.spearman_pvalue]
    # gensim's cosines are float32 too, but summed in another order.
    np.testing.assert_allclose([*found, 100 * scores.unknown], expected, atol=1e-6)
    assert scores.count == 20 + dummy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", [1, 1 << 25])
def test_answers_equal_one_question_at_a_time(monkeypatch, method, block):
    monkeypatch.setattr(words, "SIMILARITIES_AT_ONCE", block)  # 1 makes blocks of 128 words
    keys = [f"word{i}" for i in range(297)] + ["WORD5", "Word7", "Word5"]
    matrix = draw(300)
    matrix[11] = 0.0
    sections = random_sections(keys, 70)
    answers = [
        answer_analogy(keys, matrix, question[:3], method)
        for section in sections
        for question in section.questions
    ]
    # Ask for the answers themselves: all must be right; then for others: all must be wrong.
    for wanted, share in ((answers, 1.0), (np.roll(answers, 1).tolist(), 0.0)):
        pairs = zip(sections[0].questions + sections[1].questions, wanted, strict=True)
        questions = tuple((*question[:3], answer) for question, answer in pairs)
        scores = words.evaluate_analogies(
            keys, matrix, [words.AnalogySection("all", questions)], method=method
        )
        repeats = sum(a == b for a, b in zip(answers, wanted, strict=True)) / len(answers)
        assert scores.overall.accuracy == max(share, repeats)
        assert scores.coverage == 1.0


def test_zero_and_nan_vectors_never_win_nor_spoil_others():
    keys = ["a", "b", "c", "d", "zero", "nan", "inf"]
    matrix = np.eye(7, 4, dtype=np.float32)
    matrix[3] = [-0.1, 1, 1, 0]
    matrix[5:] = [[np.nan] * 4, [np.inf] * 4]
    section = words.AnalogySection("s", (("a", "b", "c", "d"), ("a", "b", "c", "nan")))
    assert words.evaluate_analogies(keys, matrix, [section]).overall == words.SectionScore(
        "overall", 1, 2
    )
    pairs = [("a", "a", 1.0), ("a", "nan", 0.0), ("a", "zero", 0.0)]
    assert words.evaluate_word_pairs(keys, matrix, pairs).pearson == pytest.approx(1.0)


def test_no_word_left_is_a_wrong_answer():
    section = words.AnalogySection("s", (("a", "b", "c", "A"),))
    scores = words.evaluate_analogies(["a", "b", "c", "A"], draw(4), [section])
    assert scores.overall == words.SectionScore("overall", 0, 1)


def test_equal_scores_go_to_the_earlier_key():
    matrix = np.asarray([[1, 0], [0, 1], [1, 1], [0, 2], [0, 3]], np.float32)
    question = ("x", "y", "z", "first")
    keys = ["x", "y", "z", "first", "second"]
    scores = words.evaluate_analogies(keys, matrix, [words.AnalogySection("s", (question,))])
    assert scores.overall.correct == 1


def test_unknown_questions_only_give_nan_accuracy():
    section = words.AnalogySection("s", (("a", "b", "c", "wug"),))
    scores = words.evaluate_analogies(["a", "b", "c"], draw(3), [section])
    assert scores.overall.total == 0
    assert np.isnan(scores.overall.accuracy)
    assert scores.coverage == 0.0


def test_constant_similarities_have_no_correlation():
    pairs = [("a", "b", 5.0), ("a", "c", 5.0)]
    scores = words.evaluate_word_pairs(["a", "b", "c"], draw(3), pairs)
    assert np.isnan([scores.pearson, scores.spearman]).all()


def test_read_analogies_keeps_sections_and_words(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": capitals\nAthens Greece Oslo Norway\n\n:gram1 x\na b c d\n: empty\n")
    assert words.read_analogies(path) == [
        words.AnalogySection("capitals", (("Athens", "Greece", "Oslo", "Norway"),)),
        words.AnalogySection("gram1 x", (("a", "b", "c", "d"),)),
        words.AnalogySection("empty", ()),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b c d\n", "line 1: 'a b c d' comes before any section"),
        (": s\n\na b c\n", "line 3: 'a b c' has 3 words"),
        (": s\n", "no questions"),
        ("", "no questions"),
    ],
)
def test_damaged_questions_are_refused(tmp_path, content, message):
    (tmp_path / "q.txt").write_text(content)
    with pytest.raises(ValueError, match="q.txt") as caught:
        words.read_analogies(tmp_path / "q.txt")
    assert message in str(caught.value)


@pytest.mark.parametrize("separator", ["\t", " ", "  "])
@pytest.mark.parametrize(
    "header", ["", "word1{0}word2{0}score\n", "# a comment, with more words\n"]
)
def test_read_word_pairs_skips_comments_and_a_header(tmp_path, separator, header):
    path = tmp_path / "pairs.txt"
    text = header + "love{0}sex{0}6.77\n\ntiger{0}cat{0}7\n"
    path.write_text(text.format(separator))
    assert words.read_word_pairs(path) == [("love", "sex", 6.77), ("tiger", "cat", 7.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b 1\nc d x\n", "line 2: 'c d x'"),
        ("a b 1\nc d nan\n", "line 2"),
        ("a b\n", "line 1: 'a b'"),
        ("# a b 1\n", "no word pairs"),
    ],
)
def test_damaged_pairs_are_refused(tmp_path, content, message):
    (tmp_path / "p.txt").write_text(content)
    with pytest.raises(ValueError, match="p.txt") as caught:
        words.read_word_pairs(tmp_path / "p.txt")
    assert message in str(caught.value)


def test_neighbour_table_lists_nearest_in_columns():
    keys = ["king", "queen", "a"]
    matrix = np.asarray([[1, 0], [1, 1], [0, -1]], np.float32)
    assert words.neighbour_table(keys, matrix, ["king", "a"], 2) == (
        "king  queen 0.71  a 0.00\na     king 0.00   queen -0.71"
    )
    with pytest.raises(KeyError, match="'wug' is not among the 3 keys"):
        words.neighbour_table(keys, matrix, ["wug"], 1)
    with pytest.raises(ValueError, match="k=3: wanted at least one query and k from 1 to 2"):
        words.neighbour_table(keys, matrix, ["a"], 3)


def test_wrong_arguments_are_refused():
    sections = [words.AnalogySection("s", (("a", "b", "c", "d"),))]
    with pytest.raises(ValueError, match="2 keys for a matrix of shape"):
        words.evaluate_analogies(["a", "b"], draw(3), sections)
    with pytest.raises(ValueError, match="restrict_vocab is 0"):
        words.evaluate_analogies(["a"], draw(1), sections, restrict_vocab=0)
    with pytest.raises(ValueError, match="no analogy questions"):
        words.evaluate_analogies(["a"], draw(1), [])
    with pytest.raises(ValueError, match="Only 0 of 1 pairs"):
        words.evaluate_word_pairs(["a"], draw(1), [("x", "y", 1.0)])
