"""Dual encoders: each tower alone, shared towers, losses and their options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed.losses import candidate_softmax, clip_loss, info_nce, sigmoid_contrastive
from jaxembed.models import Contrastive, DualEncoder, make_clip, make_contrastive_loss, make_siglip
from jaxembed.nn import BagOfWords, TextTransformer, VisionTransformer
from jaxembed.train import make_mesh

ROWS = 8
VISION = VisionTransformer((4, 4, 1), 2, 8, 1, 8, 2)
TEXT = TextTransformer(10, 8, 1, 8, 2, max_length=4)


def draw_batch():
    random = np.random.default_rng(0)
    return {
        "query_pixels": jnp.asarray(random.integers(0, 256, (ROWS, 4, 4, 1)), jnp.uint8),
        "doc_ids": jnp.asarray(random.integers(0, 10, (ROWS, 4)), jnp.int32),
        "doc_lengths": jnp.asarray(random.integers(1, 5, ROWS), jnp.int32),
    }


def sides(batch):
    return (batch["query_pixels"],), (batch["doc_ids"], batch["doc_lengths"])


@pytest.fixture(scope="module")
def made():
    """A small model of both kinds of towers, its variables and a batch."""
    model, batch = DualEncoder(VISION, TEXT, projection=6, start_bias=-2.0), draw_batch()
    return model, draw_params(model, *sides(batch)), batch


def test_towers_alone_give_the_logits_of_both(made):
    model, variables, batch = made
    query, doc = sides(batch)
    queries = model.apply(variables, *query, method="encode_query")
    docs = model.apply(variables, *doc, method="encode_doc")
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, rtol=1e-6)
    p = variables["params"]
    wanted = np.exp(p["log_scale"]) * (queries @ docs.T) + p["bias"]
    np.testing.assert_allclose(model.apply(variables, query, doc), wanted, atol=1e-5)
    one_tower = {"params": {name: p[name] for name in ("query", "query_projection", "log_scale")}}
    model = model.clone(start_bias=None)
    np.testing.assert_array_equal(model.apply(one_tower, *query, method="encode_query"), queries)


def test_shared_tower_has_one_set_of_weights():
    model, (_, doc) = DualEncoder(BagOfWords(10, 4), projection=3), sides(draw_batch())
    variables = draw_params(model, doc, doc)
    assert set(variables["params"]) == {"query", "query_projection", "log_scale"}
    queries, docs = (
        model.apply(variables, *doc, method=f"encode_{side}") for side in ("query", "doc")
    )
    np.testing.assert_array_equal(queries, docs)


def test_a_vector_of_zeros_has_a_finite_gradient():
    model = DualEncoder(BagOfWords(3, 2))
    arrays = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    params = draw_params(model, arrays, arrays)["params"]
    params["query"]["embedding"]["embedding"] = jnp.zeros((3, 2))

    def total(params):
        return jnp.sum(model.apply({"params": params}, *arrays, method="encode_query"))

    value, gradient = jax.value_and_grad(total)(params)
    assert value == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", ["clip", "sigmoid"])
def test_loss_is_the_mean_over_real_rows(made, kind):
    model, variables, batch = made
    mask = jnp.arange(ROWS) < 6
    ids = jnp.asarray([0, 0, 1, 2, 3, 4, 9, 9], jnp.int32)
    query, doc = sides(batch)
    queries = model.apply(variables, *query, method="encode_query")
    docs = model.apply(variables, *doc, method="encode_doc")
    scale, bias = model.apply(variables, method="scale_and_bias")
    options = {"mask": mask, "ids": ids}
    if kind == "clip":
        wanted = clip_loss(queries, docs, temperature=1 / scale, **options)
    else:
        wanted = sigmoid_contrastive(queries, docs, scale=scale, bias=bias, **options)
    loss_fn = make_contrastive_loss(model, Contrastive(kind))
    full = batch | {"mask": mask, "ids": ids}
    loss, metrics = loss_fn(variables["params"], full, jax.random.key(0))
    np.testing.assert_allclose(loss, np.asarray(wanted)[:6].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["scale"][0], scale)


def test_chunks_micro_batches_and_ring_change_nothing(made, key):
    """Without dropout all ways to compute the loss give its value and gradients."""
    model, variables, batch = made
    params, ring = variables["params"], make_mesh(4, 1, jax.devices()[:4])
    ways = {
        "plain": (Contrastive(), None),
        "chunks": (Contrastive(chunk_size=3), None),
        "micro": (Contrastive(micro_batch=4), None),
        "ring": (Contrastive(chunk_size=2), ring),
    }
    results = {}
    for name, (config, mesh) in ways.items():
        loss_fn = make_contrastive_loss(model, config, mesh=mesh)
        step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
        results[name] = step(params, batch, key)
    (wanted, _), gradient = results.pop("plain")
    for (loss, _), other in results.values():
        np.testing.assert_allclose(loss, wanted, rtol=2e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), gradient, other
        )


@pytest.mark.optimized
def test_memory_of_towers_in_micro_batches_is_that_of_a_part(key):
    """8,192 pairs need what their vectors take and what 32 pairs need in the towers.

    A hidden layer of the image tower alone would take 8,192 x 17 x 256 numbers, 143 MB.
    """
    vision = VisionTransformer((16, 16, 3), 4, 64, 1, 256, 2, pool="mean")
    model = DualEncoder(vision, TextTransformer(50, 64, 1, 256, 2, max_length=16), projection=32)

    def shapes(batch):
        return {
            "query_pixels": jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.uint8),
            "doc_ids": jax.ShapeDtypeStruct((batch, 16), jnp.int32),
            "doc_lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }

    params = jax.eval_shape(model.init, key, *sides(shapes(1)))
    loss_fn = make_contrastive_loss(model, Contrastive(chunk_size=128, micro_batch=32))
    step = jax.jit(jax.grad(loss_fn, has_aux=True))
    needed = step.lower(params["params"], shapes(8192), key).compile().memory_analysis()
    vectors = 8192 * 32 * 4 * 16  # 16 vectors of 32 numbers a pair
    assert needed.temp_size_in_bytes < vectors + 16e6


def test_candidates_and_hard_negatives_enter_the_loss(made, key):
    """However it is computed; without them in the batch there are none."""
    model, variables, batch = made
    params, random = variables["params"], np.random.default_rng(1)
    candidates = {
        "doc_ids": random.integers(0, 10, (7, 4)).astype(np.int32),
        "doc_lengths": random.integers(1, 5, 7).astype(np.int32),
        "ids": np.array([0, 1, 2, 3, 4, 4, 5], np.int32),
    }
    targets = np.array([0, 1, 2, 3, 4, 5, 6, 0])
    batch = batch | {
        "ids": jnp.asarray(candidates["ids"][targets]),
        "targets": jnp.asarray(targets),
        "negative_ids": jnp.asarray(random.integers(0, 10, (ROWS, 3, 4)), jnp.int32),
        "negative_lengths": jnp.asarray(random.integers(1, 5, (ROWS, 3)), jnp.int32),
    }
    queries = model.apply(variables, batch["query_pixels"], method="encode_query")
    encode = functools.partial(model.apply, variables, method="encode_doc")
    every = encode(jnp.asarray(candidates["doc_ids"]), jnp.asarray(candidates["doc_lengths"]))
    negatives = [
        encode(batch["negative_ids"][:, n], batch["negative_lengths"][:, n]) for n in range(3)
    ]
    scale, _ = model.apply(variables, method="scale_and_bias")
    options = {"temperature": 1 / scale, "hard_negatives": jnp.stack(negatives, axis=1)}
    ids = {"ids": (batch["ids"], jnp.asarray(candidates["ids"]))}
    ring = make_mesh(4, 1, jax.devices()[:4])
    wanted = candidate_softmax(queries, every, batch["targets"], **options, **ids)
    for config, mesh in (({}, None), ({"micro_batch": 2, "chunk_size": 3}, None), ({}, ring)):
        loss_fn = make_contrastive_loss(
            model, Contrastive("candidates", **config), mesh=mesh, candidates=candidates
        )
        loss, _ = jax.jit(loss_fn)(params, batch, key)
        np.testing.assert_allclose(loss, np.mean(wanted), rtol=1e-5)
    docs = encode(batch["doc_ids"], batch["doc_lengths"])
    wanted = info_nce(queries, docs, ids=batch["ids"], **options)
    config = Contrastive("info-nce", micro_batch=2, chunk_size=3)
    loss, _ = jax.jit(make_contrastive_loss(model, config))(params, batch, key)
    np.testing.assert_allclose(loss, np.mean(wanted), rtol=1e-5)
    with pytest.raises(ValueError, match="kind is 'candidates', but no candidates were given"):
        make_contrastive_loss(model, Contrastive("candidates"))


def test_towers_in_bfloat16_give_nearly_the_same_loss(made, key):
    model, variables, batch = made
    losses = {}
    for dtype in ("float32", "bfloat16"):
        loss_fn = make_contrastive_loss(model, Contrastive(dtype=dtype, dims=(3, 6)))
        losses[dtype], _ = loss_fn(variables["params"], batch, key)
        assert losses[dtype].dtype == jnp.float32
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_named_models_have_the_published_number_of_parameters():
    """Millions: 151.3 of CLIP B/32 (open_clip's profile), 203.2 of SigLIP B/16."""
    ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for model, millions in ((make_clip("B/32"), 151.3), (make_siglip("B/16"), 203.2)):
        shapes = jax.eval_shape(model.init, jax.random.key(0), (images,), (ids, lengths))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert abs(count / 1e6 - millions) < 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a sigmoid loss needs a bias"):
        make_contrastive_loss(DualEncoder(VISION, TEXT), Contrastive("sigmoid"))
    with pytest.raises(ValueError, match="micro_batch is 0"):
        Contrastive(micro_batch=0)
    with pytest.raises(ValueError, match="CLIP was published in"):
        make_clip("H/14")
