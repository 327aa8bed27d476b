import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxembed.losses import (
    candidate_softmax,
    clip_loss,
    info_nce,
    matryoshka,
    n_pair,
    sharded,
    sigmoid_contrastive,
    triplet,
)
from jaxembed.train import make_mesh

BATCH, DIM = 16, 5
LOSSES = {"info_nce": info_nce, "clip_loss": clip_loss, "sigmoid": sigmoid_contrastive}
SHARDED = {
    "info_nce": sharded.info_nce,
    "clip_loss": sharded.clip_loss,
    "sigmoid": sharded.sigmoid_contrastive,
}
IDS = np.array([0, 1, 2, 0, 4, 5, 6, 7, 8, 1, 10, 11, 0, 13, 14, 15], np.int32)
MASK = np.arange(BATCH) % 5 != 3


def draw(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True))


QUERIES, DOCS, HARD = draw(0, BATCH, DIM), draw(1, BATCH, DIM), draw(2, BATCH, 3, DIM)
LOG_Q = jnp.asarray(np.random.default_rng(3).normal(-2, 1, BATCH).astype(np.float32))
EVERYTHING = {"mask": jnp.asarray(MASK), "ids": jnp.asarray(IDS)}


def scalars(name, first, second):
    """The loss's own temperature, or scale and bias."""
    return {"scale": first, "bias": second} if name == "sigmoid" else {"temperature": first}


def naive_info_nce(queries, docs, temperature, mask, ids, hard, log_q):
    losses = np.zeros(BATCH)
    for i in np.flatnonzero(mask):
        positive = queries[i] @ docs[i] / temperature - log_q[i]
        logits = [positive]
        for j in np.flatnonzero(mask):
            if j != i and ids[i] != ids[j]:
                logits.append(queries[i] @ docs[j] / temperature - log_q[j])
        logits += [queries[i] @ negative / temperature for negative in hard[i]]
        losses[i] = np.log(np.sum(np.exp(logits))) - positive
    return losses


def naive_sigmoid(queries, docs, scale, bias, mask, ids, hard, log_q):
    losses = np.zeros(BATCH)
    for i in np.flatnonzero(mask):
        logit = scale * queries[i] @ docs[i] + bias - log_q[i]
        losses[i] = np.log1p(np.exp(-logit))
        for j in np.flatnonzero(mask):
            if j != i and ids[i] != ids[j]:
                losses[i] += np.log1p(np.exp(scale * queries[i] @ docs[j] + bias - log_q[j]))
        losses[i] += sum(np.log1p(np.exp(scale * queries[i] @ n + bias)) for n in hard[i])
    return losses


