import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.candidates import answer, encode_candidates, index_candidates, load_candidates

DIM = 8
CANDIDATES = [f"document {number}" for number in range(23)]


class Tower:
    """A toy tower: sums of one random vector a character, of length 1."""

    def __init__(self, fails_after=None):
        self.calls, self.fails_after = 0, fails_after
        self.table = jnp.asarray(np.random.default_rng(0).normal(size=(128, DIM)), jnp.float32)

    def __call__(self, texts):
        self.calls += 1
        if self.fails_after is not None and self.calls > self.fails_after:
            raise KeyboardInterrupt
        codes = np.zeros((len(texts), 16), np.int32)
        for row, text in zip(codes, texts, strict=True):
            row[: len(text)] = list(text.encode())
        return _embed(self.table, jnp.asarray(codes))


@jax.jit
def _embed(table, codes):
    places = jnp.arange(1, codes.shape[1] + 1, dtype=jnp.float32)
    summed = jnp.einsum("bld,l->bd", table[codes], jnp.sqrt(places))
    return summed / jnp.linalg.norm(summed, axis=1, keepdims=True)


encode_all = functools.partial(encode_candidates, made_by="toy", batch_size=4, shard_size=6)


def direct(texts):
    return np.asarray(Tower()(texts))


def test_every_candidate_is_found_by_itself(tmp_path):
    assert encode_all(Tower(), CANDIDATES, tmp_path) == 23
    np.testing.assert_allclose(load_candidates(tmp_path), direct(CANDIDATES), atol=1e-6)
    index = index_candidates(tmp_path)
    scores, ids = answer(index, Tower(), CANDIDATES, 3, batch_size=5)
    assert ids.shape == scores.shape == (23, 3) and ids[:, 0].tolist() == list(range(23))
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=1e-5)
    products = direct(CANDIDATES) @ direct(CANDIDATES).T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :3], atol=1e-5)


def test_a_stopped_run_resumes_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode_all(Tower(fails_after=5), CANDIDATES, tmp_path)
    with pytest.raises(ValueError, match=r"lacks 2 of 4 files.*vectors\.00002"):
        load_candidates(tmp_path)
    tower = Tower()
    assert encode_all(tower, CANDIDATES, tmp_path) == 11 and tower.calls == 4
    np.testing.assert_allclose(load_candidates(tmp_path), direct(CANDIDATES), atol=1e-6)
    assert encode_all(Tower(fails_after=0), CANDIDATES, tmp_path) == 0


def test_processes_share_the_work(tmp_path):
    done = [
        encode_all(Tower(), CANDIDATES, tmp_path, process_index=index, process_count=3)
        for index in (2, 0, 1)
    ]
    assert done == [6, 11, 6]
    np.testing.assert_allclose(load_candidates(tmp_path), direct(CANDIDATES), atol=1e-6)


def test_images_are_encoded_as_arrays(tmp_path):
    images = np.random.default_rng(1).random((5, 2, 2), np.float32)
    encode_all(lambda batch: batch.reshape(len(batch), -1), images, tmp_path)
    np.testing.assert_array_equal(load_candidates(tmp_path), images.reshape(5, -1))


def test_a_folder_of_other_vectors_is_refused(tmp_path):
    encode_all(Tower(), CANDIDATES, tmp_path)
    with pytest.raises(ValueError, match="made_by: 'toy' and 'other'"):
        encode_candidates(Tower(), CANDIDATES, tmp_path, made_by="other", shard_size=6)
    with pytest.raises(ValueError, match="count: 23 and 22"):
        encode_all(Tower(), CANDIDATES[1:], tmp_path)
    (tmp_path / "candidates.json").write_text("[]")
    with pytest.raises(ValueError, match="choose another folder"):
        load_candidates(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", "fewer"])
def test_a_damaged_file_is_named(tmp_path, content):
    encode_all(Tower(), CANDIDATES, tmp_path)
    path = tmp_path / "vectors.00001.npy"
    if content == "fewer":
        np.save(path, np.zeros((2, DIM), np.float32))
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vectors\.00001\.npy.*delete it and encode again"):
        load_candidates(tmp_path)


def test_wrong_arguments_are_explained(tmp_path):
    with pytest.raises(ValueError, match="1 or more of each"):
        encode_all(Tower(), [], tmp_path)
    with pytest.raises(ValueError, match="process 1 of 1"):
        encode_all(Tower(), CANDIDATES, tmp_path, process_index=1, process_count=1)
    with pytest.raises(ValueError, match=r"encode gives \(4,\) for 4 items"):
        encode_all(lambda batch: np.zeros(len(batch)), CANDIDATES, tmp_path)
    with pytest.raises(ValueError, match="'document 0' is not finite"):
        encode_all(lambda batch: np.full((len(batch), 2), np.nan), CANDIDATES, tmp_path)
    with pytest.raises(FileNotFoundError, match="encode_candidates writes it"):
        load_candidates(tmp_path / "nowhere")
    encode_all(Tower(), CANDIDATES, tmp_path)
    index = index_candidates(tmp_path)
    with pytest.raises(ValueError, match="0 queries"):
        answer(index, Tower(), [], 1)
    with pytest.raises(ValueError, match="wanted rows of 8"):
        answer(index, lambda batch: np.ones((len(batch), 3)), ["a"], 1)
