"""A small regression with noise and a grain data set, shared by the tests of training."""

import grain
import jax
import jax.numpy as jnp
import numpy as np

ROWS = 8  # of a batch

AXES = {"hidden": {"kernel": ("dim", "width"), "bias": ("width",)}, "out": ("width",)}


def init(key):
    """Parameters of a two-layer network from 4 numbers to 1."""
    return {
        "hidden": {"kernel": jax.random.normal(key, (4, 8)), "bias": jnp.zeros((8,))},
        "out": jnp.full((8,), 0.1),
    }


def loss_fn(params, batch, key):
    """Mean squared error with noise on the hidden layer."""
    hidden = batch["x"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None]
    noise = 1 + 0.1 * jax.random.normal(key, (8,))
    errors = (jnp.tanh(hidden) * noise[None]) @ params["out"] - batch["y"]  # [batch]
    total, count = jnp.sum(errors**2), jnp.float32(errors.size)
    return total / count, {"squared_error": (total, count), "rows": (count, 1)}


def make_batch(index, rows=ROWS):
    """A batch that depends on nothing but its index."""
    random = np.random.default_rng(index)
    x = random.normal(size=(rows, 4)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(axis=1))}


def make_batches(rows=ROWS):
    """An endless shuffled data set."""
    records = [jax.tree.map(lambda leaf: leaf[0], make_batch(index, 1)) for index in range(40)]
    data = grain.MapDataset.source(records).seed(3).shuffle().repeat().batch(rows)
    return data.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
