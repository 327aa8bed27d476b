"""BM25 against the installed bm25s."""

import numpy as np
import pytest

from jaxembed.data.docstrings import read_docstring_pairs
from jaxembed.metrics import BM25, split_words

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4)])
def test_scores_equal_those_of_bm25s(k1, b):
    bm25s = pytest.importorskip("bm25s", reason="not among the installed peers")
    queries, documents = zip(*read_docstring_pairs(["networkx"]), strict=True)
    peer = bm25s.BM25(method="lucene", k1=k1, b=b)
    peer.index([split_words(text) for text in documents], show_progress=False)
    ours = BM25.build(documents, k1=k1, b=b).scores(queries[:50])
    # bm25s leaves out Lucene's old factor k1 + 1, which changes no order.
    theirs = [peer.get_scores(split_words(query)) * (k1 + 1) for query in queries[:50]]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
