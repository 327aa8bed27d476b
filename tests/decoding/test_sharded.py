"""Each device leaves its loop by itself, and gives what one device gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.decoding import greedy_search, search_by_shard

AUTO = (jax.sharding.AxisType.Auto,)


def test_a_device_stops_when_its_own_items_are_done():
    mesh = jax.make_mesh((4,), ("data",), axis_types=AUTO, devices=jax.devices()[:4])
    ends = jnp.asarray([1, 2, 9, 4], jnp.int32)

    def search(weight, ends):
        def step(tokens, cache):
            now = cache["now"] + 1
            jax.debug.callback(lambda end: steps.append(int(end)), ends[0])
            return weight * jax.nn.one_hot(jnp.where(now == ends, 0, 1), 3, dtype=jnp.float32), {
                "now": now
            }

        cache = {"now": jnp.zeros_like(ends)}
        return greedy_search(step, cache, batch_size=len(ends), bos_id=1, eos_id=0, max_len=20)

    steps = []
    decoded = jax.jit(search_by_shard(search, mesh))(jnp.float32(20.0), ends)
    jax.effects_barrier()
    np.testing.assert_array_equal(decoded.lengths[:, 0], ends)
    assert sorted(steps) == [1, 2, 2, *[4] * 4, *[9] * 9]
    with pytest.raises(ValueError, match="3 rows, which do not divide among 4 devices"):
        search_by_shard(search, mesh)(jnp.float32(1.0), ends[:3])
    with pytest.raises(ValueError, match="not 'model'"):
        search_by_shard(search, mesh, axis="model")
