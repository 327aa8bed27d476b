import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from small_problem import init, loss_fn, make_batch

from jaxembed.train import gradient_step, make_state, train

# Bits are compared with those of another process.
pytestmark = pytest.mark.optimized


def test_two_processes_that_stop_and_resume_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(index), "2", str(port), tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    results = [json.loads(output.splitlines()[-1]) for output, _ in outputs]

    optimizer, key, losses = optax.adam(1e-2), jax.random.key(0), []
    state = train(
        gradient_step(loss_fn, optimizer, key=key),
        make_state(init(key), optimizer),
        [make_batch(index) for index in range(9)],
        log_every=3,
        on_log=lambda entry, _: losses.append(entry.values["squared_error"]),
    )
    for result in results:
        # Only process 1 got the signal, after batch 4; both stop at the next log step.
        assert result["stopped"] == 6
        # Sums over the batch are taken in another order.
        np.testing.assert_allclose(result["losses"], losses, rtol=1e-4)
        np.testing.assert_allclose(
            result["bias"], state.params["hidden"]["bias"], rtol=1e-4, atol=1e-6
        )
    names = {path.name for path in (tmp_path / "steps" / "6" / "data").iterdir()}
    assert names == {"process_0-of-2.json", "process_1-of-2.json"}
