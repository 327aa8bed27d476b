"""One of two processes that train a run together: two_hosts.py PROCESS PORT RECIPE.json RUN."""

import json
import socket
import subprocess
import sys
from pathlib import Path


def train(recipe, folder):
    """Trains a recipe in two processes of one device each; returns the run."""
    from jaxembed.run import load_run

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    file = folder / "two-hosts.json"
    file.write_text(json.dumps(recipe.to_json()))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(index), port, file, folder / "run"],
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return load_run(folder / "run")


def main(process: int, port: str, file: str, run: str) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", 2, process)
    import topics

    from jaxembed.recipe import Recipe
    from jaxembed.run import train_recipe

    topics.small_blocks()
    train_recipe(Recipe.from_json(json.loads(Path(file).read_text())), run)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
