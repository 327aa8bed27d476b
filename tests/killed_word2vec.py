"""A run that kills itself with SIGKILL in the middle of an epoch: killed_word2vec.py TEXT RUN."""

import os
import signal
import sys

import topics

from jaxembed import run

KILLED_AT = 6  # logged, but not saved


def log_and_die(folder, entry, state, log=run._log):
    log(folder, entry, state)
    if entry.step == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    topics.small_blocks()
    run._log = log_and_die
    run.train_recipe(topics.make_recipe(sys.argv[1]), sys.argv[2], checkpoint_every=1)
