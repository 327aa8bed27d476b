"""The word2vec files and the evaluators against the installed gensim."""

import gzip

import numpy as np
import pytest

from jaxembed.convert import word2vec
from jaxembed.metrics import words

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def gensim_vectors():
    return pytest.importorskip("gensim.models").KeyedVectors


@pytest.fixture
def datapath():
    return pytest.importorskip("gensim.test.utils").datapath


def draw(count, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def assert_same(keys, matrix, theirs):
    assert list(keys) == theirs.index_to_key
    np.testing.assert_array_equal(matrix.view(np.uint32), theirs.vectors.view(np.uint32))


WRITERS = [
    (word2vec.write_word2vec_text, {}),
    (word2vec.write_word2vec_binary, {"binary": True}),
    (word2vec.write_glove_text, {"no_header": True}),
]


@pytest.mark.parametrize(("write", "options"), WRITERS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_gensim_reads_what_we_write(tmp_path, gensim_vectors, write, options, ending):
    keys = ["the", "naïve", "東京", "a-b", *(f"w{i}" for i in range(300))]
    matrix = draw(len(keys), 7) * np.float32(10.0) ** np.arange(-20, 20, 6)[:7].astype(np.float32)
    write(tmp_path / f"v{ending}", keys, matrix)
    theirs = gensim_vectors.load_word2vec_format(str(tmp_path / f"v{ending}"), **options)
    assert_same(keys, matrix, theirs)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    ("read", "options"),
    [
        (word2vec.read_word2vec_text, {"binary": False}),
        (word2vec.read_word2vec_binary, {"binary": True}),
        (word2vec.read_glove_text, {"write_header": False}),
    ],
)
def test_we_read_what_gensim_writes(tmp_path, gensim_vectors, read, options, ending):
    theirs = gensim_vectors(9)
    theirs.add_vectors([f"w{i}é" for i in range(300)], draw(300, 9) * np.float32(1e-12))
    theirs.save_word2vec_format(str(tmp_path / f"v{ending}"), **options)
    assert_same(*read(tmp_path / f"v{ending}"), theirs)


@pytest.mark.parametrize(
    "name",
    ["crime-and-punishment.vec", "lee_fasttext.vec", "pang_lee_polarity_fasttext.vec"],
)
def test_text_files_that_gensim_ships_read_the_same(gensim_vectors, datapath, name):
    theirs = gensim_vectors.load_word2vec_format(datapath(name), unicode_errors="surrogateescape")
    assert_same(*word2vec.read_text(datapath(name)), theirs)


def test_binary_and_glove_files_that_gensim_ships_read_the_same(gensim_vectors, datapath):
    theirs = gensim_vectors.load_word2vec_format(datapath("euclidean_vectors.bin"), binary=True)
    assert_same(*word2vec.read_word2vec_binary(datapath("euclidean_vectors.bin")), theirs)
    theirs = gensim_vectors.load_word2vec_format(datapath("test_glove.txt"), no_header=True)
    assert_same(*word2vec.read_text(datapath("test_glove.txt")), theirs)


def question_words(datapath, count):
    """Words of the question file, some of them in two cases, and a few that it does not have."""
    seen = {}
    with open(datapath("questions-words.txt")) as file:
        for line in file:
            if not line.startswith(":"):
                seen.update(dict.fromkeys(line.split()))
    found = list(seen)[:count]
    return [*found, *(word.lower() for word in found[:60]), "wug", "WUG"]


def shipped_vectors(gensim_vectors, datapath):
    """Random vectors with planted structure, so that some answers are right."""
    keys = list(dict.fromkeys(question_words(datapath, 500)))
    theirs = gensim_vectors(12)
    rows = draw(len(keys), 12)
    rows[1::2] = rows[: len(rows[1::2]) * 2 : 2] + 0.5 * rows[1] + 0.3 * rows[1::2]
    theirs.add_vectors(keys, rows)
    return theirs


@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy", [True, False])
@pytest.mark.parametrize("restrict", [300_000, 200])
def test_analogies_equal_section_by_section(
    tmp_path, gensim_vectors, datapath, case_insensitive, dummy, restrict
):
    theirs = shipped_vectors(gensim_vectors, datapath)
    # Every 40th question: gensim answers some two thousand a second.
    with open(datapath("questions-words.txt")) as file:
        lines = [line for i, line in enumerate(file) if line.startswith(":") or i % 40 == 0]
    (tmp_path / "questions.txt").write_text("".join(lines))
    _, sections = theirs.evaluate_word_analogies(
        str(tmp_path / "questions.txt"),
        restrict_vocab=restrict,
        case_insensitive=case_insensitive,
        dummy4unknown=dummy,
    )
    scores = words.evaluate_analogies(
        theirs.index_to_key,
        theirs.vectors,
        words.read_analogies(tmp_path / "questions.txt"),
        restrict_vocab=restrict,
        case_insensitive=case_insensitive,
        dummy_for_unknown=dummy,
    )
    expected = [
        (s["section"], len(s["correct"]), len(s["correct"]) + len(s["incorrect"])) for s in sections
    ]
    found = [(s.name, s.correct, s.total) for s in scores.sections]
    assert found == expected[:-1]
    assert (scores.overall.correct, scores.overall.total) == expected[-1][1:]
    assert scores.overall.correct > 0


@pytest.mark.parametrize("name", ["wordsim353.tsv", "simlex999.txt"])
@pytest.mark.parametrize("case_insensitive", [True, False])
@pytest.mark.parametrize("dummy", [True, False])
def test_word_pairs_equal(gensim_vectors, datapath, name, case_insensitive, dummy):
    pairs = words.read_word_pairs(datapath(name))
    keys = list(dict.fromkeys(word for pair in pairs for word in pair[:2]))[::2]
    keys += [key.title() for key in keys if key.title() not in keys]
    theirs = gensim_vectors(20)
    theirs.add_vectors(keys, draw(len(keys), 20))
    options = {"case_insensitive": case_insensitive}
    pearson, spearman, unknown = theirs.evaluate_word_pairs(
        datapath(name), dummy4unknown=dummy, **options
    )
    scores = words.evaluate_word_pairs(
        keys, theirs.vectors, pairs, dummy_for_unknown=dummy, **options
    )
    np.testing.assert_allclose(
        [scores.pearson, scores.pearson_pvalue, scores.spearman, scores.spearman_pvalue],
        [*pearson, *spearman],
        atol=1e-6,
    )
    assert 100 * scores.unknown == pytest.approx(unknown)


def test_gensim_cosmul_gives_the_same_answers(gensim_vectors):
    from jaxembed.vectors import KeyedVectors

    keys = [f"w{i}" for i in range(200)]
    theirs = gensim_vectors(10)
    theirs.add_vectors(keys, draw(200, 10))
    ours = KeyedVectors(keys, theirs.vectors)
    for a, b, c in np.random.default_rng(3).choice(keys, (20, 3)).tolist():
        expected = theirs.most_similar_cosmul(positive=[b, c], negative=[a], topn=5)
        found = ours.analogy(a, b, c, 5, "3CosMul")
        assert [key for key, _ in found] == [key for key, _ in expected]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-4)


def test_gzipped_binary_is_read(tmp_path, datapath):
    with open(datapath("euclidean_vectors.bin"), "rb") as file:
        (tmp_path / "v.bin.gz").write_bytes(gzip.compress(file.read()))
    keys, _ = word2vec.read_word2vec_binary(tmp_path / "v.bin.gz")
    assert keys == word2vec.read_word2vec_binary(datapath("euclidean_vectors.bin"))[0]
