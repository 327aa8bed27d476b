import errno
import pathlib

import numpy as np
import pytest
import safetensors.numpy
from reference.analogies import answer_analogy
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed import vectors as vectors_file
from jaxembed.convert import word2vec
from jaxembed.search import ExactIndex, IVFIndex
from jaxembed.vectors import KeyedVectors

GOLDEN = pathlib.Path(__file__).parent / "golden"
ROYAL = ["man", "woman", "king", "queen", "apple", "zero"]
ROYAL_MATRIX = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1], [0, -1, 0.5], [0, 0, 0]]


@pytest.fixture
def royal():
    return KeyedVectors(ROYAL, ROYAL_MATRIX, counts=[6, 5, 4, 3, 2, 1])


@pytest.fixture
def many():
    random = np.random.default_rng(0)
    return KeyedVectors([f"w{i}" for i in range(60)], random.standard_normal((60, 5)))


def test_looks_up_keys_and_rows(royal):
    assert len(royal) == 6
    assert "king" in royal
    assert "wug" not in royal
    assert royal.index("queen") == 3
    np.testing.assert_array_equal(royal["queen"], [1, 1, 1])
    np.testing.assert_array_equal(royal[["queen", "man"]], [[1, 1, 1], [1, 0, 0]])
    assert royal.matrix.dtype == np.float32
    assert repr(royal) == "KeyedVectors(6 keys, dim 3)"
    with pytest.raises(ValueError, match="read-only"):
        royal.matrix[0] = 0


def test_nearest_equals_the_naive_search(many):
    queries = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)
    scores, ids = naive_top_k(queries, many.matrix, 4, "cosine")
    for found, row_scores, row_ids in zip(many.nearest_many(queries, 4), scores, ids, strict=True):
        assert [key for key, _ in found] == [f"w{i}" for i in row_ids]
        np.testing.assert_allclose([score for _, score in found], row_scores, atol=1e-6)
    assert many.nearest(queries[0], 4)[0][0] == f"w{ids[0, 0]}"


def test_a_key_is_not_its_own_neighbour(many):
    found = many.nearest_many(list(many.keys), 59)
    for key, neighbours in zip(many.keys, found, strict=True):
        assert sorted([key, *(other for other, _ in neighbours)]) == sorted(many.keys)
    assert many.nearest("w3", 2) == found[3][:2]
    assert len(many.nearest("w3", 1000)) == 59
    assert many.nearest(many["w3"], 1)[0][0] == "w3"


def test_batches_do_not_change_the_result(many, monkeypatch):
    together = many.nearest_many(list(many.keys), 3)
    monkeypatch.setattr(vectors_file, "QUERIES_AT_ONCE", 16)
    for found, expected in zip(many.nearest_many(list(many.keys), 3), together, strict=True):
        assert [key for key, _ in found] == [key for key, _ in expected]


@pytest.mark.parametrize("method", ["3CosAdd", "3CosMul"])
def test_analogies_equal_one_at_a_time(many, royal, method):
    assert royal.analogy("man", "king", "woman", method=method)[0][0] == "queen"
    random = np.random.default_rng(2)
    questions = [tuple(random.choice(many.keys, 3).tolist()) for _ in range(20)]
    found = many.analogy_many(questions, 1, method)
    expected = [answer_analogy(many.keys, many.matrix, q, method) for q in questions]
    assert [answer[0][0].upper() for answer in found] == expected
    everything = [key for key, _ in many.analogy("w1", "w2", "w3", 100, method)]
    assert sorted(everything) == sorted(set(many.keys) - {"w1", "w2", "w3"})


def test_similarity_is_the_cosine(royal):
    assert royal.similarity("man", "woman") == pytest.approx(1 / np.sqrt(2))
    assert royal.similarity("king", "king") == pytest.approx(1.0)
    assert royal.similarity("king", "zero") == 0.0


def test_odd_one_out_is_farthest_from_the_mean(royal):
    assert royal.odd_one_out(["king", "apple", "queen", "woman"]) == "apple"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[1, 0.5, 0.5], [0, 0, 0]]),
        ("sum", [[2, 1, 1], [0, 0, 0]]),
        ("min-max", [[1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]),
    ],
)
def test_sentence_vectors_pool_known_words(royal, pooling, expected):
    pooled = royal.sentence_vectors([["king", "wug", "woman"], ["wug"]], pooling)
    np.testing.assert_array_equal(pooled, expected)
    np.testing.assert_array_equal(
        royal.sentence_vectors([["woman", "king"], []], pooling), expected
    )


def test_unknown_keys_name_close_spellings(royal):
    for ask in (
        lambda: royal["quene"],
        lambda: royal.nearest("quene"),
        lambda: royal.analogy("man", "king", "quene"),
        lambda: royal.similarity("man", "quene"),
        lambda: royal[["man", "quene"]],
    ):
        with pytest.raises(KeyError, match="'quene' is not among the 6 keys; .* 'queen'"):
            ask()
    with pytest.raises(KeyError, match="close spellings: 'king'"):
        royal["KING"]
    with pytest.raises(KeyError, match="none of them is spelt like it"):
        royal["xyzzy"]


