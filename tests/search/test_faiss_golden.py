"""Against outputs of faiss, stored by tests/golden/make_faiss.py."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search import IVFIndex, PQIndex
from jaxembed.search.kmeans import kmeans


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "faiss.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_lists_find_what_faiss_finds_with_the_same_centroids(golden, metric):
    index = IVFIndex.build(
        golden["rows"], metric=metric, centroids=golden[f"{metric}_centroids"], probes=3
    )
    scores, ids = index.search(golden["queries"], 5)
    np.testing.assert_array_equal(ids, golden[f"{metric}_ids"])
    expected = golden[f"{metric}_scores"]
    expected = np.sqrt(expected) if metric == "euclidean" else expected
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_codes_and_distances_equal_faiss_with_the_same_codebooks(golden):
    index = PQIndex.build(
        golden["rows"], metric="euclidean", parts=4, bits=4, codebooks=_around_mean(golden)
    )
    np.testing.assert_array_equal(index.packed(), golden["codes"])
    scores, _ = index.search(golden["queries"], 5)
    np.testing.assert_allclose(scores, np.sqrt(golden["code_scores"]), rtol=1e-4)


def test_the_objective_of_kmeans_is_no_worse(golden, key):
    found = kmeans(jnp.asarray(golden["rows"]), 12, key=key, iterations=25)
    assert float(found.objective) <= 1.01 * float(golden["objective"])


def _around_mean(golden):
    """Codebooks for vectors whose mean is taken away, as euclidean indices store them."""
    mean = golden["rows"].mean(axis=0, dtype=np.float64).astype(np.float32)
    return golden["codebooks"] - mean.reshape(4, 1, 2)
