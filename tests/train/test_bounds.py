"""Updates stop at the bounds, and a parameter at a bound can come back."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxembed.train import keep_within


def test_update_is_cut_at_the_bound_and_free_within():
    optimizer = keep_within(optax.sgd(1.0), {"log_scale": (0.0, 4.0)})
    params = {"log_scale": jnp.asarray(3.0), "other": jnp.asarray(3.0)}
    state = optimizer.init(params)
    for gradient, wanted in ((-5.0, 4.0), (1.0, 3.0), (9.0, 0.0)):
        gradients = {"log_scale": jnp.asarray(gradient), "other": jnp.asarray(gradient)}
        updates, state = optimizer.update(gradients, state, params)
        free = params["other"] - gradient
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["log_scale"], wanted, rtol=1e-6)
        np.testing.assert_allclose(params["other"], free)


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="the first must be least"):
        keep_within(optax.sgd(1.0), {"scale": (2.0, 1.0)})
    with pytest.raises(ValueError, match="no parameter is called 'scale'"):
        keep_within(optax.sgd(1.0), {"scale": (0.0, 1.0)}).init({"weight": jnp.ones(())})
