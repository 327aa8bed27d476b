"""What every kind of index promises, for all kinds: metrics, jit, devices, changes, files."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from reference.exact_top_k import exact_top_k as naive_top_k

from jaxembed import search
from jaxembed.search import (
    BallTreeIndex,
    BinaryIndex,
    ExactIndex,
    Index,
    Int4Index,
    Int8Index,
    IVFIndex,
    IVFPQIndex,
    LSHIndex,
    PQIndex,
    RabitqIndex,
    ScannIndex,
    load_index,
)

METRICS = ["dot", "cosine", "euclidean"]
EXACT = [ExactIndex, BallTreeIndex]
KINDS = [*EXACT, IVFIndex, IVFPQIndex, PQIndex, ScannIndex, Int8Index, Int4Index]
KINDS += [BinaryIndex, RabitqIndex, LSHIndex]
# Codes alone, without the vectors to score again: a few bits a dimension reorder neighbours.
COARSE = {PQIndex, IVFPQIndex, Int4Index, RabitqIndex}
COUNT, DIM = 240, 12
ASKED = np.arange(16) != 3  # of the queries, those that are finite

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@functools.cache
def draw():
    """Clustered vectors with a duplicate and a zero row, their ids, and queries."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((12, DIM))
    vectors = centres[np.arange(COUNT) % 12] + rng.standard_normal((COUNT, DIM))
    vectors[9], vectors[17] = vectors[8], 0
    queries = centres[rng.integers(0, 12, 16)] + rng.standard_normal((16, DIM))
    return vectors.astype(np.float32), 3 * np.arange(COUNT) + 5, queries.astype(np.float32)


@functools.cache
def built(kind, metric="dot"):
    vectors, ids, _ = draw()
    return kind.build(vectors, metric=metric, ids=ids)


def ask(index, **options):
    """Asks for all and a few more; of one shape everywhere, so that a kind compiles it once."""
    queries = draw()[2].copy()
    queries[3, 0] = np.nan
    return map(np.asarray, index.search(queries, COUNT + 4, **options))


def recall(found, expected):
    pairs = zip(np.asarray(found).tolist(), np.asarray(expected).tolist(), strict=True)
    return np.mean([len({*row} & {*true} - {-1}) / len({*true} - {-1}) for row, true in pairs])


@every_kind
@pytest.mark.parametrize("metric", METRICS)
def test_nothing_but_vectors_gives_sensible_answers_best_first(kind, metric):
    vectors, ids, queries = draw()
    index = built(kind, metric)
    assert (index.size, index.dim) == (COUNT, DIM)
    assert index.memory_bytes() == sum(leaf.nbytes for leaf in jax.tree.leaves(index))
    scores, found = ask(index)
    assert (scores.shape, scores.dtype, found.dtype) == ((16, COUNT + 4), np.float32, np.int32)
    worst = np.inf if metric == "euclidean" else -np.inf
    np.testing.assert_array_equal(scores == worst, found == -1)
    assert (found[:, COUNT:] == -1).all()
    assert (found[3] == -1).all()
    falling = -scores if metric == "euclidean" else scores
    assert (falling[:, 1:] <= falling[:, :-1]).all()
    for row in found:
        assert len({*row[row >= 0]}) == (row >= 0).sum()
        assert np.isin(row[row >= 0], ids).all()
    _, places = naive_top_k(queries, vectors, 10, metric)
    floor = 1 if kind in EXACT else 0.5 if kind in COARSE else 0.9
    assert recall(found[ASKED, :10], ids[places][ASKED]) >= floor


@every_kind
def test_where_is_applied_before_k(kind):
    vectors, ids, queries = draw()
    mask = np.random.default_rng(1).random(COUNT) < 0.1
    _, found = built(kind).search(queries, 30, where=jnp.asarray(mask))
    found = np.asarray(found)
    assert np.isin(found[found >= 0], ids[mask]).all()
    _, places = naive_top_k(queries, vectors[mask], 30)
    expected = np.append(ids[mask], -1)[places]
    if kind in EXACT:
        np.testing.assert_array_equal(found, expected)
    assert recall(found[:, :5], expected[:, :5]) >= (0.5 if kind in COARSE else 0.8)