def test_wrong_arguments_are_refused(royal):
    with pytest.raises(ValueError, match="key 'a' occurs more than once"):
        KeyedVectors(["a", "b", "a"], np.ones((3, 2)))
    with pytest.raises(ValueError, match="2 keys for a matrix of shape"):
        KeyedVectors(["a", "b"], np.ones((3, 2)))
    with pytest.raises(ValueError, match="counts have shape"):
        KeyedVectors(["a", "b"], np.ones((2, 2)), counts=[1])
    with pytest.raises(TypeError, match="list of strings"):
        KeyedVectors("ab", np.ones((2, 2)))
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k is {k}"):
            royal.nearest("king", k)
    with pytest.raises(ValueError, match="wanted keys or vectors of 3 numbers"):
        royal.nearest([1.0, 2.0])
    with pytest.raises(ValueError, match="call nearest_many"):
        royal.nearest(np.ones((2, 3)))
    with pytest.raises(ValueError, match="at least one"):
        royal.nearest_many([])
    with pytest.raises(TypeError, match="call nearest for a single key"):
        royal.nearest_many("king")
    with pytest.raises(ValueError, match="list is empty"):
        royal[[]]
    with pytest.raises(ValueError, match="list is empty"):
        royal.analogy_many([])
    with pytest.raises(ValueError, match="at least 3 keys"):
        royal.odd_one_out(["man", "king"])
    with pytest.raises(ValueError, match="no sentences"):
        royal.sentence_vectors([])
    with pytest.raises(TypeError, match="split it into words first"):
        royal.sentence_vectors(["the king"])


@pytest.mark.parametrize("name", ["v.safetensors", "v.bin", "v.txt", "v.vec", "v.txt.gz"])
def test_save_and_load_keep_every_bit(tmp_path, many, name):
    many.save(tmp_path / name)
    loaded = KeyedVectors.load(tmp_path / name)
    assert loaded.keys == many.keys
    np.testing.assert_array_equal(loaded.matrix, many.matrix)
    assert KeyedVectors.load(tmp_path / name, limit=7).keys == many.keys[:7]
    with pytest.raises(ValueError, match="limit is 0"):
        KeyedVectors.load(tmp_path / name, limit=0)
    # With an ending that says nothing, the content decides.
    (tmp_path / name).rename(tmp_path / "plain")
    np.testing.assert_array_equal(KeyedVectors.load(tmp_path / "plain").matrix, many.matrix)


def test_glove_files_load(tmp_path, many):
    for name in ("glove.txt", "glove"):
        word2vec.write_glove_text(tmp_path / name, many.keys, many.matrix)
        np.testing.assert_array_equal(KeyedVectors.load(tmp_path / name).matrix, many.matrix)


@pytest.mark.parametrize("counts", [None, [3, 2, 1]])
def test_the_native_format_takes_any_key_and_counts(tmp_path, counts):
    keys = ["New York\n", "", "caf\udce9"]
    KeyedVectors(keys, np.eye(3), counts).save(tmp_path / "v.safetensors")
    loaded = KeyedVectors.load(tmp_path / "v.safetensors")
    assert loaded.keys == tuple(keys)
    assert (loaded.counts is None) == (counts is None)
    if counts:
        np.testing.assert_array_equal(loaded.counts, counts)
        first = KeyedVectors.load(tmp_path / "v.safetensors", limit=2)
        np.testing.assert_array_equal(first.counts, counts[:2])


@pytest.mark.parametrize("name", ["gensim_vectors.bin", "gensim_vectors.txt"])
def test_files_of_gensim_load(name):
    loaded = KeyedVectors.load(GOLDEN / name)
    assert len(loaded) == 32
    assert loaded.keys[5] == "Österreich"
    np.testing.assert_array_equal(
        loaded.matrix, KeyedVectors.load(GOLDEN / "gensim_vectors.bin").matrix
    )


def test_damaged_files_are_refused_by_name(tmp_path, royal):
    path = tmp_path / "v.safetensors"
    royal.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="v.safetensors: not a whole safetensors file"):
        KeyedVectors.load(path)
    safetensors.numpy.save_file({"x": np.ones(2)}, path)
    with pytest.raises(ValueError, match="not written by KeyedVectors.save"):
        KeyedVectors.load(path)
    (tmp_path / "v.txt").write_text("a 1 2\na 3 4\n")
    with pytest.raises(ValueError, match="v.txt: key 'a' occurs more than once"):
        KeyedVectors.load(tmp_path / "v.txt")
    with pytest.raises(ValueError, match="no known ending"):
        royal.save(tmp_path / "v.pickle")
    with pytest.raises(ValueError, match="'a b' of row 1"):
        KeyedVectors(["a b"], np.ones((1, 2))).save(tmp_path / "v.bin")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, royal, many, monkeypatch):
    royal.save(tmp_path / "v.safetensors")

    def fill_disk(tensors, path, metadata):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fill_disk)
    with pytest.raises(OSError, match="pace left"):
        many.save(tmp_path / "v.safetensors")
    assert KeyedVectors.load(tmp_path / "v.safetensors").keys == royal.keys
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


@pytest.mark.parametrize("cls", [ExactIndex, IVFIndex])
def test_an_index_gives_the_same_neighbours(cls):
    matrix = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    vectors = KeyedVectors([f"w{row}" for row in range(60)], matrix)
    options = {} if cls is ExactIndex else {"lists": 4, "probes": 4}  # nothing is missed
    index = cls.build(matrix, metric="cosine", **options)
    for ask in (
        lambda **named: vectors.nearest("w3", 5, **named),
        lambda **named: vectors.nearest(matrix[3] + 1, 5, **named),
        lambda **named: vectors.analogy("w1", "w2", "w4", 3, **named),
    ):
        wanted, found = ask(), ask(index=index)
        assert [key for key, _ in found] == [key for key, _ in wanted]
        np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted], rtol=1e-5)


def test_what_an_index_cannot_answer_is_refused():
    matrix = np.eye(4, dtype=np.float32)
    vectors = KeyedVectors(list("abcd"), matrix)
    with pytest.raises(ValueError, match="build it from `matrix`"):
        vectors.nearest("a", index=ExactIndex.build(matrix[:3]))
    with pytest.raises(ValueError, match="3CosMul"):
        vectors.analogy("a", "b", "c", method="3CosMul", index=ExactIndex.build(matrix))
