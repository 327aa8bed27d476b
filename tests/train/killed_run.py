"""A run that kills itself with SIGKILL while it writes its third checkpoint."""

import glob
import os
import signal
import sys
import threading

import jax
import optax
from small_problem import init, loss_fn, make_batches

from jaxembed.train import gradient_step, make_state, train


class Deadly:
    """The data of `small_problem`, whose position is deadly to ask for a third time."""

    def __init__(self):
        self.data, self.questions = iter(make_batches()), 0

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.data)

    def get_state(self):
        self.questions += 1
        if self.questions == 3:
            threading.Thread(target=kill_once_writing, daemon=True).start()
        return self.data.get_state()

    def set_state(self, state):
        self.data.set_state(state)


def kill_once_writing():
    """Ends this process as soon as the unfinished checkpoint is there."""
    while not glob.glob(os.path.join(sys.argv[1], "steps", "12.*")):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    optimizer = optax.adam(1e-2)
    train(
        gradient_step(loss_fn, optimizer, key=jax.random.key(0)),
        make_state(init(jax.random.key(0)), optimizer),
        Deadly(),
        steps=100,
        checkpoint_dir=sys.argv[1],
        checkpoint_every=4,
        log_every=5,
    )
