"""Exact search gives the ids of faiss's flat index."""

import numpy as np
import pytest

from jaxembed.search import ExactIndex

pytestmark = pytest.mark.peers
faiss = pytest.importorskip("faiss")


@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
@pytest.mark.parametrize(("count", "k"), [(20_001, 10), (7, 7), (5_000, 100)])
def test_ids_are_those_of_the_flat_index(metric, count, k):
    rng = np.random.default_rng(count)
    vectors = rng.standard_normal((count, 24)).astype(np.float32)
    queries = rng.standard_normal((70, 24)).astype(np.float32)
    rows, asked = vectors, queries
    if metric == "cosine":
        rows, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, asked))
    flat = (faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP)(24)
    flat.add(rows)
    wanted_scores, wanted = flat.search(asked, k)
    scores, ids = map(np.asarray, ExactIndex.build(vectors, metric=metric).search(queries, k))
    if metric == "euclidean":
        wanted_scores = np.sqrt(np.maximum(wanted_scores, 0))
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-5)
    # A tie within rounding may go either way.
    swapped = ids != wanted
    assert swapped.mean() < 1e-3
    assert (np.sort(ids, axis=1) == np.sort(wanted, axis=1)).mean() > 0.999
