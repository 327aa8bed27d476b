"""One of two processes that train a run together: two_hosts_word2vec.py PROCESS PORT TEXT RUN."""

import sys

import jax

PROCESS, PORT, TEXT, RUN = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"localhost:{PORT}", 2, PROCESS)

import topics  # noqa: E402

from jaxembed.recipe import MeshShape  # noqa: E402
from jaxembed.run import train_recipe  # noqa: E402

topics.small_blocks()
train_recipe(topics.make_recipe(TEXT, mesh=MeshShape(data=2)), RUN)
