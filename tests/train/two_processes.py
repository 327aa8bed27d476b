"""One of several processes that train together on the CPU; prints its result as one JSON line."""

import json
import os
import signal
import sys

import jax
import numpy as np

PROCESS, COUNT, PORT, DIRECTORY = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{PORT}", COUNT, PROCESS)

import optax  # noqa: E402
from small_problem import AXES, init, loss_fn, make_batch  # noqa: E402

from jaxembed.train import (  # noqa: E402
    Interrupted,
    gradient_step,
    init_state,
    make_mesh,
    train,
)


class Rows:
    """This process's rows of each batch; process 1 is told to stop while it gets batch 4."""

    def __init__(self, stop_at):
        self.index, self.stop_at = 0, stop_at

    def __iter__(self):
        return self

    def __next__(self):
        if self.index == self.stop_at and PROCESS == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        batch = make_batch(self.index)
        self.index += 1
        rows = len(batch["y"]) // COUNT
        return jax.tree.map(lambda leaf: leaf[PROCESS * rows : (PROCESS + 1) * rows], batch)

    def get_state(self):
        return {"index": self.index}

    def set_state(self, state):
        self.index = state["index"]


optimizer, key = optax.adam(1e-2), jax.random.key(0)
mesh = make_mesh(model=2)
step = gradient_step(loss_fn, optimizer, key=key)
stopped_at, losses = None, []
for stop_at in (4, None):
    try:
        state = train(
            step,
            init_state(init, optimizer, mesh, key=key, axes=AXES),
            Rows(stop_at),
            steps=9,
            log_every=3,
            on_log=lambda entry, _: losses.append(entry.values["squared_error"]),
            checkpoint_dir=DIRECTORY,
        )
    except Interrupted as stopped:
        stopped_at = stopped.step
bias = jax.jit(lambda leaf: leaf, out_shardings=jax.NamedSharding(mesh, jax.P()))(
    state.params["hidden"]["bias"]
)
print(json.dumps({"stopped": stopped_at, "losses": losses, "bias": np.asarray(bias).tolist()}))
