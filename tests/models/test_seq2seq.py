"""Encoder-decoders: steps equal teacher forcing, padding changes nothing, and they can learn."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import QUICKLY, draw_params

from jaxembed.decoding import beam_search
from jaxembed.losses import token_cross_entropy
from jaxembed.models import Seq2Seq, TransformerSeq2Seq
from jaxembed.models.seq2seq import translate

SMALL = {"embed_dim": 6, "width": 8}
TINY = {"width": 8, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 2}
MODELS = {
    "last": Seq2Seq(11, 9, bidirectional=False, context="last", layers=2, **SMALL),
    "mean": Seq2Seq(11, 9, cell="lstm", context="mean", tied=True, **SMALL),
    "additive": Seq2Seq(11, 9, cell="lstm", context="additive", layers=2, **SMALL),
    "dot": Seq2Seq(11, 9, bidirectional=False, context="dot", **SMALL),
    "general": Seq2Seq(11, 9, context="general", **SMALL),
    "pre": TransformerSeq2Seq(11, 9, max_length=16, tied=False, **TINY),
    "post": TransformerSeq2Seq(
        9,
        9,
        max_length=16,
        norm="post",
        positions="learned",
        shared=True,
        embedding_norm=True,
        activation="gelu",
        **TINY,
    ),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
LENGTHS = jnp.asarray([6, 3, 1, 4])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.integers(0, 9, (4, length)), jnp.int32) for length in (6, 5))


@pytest.fixture(scope="module")
def started(batch):
    """Parameters of a model, made once."""
    made = {}

    def start(name):
        if name not in made:
            made[name] = draw_params(MODELS[name], batch[0], LENGTHS, batch[1])
        return made[name]

    return start


@EVERY_MODEL
def test_steps_equal_teacher_forcing_and_padding_changes_nothing(name, started, batch):
    model, variables, (source, target) = MODELS[name], started(name), batch
    padded = jnp.where(jnp.arange(6)[None] < LENGTHS[:, None], source, 8)
    padded = jnp.concatenate([padded, jnp.full((4, 3), 10)], axis=1)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(variables):
        cache, context = model.apply(variables, source, LENGTHS, max_len=5, method="encode")
        steps = []
        for place in range(5):
            logits, cache = model.apply(
                variables, target[:, place], cache, context, method="decode_step"
            )
            steps.append(logits)
        return jnp.stack(steps, 1), model.apply(variables, padded, LENGTHS, target)

    stepped, forced = run(variables)
    assert forced.shape == (4, 5, 9)
    np.testing.assert_allclose(stepped, forced, atol=1e-5)


@pytest.mark.parametrize("name", ["additive", "pre"])
def test_beams_share_their_item_and_score_as_teacher_forcing_does(name, started, batch):
    model, variables, (source, _) = MODELS[name], started(name), batch
    options = {"bos_id": 1, "eos_id": 2, "max_len": 6, "beam_size": 3, "n_best": None}

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(params, source, lengths):
        return translate(model, params, source, lengths, **options)

    decoded = run(variables["params"], source, LENGTHS)
    best = decoded.tokens[:, 0]
    read = jnp.concatenate([jnp.full((4, 1), 1), best[:, :-1]], axis=1)
    logits = jax.jit(model.apply, compiler_options=QUICKLY)(variables, source, LENGTHS, read)
    is_real = jnp.arange(6)[None] < decoded.lengths[:, :1]
    losses = token_cross_entropy(logits, best, mask=is_real)
    np.testing.assert_allclose(-np.sum(losses, axis=1), decoded.scores[:, 0], atol=1e-5)
    assert np.all(np.diff(decoded.scores, axis=1) <= 0)
    order = jnp.asarray([2, 0, 3, 1])
    moved = run(variables["params"], source[order], LENGTHS[order])
    np.testing.assert_array_equal(moved.tokens, decoded.tokens[order])


def test_a_cache_that_rows_share_gives_what_an_ordinary_one_gives(started, batch):
    model, variables, (source, _) = MODELS["post"], started("post"), batch

    def search(variables, beam_size):
        def step(tokens, cache, context):
            return model.apply(variables, tokens, cache, context, method="decode_step")

        cache, context = model.apply(
            variables, source, LENGTHS, max_len=5, beam_size=beam_size, method="encode"
        )
        options = {"batch_size": 4, "beam_size": 3, "bos_id": 1, "eos_id": 2, "max_len": 5}
        return beam_search(step, cache, context=context, **options)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def run(variables):
        return search(variables, 3), search(variables, None)

    shared, ordinary = run(variables)
    np.testing.assert_array_equal(shared.tokens, ordinary.tokens)
    np.testing.assert_allclose(shared.scores, ordinary.scores, atol=1e-5)
    with pytest.raises(ValueError, match="3 rows, but its cache was made for 2"):
        jax.eval_shape(functools.partial(search, beam_size=2), variables)


@pytest.mark.parametrize("name", ["additive", "pre"])
def test_translation_lowers_for_devices_that_are_not_here(name, started, batch):
    run = jax.jit(
        lambda params, source, lengths: translate(
            MODELS[name], params, source, lengths, bos_id=1, eos_id=2, max_len=6, beam_size=3
        )
    )
    lower = jax.export.export(run, platforms=["cpu", "cuda", "tpu"])
    assert lower(started(name)["params"], batch[0], LENGTHS).platforms == ("cpu", "cuda", "tpu")


def test_weights_of_an_alignment_lie_on_the_source(started, batch):
    source, target = batch
    align = functools.partial(MODELS["additive"].apply, method="align")
    weights = jax.jit(align, compiler_options=QUICKLY)(started("additive"), source, LENGTHS, target)
    is_real = np.arange(6)[None, None] < LENGTHS[:, None, None]
    np.testing.assert_allclose(np.sum(weights, axis=2), 1, rtol=1e-5)
    assert not np.any(np.where(is_real, 0, weights))
    with pytest.raises(ValueError, match="'mean' has no weights"):
        MODELS["mean"].apply(started("mean"), source, LENGTHS, target, method="align")


@EVERY_MODEL
def test_configuration_goes_to_json_and_back(name):
    model = MODELS[name]
    fields = [f.name for f in dataclasses.fields(model) if f.name not in ("parent", "name")]
    kept = json.loads(json.dumps({name: getattr(model, name) for name in fields}))
    assert type(model)(**kept) == model


def test_gradients_stay_finite_where_a_source_is_empty(started, batch):
    source, target = batch
    lengths = jnp.asarray([0, 6, 2, 0])

    def loss(params):
        logits = MODELS["additive"].apply({"params": params}, source, lengths, target)
        return jnp.sum(token_cross_entropy(logits, target))

    gradient = jax.jit(jax.grad(loss), compiler_options=QUICKLY)(started("additive")["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Seq2Seq(9, 9, context="none"), "Unknown context 'none'"),
        (lambda: Seq2Seq(9, 9, context="dot"), "choose general"),
        (lambda: TransformerSeq2Seq(9, 9, positions="rotary"), "positions is 'rotary'"),
        (lambda: TransformerSeq2Seq(9, 8, shared=True), "need one vocabulary"),
        (lambda: TransformerSeq2Seq(9, 9, max_length=4), "max_length is 4"),
        (lambda: TransformerSeq2Seq(9, 9, activation="swish"), "Unknown activation 'swish'"),
        (lambda: TransformerSeq2Seq(9, 9, norm="none"), "choose pre or post"),
    ],
)
def test_what_makes_no_model_is_refused(make, message, key, batch):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make().init, key, batch[0], LENGTHS, batch[1])
