"""Every search lowers for CPU, CUDA and TPU, with the index as an argument."""

import jax
import numpy as np
import pytest

import jaxembed.search as search

KINDS = [
    kind
    for kind in vars(search).values()
    if isinstance(kind, type) and issubclass(kind, search.Index) and kind is not search.Index
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_search_lowers_for_every_platform(kind):
    assert len(KINDS) >= 11
    vectors = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    leaves, structure = jax.tree.flatten(kind.build(vectors, metric="cosine"))

    def answer(leaves, queries):
        return jax.tree.unflatten(structure, leaves).search(queries, 3)

    lower = jax.export.export(jax.jit(answer), platforms=["cpu", "cuda", "tpu"])
    exported = lower(leaves, vectors[:4])
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert [out.shape for out in exported.out_avals] == [(4, 3), (4, 3)]