def in_double(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


@pytest.mark.parametrize("chunk_size", [None, 3, 16, 100])
def test_losses_equal_their_definitions_pair_by_pair(chunk_size):
    queries, docs, hard, log_q = in_double(QUERIES, DOCS, HARD, LOG_Q)
    options = EVERYTHING | {"chunk_size": chunk_size}
    none = np.zeros((BATCH, 0, DIM)), np.zeros(BATCH)
    forth = naive_info_nce(queries, docs, 0.1, MASK, IDS, hard, log_q)
    found = info_nce(QUERIES, DOCS, temperature=0.1, hard_negatives=HARD, log_q=LOG_Q, **options)
    np.testing.assert_allclose(found, forth, rtol=2e-6, atol=2e-6)
    back = naive_info_nce(docs, queries, 0.1, MASK, IDS, *none)
    found = clip_loss(QUERIES, DOCS, temperature=0.1, hard_negatives=HARD, log_q=LOG_Q, **options)
    np.testing.assert_allclose(found, (forth + back) / 2, rtol=2e-6, atol=2e-6)
    wanted = naive_sigmoid(queries, docs, 4.0, -1.0, MASK, IDS, hard, log_q)
    found = sigmoid_contrastive(
        QUERIES, DOCS, scale=4.0, bias=-1.0, hard_negatives=HARD, log_q=LOG_Q, **options
    )
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


def weighted(loss, name, options):
    """A scalar that weighs every row's loss differently, of all that has a gradient."""

    def total(queries, docs, first, second, hard, log_q):
        further = {"hard_negatives": hard, "log_q": log_q}
        losses = loss(queries, docs, **scalars(name, first, second), **further, **options)
        return jnp.sum(losses * jnp.arange(1.0, BATCH + 1))

    return jax.jit(jax.value_and_grad(total, argnums=tuple(range(6))))


def assert_same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    for one, other in zip(found[1], wanted[1], strict=True):
        scale = float(jnp.max(jnp.abs(other)))
        np.testing.assert_allclose(one, other, atol=2e-6 * max(scale, 1e-3))


@functools.cache
def dense_result(name):
    first, second = jnp.float32(4.0 if name == "sigmoid" else 0.1), jnp.float32(-1.0)
    arguments = QUERIES, DOCS, first, second, HARD, LOG_Q
    return arguments, weighted(LOSSES[name], name, EVERYTHING)(*arguments)


@pytest.mark.parametrize(("name", "chunk_size"), [*itertools.product(LOSSES, [3, 16])])
def test_tiles_have_the_value_and_every_gradient_of_the_matrix(name, chunk_size):
    arguments, wanted = dense_result(name)
    assert_same(
        weighted(LOSSES[name], name, EVERYTHING | {"chunk_size": chunk_size})(*arguments), wanted
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [*itertools.product(LOSSES, [(8, 1), (2, 4)]), ("info_nce", (1, 1)), ("info_nce", (4, 2))],
)
def test_a_ring_of_devices_has_the_value_and_every_gradient_of_one(name, shape):
    arguments, wanted = dense_result(name)
    mesh = make_mesh(*shape, jax.devices()[: shape[0] * shape[1]])
    options = EVERYTHING | {"chunk_size": 3, "mesh": mesh}
    assert_same(weighted(SHARDED[name], name, options)(*arguments), wanted)


def test_a_step_of_gradient_descent_is_the_same_on_a_mesh_of_one_axis():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    one = jax.grad(lambda q: jnp.mean(info_nce(q, DOCS)))(QUERIES)
    loss = functools.partial(sharded.info_nce, mesh=mesh, axis="rows", chunk_size=2)
    ring = jax.jit(jax.grad(lambda q: jnp.mean(loss(q, DOCS))))(QUERIES)
    np.testing.assert_allclose(QUERIES - 0.1 * ring, QUERIES - 0.1 * one, atol=2e-7)
    assert float(jnp.linalg.norm(ring)) == pytest.approx(float(jnp.linalg.norm(one)), rel=2e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    options = EVERYTHING | {"chunk_size": 5}
    first = 2.0 if name == "sigmoid" else 0.7

    def total(*arguments):
        queries, docs, first = map(jnp.asarray, arguments)
        return jnp.sum(LOSSES[name](queries, docs, **scalars(name, first, -1.0), **options))

    check_grads(total, (QUERIES, DOCS, first), order=1, modes=["rev"], atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("name", "chunk_size"), [*itertools.product(LOSSES, [None, 4])])
def test_masked_rows_equal_a_smaller_batch_and_have_no_gradient(name, chunk_size):
    loss = functools.partial(LOSSES[name], chunk_size=chunk_size)
    nothing = jnp.zeros(BATCH, bool)
    assert float(jnp.sum(loss(QUERIES, DOCS, mask=nothing))) == 0.0
    for mask in (jnp.asarray(MASK), nothing):
        gradients = jax.grad(lambda q, d, m=mask: jnp.sum(loss(q, d, mask=m)), (0, 1))(
            QUERIES, DOCS
        )
        for gradient in gradients:
            assert not np.asarray(gradient)[~np.asarray(mask)].any()
            assert np.isfinite(gradient).all()
    few = loss(QUERIES[MASK], DOCS[MASK])
    np.testing.assert_allclose(
        np.asarray(loss(QUERIES, DOCS, mask=jnp.asarray(MASK)))[MASK], few, rtol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_equal_ids_do_not_push_one_another(name):
    ids = jnp.zeros(BATCH, jnp.int32)
    gradient = jax.grad(lambda d: LOSSES[name](QUERIES, d, ids=ids)[0])(DOCS)
    assert not np.asarray(gradient)[1:].any()


def test_n_pair_is_info_nce_of_plain_products_with_a_price_on_length():
    queries, docs = 2 * QUERIES, 3 * DOCS
    plain = info_nce(queries, docs, temperature=1.0)
    np.testing.assert_allclose(n_pair(queries, docs, l2=0.1), plain + 0.05 * (4 + 9), rtol=1e-6)


@pytest.mark.parametrize("mining", ["all", "hard", "semi-hard"])
def test_triplets_equal_a_loop_over_negatives(mining):
    queries, docs = in_double(QUERIES, DOCS)
    losses = np.zeros(BATCH)
    for i in np.flatnonzero(MASK):
        positive = np.sum((queries[i] - docs[i]) ** 2)
        others = [j for j in np.flatnonzero(MASK) if j != i and IDS[j] != IDS[i]]
        negatives = np.array([np.sum((queries[i] - docs[j]) ** 2) for j in others])
        hinges = np.maximum(positive - negatives + 0.5, 0)
        farther = negatives[negatives > positive]
        semi = farther.min() if len(farther) else negatives.max()
        losses[i] = {
            "all": hinges[hinges > 0].mean() if (hinges > 0).any() else 0.0,
            "hard": hinges.max(),
            "semi-hard": max(positive - semi + 0.5, 0),
        }[mining]
    found = triplet(QUERIES, DOCS, margin=0.5, mining=mining, **EVERYTHING)
    np.testing.assert_allclose(found, losses, rtol=1e-5, atol=1e-6)
    alone = triplet(QUERIES[:1], DOCS[:1], mining=mining)
    assert float(alone[0]) == 0.0


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_candidates_equal_the_softmax_over_all_of_them(chunk_size):
    """Less those of a query's own id, and with further negatives."""
    candidates, targets = draw(5, 50, DIM), np.arange(BATCH) * 3 % 50
    log_q = np.random.default_rng(6).normal(size=50).astype(np.float32)
    ids, negatives = np.arange(50) % 7, np.asarray(draw(7, BATCH * 2, DIM)).reshape(BATCH, 2, DIM)
    logits = np.asarray(QUERIES) @ np.asarray(candidates).T / 0.5 - log_q
    own = logits[np.arange(BATCH), targets]
    is_same = ids[targets][:, None] == ids[None]
    others = np.where(is_same, 0.0, np.exp(logits)).sum(axis=1)
    further = np.exp(np.einsum("bd,bnd->bn", QUERIES, negatives) / 0.5).sum(axis=1)
    options = {"temperature": 0.5, "log_q": jnp.asarray(log_q), "chunk_size": chunk_size}
    rows = jnp.asarray(targets)
    found = candidate_softmax(QUERIES, candidates, rows, **options)
    np.testing.assert_allclose(found, np.log(np.exp(logits).sum(axis=1)) - own, rtol=1e-5)
    options |= {"ids": (jnp.asarray(ids[targets]), jnp.asarray(ids))}
    options |= {"hard_negatives": jnp.asarray(negatives), "mask": jnp.asarray(MASK)}
    found = candidate_softmax(QUERIES, candidates, rows, **options)
    wanted = np.log(others + np.exp(own) + further) - own
    np.testing.assert_allclose(found, np.where(MASK, wanted, 0.0), rtol=1e-5)
    options["ids"] = (options["ids"][0], options["ids"][0])
    with pytest.raises(ValueError, match="of 16 queries and 16 candidates: wanted 16 and 50"):
        candidate_softmax(QUERIES, candidates, rows, **options)


def test_matryoshka_sums_the_losses_of_unit_prefixes():
    nested = matryoshka(info_nce, (2, 5), (0.5, 2.0))

    def unit(x):
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    wanted = 0.5 * info_nce(unit(QUERIES[:, :2]), unit(DOCS[:, :2]), temperature=0.2)
    wanted += 2.0 * info_nce(QUERIES, DOCS, temperature=0.2)
    np.testing.assert_allclose(nested(QUERIES, DOCS, temperature=0.2), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="prefix of 6 of vectors of 5"):
        matryoshka(info_nce, (6,))(QUERIES, DOCS)


def test_memory_is_linear_in_the_batch_of_each_device():
    """XLA's own count for value and gradients at 32,768 pairs of 512 numbers on 8 devices."""
    mesh = make_mesh(8, 1)
    rows = jax.NamedSharding(mesh, jax.P("data"))

    def temporaries(loss, batch):
        shape = jax.ShapeDtypeStruct((batch, 512), jnp.float32, sharding=rows)
        function = jax.value_and_grad(lambda q, d: jnp.mean(loss(q, d, mesh=mesh)), (0, 1))
        compiled = jax.jit(function).lower(shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**30

    for loss in (sharded.clip_loss, sharded.sigmoid_contrastive):
        assert temporaries(loss, 32_768) <= 0.15
        assert temporaries(loss, 65_536) <= 0.25
        assert temporaries(loss, 1_048_576) <= 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"docs": DOCS[:3]}, r"queries are \(16, 5\) but docs \(3, 5\)"),
        ({"mask": jnp.ones(3, bool)}, r"mask is \(3,\): wanted one for each of 16 rows"),
        ({"hard_negatives": HARD[:, :, :2]}, r"hard_negatives are \(16, 3, 2\): wanted \[16"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    for loss in (*LOSSES.values(), triplet):
        if loss is triplet and changes.keys() & {"hard_negatives", "chunk_size"}:
            continue
        with pytest.raises(ValueError, match=message):  # without the type checker, as for a user
            inspect.unwrap(loss)(**({"queries": QUERIES, "docs": DOCS} | changes))
    mesh = make_mesh(8, 1)
    with pytest.raises(ValueError, match="10 rows do not divide among 8 devices"):
        sharded.info_nce(QUERIES[:10], DOCS[:10], mesh=mesh)
    with pytest.raises(ValueError, match="not 'rows'"):
        sharded.info_nce(QUERIES, DOCS, mesh=mesh, axis="rows")