@every_kind
def test_index_in_the_middle_of_a_vmapped_and_sharded_function(kind):
    _, _, queries = draw()
    index = built(kind)
    _, expected = ask(index)
    middle = jax.jit(
        jax.vmap(lambda index, query: 1 + index.search(-query[None], COUNT)[1][0], (None, 0))
    )
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(-queries, NamedSharding(mesh, PartitionSpec("data")))
    index = jax.device_put(index, NamedSharding(mesh, PartitionSpec()))
    np.testing.assert_array_equal((middle(index, spread) - 1)[ASKED], expected[ASKED, :COUNT])


@every_kind
def test_builds_and_searches_are_the_same_bits_again(kind):
    vectors, ids, _ = draw()
    again = kind.build(vectors, ids=ids)
    chex.assert_trees_all_equal(built(kind), again)
    chex.assert_trees_all_equal([*ask(built(kind))], [*ask(again)])


@every_kind
def test_changes_then_search_equal_a_fresh_build(kind):
    vectors, ids, queries = draw()
    # Half of the vectors leave, and come back; a tenth is swapped for others, and back.
    gone, swapped = ids[1::2], ids[::10]
    index = built(kind).remove(gone)
    assert not np.isin(np.asarray(index.ids), gone).any()
    index = index.add(vectors[1::2], ids=gone)
    index = index.update(swapped, vectors[:24] + 1).update(swapped, vectors[::10])
    assert sorted(np.asarray(index.ids)) == sorted(ids)
    (_, changed), (_, fresh) = ask(index), ask(built(kind))
    changed, fresh = changed[ASKED, :10], fresh[ASKED, :10]
    _, places = naive_top_k(queries[ASKED], vectors, 10)
    if kind in EXACT:
        np.testing.assert_array_equal(np.sort(changed), np.sort(fresh))
    assert recall(changed, ids[places]) >= recall(fresh, ids[places]) - 0.005
    with pytest.raises(KeyError, match="not in the index"):
        index.remove([1])
    with pytest.raises(ValueError, match="in the index already"):
        index.add(vectors[:1], ids=[5])


@every_kind
def test_saved_index_loads_the_same_and_damage_is_refused(kind, tmp_path):
    index, path = built(kind), tmp_path / "index"
    index.save(path)
    loaded = load_index(path)
    assert type(loaded) is kind
    chex.assert_trees_all_equal(kind.load(path), index)
    assert jax.tree.structure(loaded) == jax.tree.structure(index)
    assert [file.name for file in tmp_path.iterdir()] == ["index"]
    for file in path.glob("*/*.npy"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=f"{file.name}.*cut short"):
            load_index(path)
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"checksum of {file.name} differs"):
            load_index(path)
        file.write_bytes(whole)
    header = json.loads((path / "index.json").read_text())
    (path / "index.json").write_text(json.dumps(header | {"format": "another"}))
    with pytest.raises(ValueError, match="another program wrote it"):
        load_index(path)


# Those of which no other test builds an index of one vector are built of one here.
TINY = [(kind, 5) for kind in KINDS] + [(kind, 1) for kind in (IVFIndex, ScannIndex, LSHIndex)]


@pytest.mark.parametrize(("kind", "count"), TINY)
def test_tiny_sets_are_found_whole(kind, count):
    vectors = draw()[0][:count]
    index = kind.build(vectors, metric=METRICS[count % 3])
    _, found = index.search(vectors, 6)
    assert (np.sort(found, axis=1)[:, 6 - count :] == np.arange(count)).all()
    assert (np.sort(found, axis=1)[:, : 6 - count] == -1).all()


@every_kind
def test_search_lowers_for_every_platform(kind):
    # Exported functions take plain trees: an index is not registered for writing them.
    leaves, structure = jax.tree.flatten(built(kind, "cosine"))

    def answer(leaves, queries):
        return jax.tree.unflatten(structure, leaves).search(queries, 3)

    lower = jax.export.export(jax.jit(answer), platforms=["cpu", "cuda", "tpu"])
    exported = lower(leaves, draw()[2][:4])
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert [out.shape for out in exported.out_avals] == [(4, 3), (4, 3)]


def test_every_kind_that_is_public_is_tested():
    public = [value for value in vars(search).values() if isinstance(value, type)]
    assert {kind for kind in public if issubclass(kind, Index) and kind is not Index} == {*KINDS}
