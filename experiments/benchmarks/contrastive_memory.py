"""Memory of the sharded contrastive losses with their gradients, by XLA's own analysis.

python -m experiments.benchmarks.contrastive_memory

Temporaries of one device of 8 (virtual CPU devices), 512 numbers a vector, float32, tiles of 1,024.
Nothing is computed, so a million pairs need no such machine.
"""

import jax
import jax.numpy as jnp

from experiments.benchmarks.record import record
from jaxembed.losses import sharded
from jaxembed.train import make_mesh

DEVICES, DIM, CHUNK = 8, 512, 1024
BATCHES = (32_768, 65_536, 1_048_576)


def main() -> None:
    """Compiles each loss at each batch size and records one line each."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    mesh = make_mesh(DEVICES, 1)
    rows = jax.NamedSharding(mesh, jax.P("data"))
    for name in ("info_nce", "clip_loss", "sigmoid_contrastive"):
        loss = getattr(sharded, name)

        def mean(queries, docs, loss=loss):
            return jnp.mean(loss(queries, docs, mesh=mesh, chunk_size=CHUNK))

        for batch in BATCHES:
            shape = jax.ShapeDtypeStruct((batch, DIM), jnp.float32, sharding=rows)
            compiled = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(shape, shape).compile()
            gib = compiled.memory_analysis().temp_size_in_bytes / 2**30
            record(
                "contrastive_memory",
                {"loss": name, "batch": batch, "devices": DEVICES, "gib_a_device": round(gib, 3)},
            )


if __name__ == "__main__":
    main()
