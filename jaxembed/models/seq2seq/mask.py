"""Which places of a padded batch hold tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def real_tokens(
    ids: Int[Array, "batch length"], lengths: Int[Array, "batch"]
) -> Bool[Array, "..."]:
    """True at real tokens."""
    return jnp.arange(ids.shape[1])[None] < lengths[:, None]
