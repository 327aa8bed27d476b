"""Models trained at once against the same models trained alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxembed.models import VAE, make_vae_loss
from jaxembed.train import (
    EpochNumbers,
    gradient_step,
    make_epoch_step,
    make_mesh,
    make_state,
    make_sweep_state,
    make_sweep_step,
    select_model,
    train,
)

MODEL = VAE((9,), latent=2, hidden=(6,))
OPTIMIZER = optax.adam(1e-2)
DATA = {"x": (np.random.default_rng(0).random((20, 9)) < 0.5).astype(np.float32)}
SEEDS = jax.random.split(jax.random.key(3), 3)
BETAS = jnp.asarray([0.5, 1.0, 4.0])


def new_state(key):
    return make_state(MODEL.init(key, DATA["x"][:1])["params"], OPTIMIZER)


def epoch_of(setting, data=DATA):
    loss_fn = make_vae_loss(MODEL, beta=setting["beta"])
    step = gradient_step(loss_fn, OPTIMIZER, key=setting["key"])
    return make_epoch_step(step, data, batch_size=8, key=setting["key"])


def test_each_model_of_a_sweep_equals_training_it_alone():
    settings = {"beta": BETAS, "key": SEEDS}
    entries = []
    together = train(
        make_sweep_step(epoch_of, settings, DATA),
        make_sweep_state(new_state, SEEDS),
        EpochNumbers(4),
        batch_axis=None,
        log_every=1,
        on_log=lambda entry, state: entries.append(entry.values),
    )
    for model in (0, 2):
        alone_entries = []
        alone = train(
            epoch_of({"beta": BETAS[model], "key": SEEDS[model]}),
            new_state(SEEDS[model]),
            EpochNumbers(4),
            batch_axis=None,
            log_every=1,
            on_log=lambda entry, state, kept=alone_entries: kept.append(entry.values),
        )
        chex.assert_trees_all_close(select_model(together, model), alone, rtol=1e-5, atol=1e-5)
        losses = [entry[f"loss/{model}"] for entry in entries]
        np.testing.assert_allclose(losses, [each["loss"] for each in alone_entries], rtol=1e-5)


def test_models_spread_over_devices_end_where_they_do_on_one():
    settings, mesh = {"beta": BETAS, "key": SEEDS}, make_mesh(devices=jax.devices()[:3])
    ends, entries = [], ([], [])
    for place, kept in zip((None, mesh), entries, strict=True):
        end = train(
            make_sweep_step(epoch_of, settings, DATA, mesh=place),
            make_sweep_state(new_state, SEEDS, mesh=place),
            EpochNumbers(4),
            batch_axis=None,
            log_every=1,
            on_log=lambda entry, state, kept=kept: kept.append(entry.values),
        )
        ends.append(end)
    kernel = ends[1].params["encoder"]["DenseStack_0"]["Dense_0"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] == 1
    chex.assert_trees_all_close(ends[1], ends[0], rtol=1e-5, atol=1e-5)
    assert entries[1][0].keys() >= {
        f"{name}/{model}" for name in ("loss", "kl") for model in range(3)
    }
    for one, spread in zip(*entries, strict=True):
        for name in ("loss/0", "loss/2", "gradient_norm/1"):
            np.testing.assert_allclose(spread[name], one[name], rtol=1e-5)


def test_settings_and_models_that_do_not_exist_are_refused():
    for settings in ({}, {"beta": jnp.float32(1)}, {"beta": BETAS, "key": SEEDS[:2]}):
        with pytest.raises(ValueError, match="settings have the shapes"):
            make_sweep_step(epoch_of, settings)
    mesh = make_mesh(devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="3 models does not divide over 2 devices"):
        make_sweep_step(epoch_of, {"beta": BETAS}, mesh=mesh)
    with pytest.raises(ValueError, match="3 models does not divide over 2 devices"):
        make_sweep_state(new_state, SEEDS, mesh=mesh)
    with pytest.raises(ValueError, match="model 3 of a sweep of 3"):
        select_model(make_state({"x": jnp.zeros((3, 2))}), 3)
