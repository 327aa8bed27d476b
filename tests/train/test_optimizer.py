import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxembed.train import Adam, make_optimizer
from jaxembed.train.optimizer import _make_schedule

PARAMS = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([0.1, -0.3])}


def gradients_of(step):
    generator = np.random.default_rng(step)
    return {name: generator.normal(size=leaf.shape) for name, leaf in PARAMS.items()}


def naive_adam(config, rates):
    """Algorithm 2 of Loshchilov & Hutter, written out."""
    params = {name: leaf.copy() for name, leaf in PARAMS.items()}
    mean = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}
    square = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}
    for step, rate in enumerate(rates):
        gradients = gradients_of(step)
        norm = np.sqrt(sum((leaf**2).sum() for leaf in gradients.values()))
        scale = min(1.0, config.clip_norm / norm)
        for name, leaf in gradients.items():
            leaf = leaf * scale
            mean[name] = config.beta1 * mean[name] + (1 - config.beta1) * leaf
            square[name] = config.beta2 * square[name] + (1 - config.beta2) * leaf**2
            unbiased = mean[name] / (1 - config.beta1 ** (step + 1))
            spread = np.sqrt(square[name] / (1 - config.beta2 ** (step + 1))) + 1e-8
            decay = config.weight_decay if leaf.ndim > 1 else 0.0
            params[name] -= rate * (unbiased / spread + decay * params[name])
    return params


def run(config, steps, gradients=gradients_of):
    optimizer = make_optimizer(config, steps)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
    state = optimizer.init(params)
    for step in range(steps):
        single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients(step))
        updates, state = optimizer.update(single, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_updates_equal_the_papers_algorithm():
    config = Adam(lr=0.1, weight_decay=0.2, clip_norm=1.5, beta1=0.8, beta2=0.9)
    wanted = naive_adam(config, [0.1] * 4)
    for name, leaf in run(config, 4).items():
        np.testing.assert_allclose(leaf, wanted[name], rtol=2e-6)


def test_rate_rises_and_falls_to_nothing():
    cosine = _make_schedule(Adam(lr=0.4, schedule="cosine", warmup=0.3), 10)
    falling = 0.2 * (1 + np.cos(np.pi * np.arange(8) / 7))
    rates = [float(cosine(step)) for step in range(11)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, *falling], atol=1e-7)
    linear = _make_schedule(Adam(lr=0.4, schedule="linear"), 4)
    np.testing.assert_allclose([float(linear(step)) for step in range(5)], [0.4, 0.3, 0.2, 0.1, 0])
    assert float(_make_schedule(Adam(lr=0.4), 4)(100)) == pytest.approx(0.4)


def test_accumulated_gradients_equal_one_of_their_mean():
    def halves(step):
        return jax.tree.map(lambda leaf: leaf * (0.5 if step % 2 else 1.5), gradients_of(step // 2))

    together = run(Adam(lr=0.1, schedule="linear"), 3)
    apart = run(Adam(lr=0.1, schedule="linear", accumulate=2), 6, halves)
    for name, leaf in together.items():
        np.testing.assert_allclose(apart[name], leaf, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, r"lr is 0\.0; give a positive"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"warmup": 1.0}, r"warmup is 1\.0; give 0 to below 1"),
        ({"beta2": 1.0}, r"beta2 is 1\.0"),
        ({"weight_decay": -1.0}, r"weight_decay is -1\.0"),
        ({"clip_norm": 0.0}, r"clip_norm is 0\.0"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Adam(**changes)
