"""Parameters drawn by numpy: compiling a model's `init` takes longer than most tests."""

import jax
import jax.numpy as jnp
import numpy as np

# What is compiled here runs for milliseconds: most of a test is the compiler's own work.
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def draw_params(module, *arguments, method=None):
    """Variables of a linen module, of the shapes that `init` gives."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, method=method))
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape), leaf.dtype), shapes
    )
