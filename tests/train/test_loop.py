import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_problem import AXES, init, loss_fn, make_batch, make_batches

from jaxembed.train import (
    Interrupted,
    NonFiniteError,
    TrainState,
    gradient_step,
    init_state,
    latest_step,
    make_mesh,
    make_state,
    train,
)

OPTIMIZER = optax.adam(1e-2)
STEP = gradient_step(loss_fn, OPTIMIZER, key=jax.random.key(0))

# Bits are compared with those of another process.
pytestmark = pytest.mark.optimized


def fresh_state():
    return make_state(init(jax.random.key(0)), OPTIMIZER)


def count_step(state, batch):
    """Counts instead of learning: cheap, and its metrics are known."""
    new = TrainState(state.step + 1, jax.tree.map(lambda leaf: leaf + 1, state.params))
    return new, {"value": (batch.sum(), batch.size), "words": (jnp.float32(100), 1)}


def count_state():
    return make_state({"count": jnp.zeros(())})


class Recorder:
    def __init__(self):
        self.entries = []

    def __call__(self, entry, state):
        self.entries.append((entry.first, entry.step, entry.values, entry.work))


class Interrupting:
    """Grain batches that send a signal to this process as batch `index` is asked for."""

    def __init__(self, index, number, dataset):
        self.data, self.index, self.number = iter(dataset), index, number
        self.asked = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked == self.index:
            os.kill(os.getpid(), self.number)
        self.asked += 1
        return next(self.data)

    def get_state(self):
        return self.data.get_state()

    def set_state(self, state):
        self.data.set_state(state)


def test_loop_equals_steps_by_hand():
    state = fresh_state()
    for batch in itertools.islice(make_batches(), 7):
        state, _ = jax.jit(STEP)(state, batch)
    looped = train(STEP, fresh_state(), make_batches(), steps=7)
    # Compiled together with the packing of the metrics: other fusions may round otherwise.
    chex.assert_trees_all_close(looped, state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("number", "stop_at"), [(signal.SIGTERM, 5), (signal.SIGINT, 0)])
def test_stopped_and_resumed_run_equals_straight_run(tmp_path, number, stop_at):
    straight_log, log = Recorder(), Recorder()
    options = {"steps": 12, "log_every": 4, "work_metric": "rows"}
    straight = train(STEP, fresh_state(), make_batches(), on_log=straight_log, **options)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="the same command resumes") as stopped:
        batches = Interrupting(stop_at, number, make_batches())
        train(STEP, fresh_state(), batches, on_log=log, checkpoint_dir=tmp_path, **options)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert stopped.value.step == latest_step(tmp_path) == stop_at + 1
    assert stopped.value.exit_code == 128 + number
    resumed = train(
        STEP, fresh_state(), make_batches(), on_log=log, checkpoint_dir=tmp_path, **options
    )
    chex.assert_trees_all_equal(resumed, straight)
    assert log.entries == straight_log.entries


def test_run_killed_while_saving_resumes_to_the_same_bits(tmp_path):
    script = Path(__file__).with_name("killed_run.py")
    process = subprocess.run([sys.executable, script, tmp_path], capture_output=True, timeout=60)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert latest_step(tmp_path) == 8
    assert len(list((tmp_path / "steps").iterdir())) == 3  # steps 4 and 8 and half of 12
    straight, resumed = Recorder(), Recorder()
    expected = train(STEP, fresh_state(), make_batches(), steps=20, log_every=5, on_log=straight)
    state = train(
        STEP,
        fresh_state(),
        make_batches(),
        steps=20,
        log_every=5,
        on_log=resumed,
        checkpoint_dir=tmp_path,
    )
    chex.assert_trees_all_equal(state, expected)
    assert resumed.entries == straight.entries[1:]
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["20", "4", "8"]


def test_run_resumes_on_another_mesh(tmp_path):
    optimizer = optax.adam(1e-2)
    options = {"checkpoint_dir": tmp_path, "log_every": 3}
    for steps, mesh in ((6, make_mesh(2, 4)), (12, make_mesh(4, 2))):
        state = init_state(init, optimizer, mesh, key=jax.random.key(0), axes=AXES)
        state = train(STEP, state, make_batches(), steps=steps, **options)
        assert state.params["out"].sharding.mesh == mesh
    straight = train(STEP, fresh_state(), make_batches(), steps=12)
    # Sums over the batch are taken in another order.
    chex.assert_trees_all_close(
        jax.device_get(state), jax.device_get(straight), rtol=1e-4, atol=1e-5
    )


def test_finished_run_does_nothing_more(tmp_path):
    options = {"steps": 3, "checkpoint_dir": tmp_path}
    first = train(STEP, fresh_state(), make_batches(), **options)
    log = Recorder()
    again = train(STEP, fresh_state(), make_batches(), on_log=log, **options)
    chex.assert_trees_all_equal(first, again)
    assert log.entries == []


@pytest.mark.parametrize("log_every", [1, 100])
def test_nan_names_its_step_and_batch(tmp_path, log_every):
    batches = [np.ones((8,), np.float32) for _ in range(20)]
    batches[7][3] = np.nan
    with pytest.raises(NonFiniteError, match=r"value is nan over 8.0 at step 8 \(batch 7") as error:
        train(count_step, count_state(), batches, log_every=log_every)
    assert (error.value.name, error.value.step, error.value.batch) == ("value", 8, 7)


def test_nan_gradient_of_a_finite_loss_is_found_in_its_step():
    def loss(params, batch, _):
        return jnp.sum(jnp.sqrt(params["x"] * batch[0])), {}

    batches = [np.ones((1,), np.float32), np.zeros((1,), np.float32), np.ones((1,), np.float32)]
    step = gradient_step(loss, optax.sgd(0.1), key=jax.random.key(0))
    with pytest.raises(NonFiniteError, match="gradient_norm is .* at step 2"):
        train(step, make_state({"x": jnp.ones((1,))}, optax.sgd(0.1)), batches)


def test_nan_parameters_are_not_saved(tmp_path):
    def poison(state, batch):
        params = jax.tree.map(lambda leaf: jnp.where(state.step == 4, jnp.nan, leaf), state.params)
        return TrainState(state.step + 1, params), {}

    with pytest.raises(NonFiniteError, match="params is not finite at step 6"):
        train(
            poison,
            count_state(),
            make_batches(),
            steps=9,
            checkpoint_dir=tmp_path,
            checkpoint_every=3,
        )
    assert latest_step(tmp_path) == 3


def test_entries_cover_every_step_once_and_weigh_by_count():
    batches = [np.full((index + 1,), index, np.float32) for index in range(7)]
    log = Recorder()
    train(count_step, count_state(), batches, log_every=3, on_log=log, work_metric="words")
    assert [(first, last) for first, last, _, _ in log.entries] == [(1, 3), (4, 6), (7, 7)]
    assert [values["value"] for *_, values, _ in log.entries] == [8 / 6, 62 / 15, 6.0]
    assert [work for *_, work in log.entries] == [300.0, 300.0, 100.0]


def test_one_compilation_a_shape():
    step = chex.assert_max_traces(STEP, n=2)
    batches = [make_batch(index, 8) for index in range(6)] + [make_batch(6, 16)]
    mesh = make_mesh(2, 4)
    state = init_state(init, OPTIMIZER, mesh, key=jax.random.key(0), axes=AXES)
    train(step, state, batches * 2)


def test_state_is_put_on_a_given_mesh_and_donated():
    given = fresh_state()
    on_mesh = train(STEP, given, make_batches(), steps=2, mesh=make_mesh())
    assert on_mesh.params["out"].sharding.mesh == make_mesh()
    train(STEP, on_mesh, make_batches(), steps=3)
    assert on_mesh.params["out"].is_deleted()


def test_steps_that_transfer_by_themselves_are_rejected():
    def careless(state, batch):
        return state, {"sum": (np.asarray(batch).sum(), 1)}

    with pytest.raises(jax.errors.TracerArrayConversionError):
        train(careless, count_state(), [np.ones((1,))])


def test_wrong_use_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="ended after step 2 of 5"):
        train(count_step, count_state(), [np.ones((1,))] * 2, steps=5)
    with pytest.raises(TypeError, match="list_iterator lack get_state"):
        train(count_step, count_state(), [np.ones((1,))], checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="log_every=0"):
        train(count_step, count_state(), [], log_every=0)
    with pytest.raises(ValueError, match="work_metric='tokens'"):
        train(count_step, count_state(), [np.ones((1,))], work_metric="tokens")
    train(STEP, fresh_state(), make_batches(), steps=2, checkpoint_dir=tmp_path)
    ahead = TrainState(jnp.int32(5), {}, ())
    with pytest.raises(ValueError, match="at step 5 but the newest checkpoint"):
        train(STEP, ahead, make_batches(), checkpoint_dir=tmp_path)


def test_loop_runs_outside_the_main_thread():
    results = []
    thread = threading.Thread(
        target=lambda: results.append(train(count_step, count_state(), [np.ones((2,))] * 3))
    )
    thread.start()
    thread.join()
    assert int(results[0].step) == 3


def test_second_interrupt_aborts_at_once():
    def batches():
        yield np.ones((1,), np.float32)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still running")

    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with pytest.raises(KeyboardInterrupt):
        train(count_step, count_state(), batches())
    assert signal.getsignal(signal.SIGINT) is before


def test_seconds_between_checkpoints(tmp_path):
    data = Interrupting(-1, signal.SIGTERM, make_batches())
    options = {"checkpoint_dir": tmp_path, "keep": None}
    train(STEP, fresh_state(), data, steps=3, checkpoint_seconds=0.0, **options)
    assert {path.name for path in (tmp_path / "steps").iterdir()} == {"1", "2", "3"}


def test_next_batch_is_asked_for_while_the_device_works():
    def slow_step(state, batch):
        matrix = jax.lax.fori_loop(0, 40, lambda _, m: jnp.tanh(m @ batch), state.params)
        return TrainState(state.step + 1, matrix), {}

    asked = []

    def batches():
        for _ in range(6):
            asked.append(time.monotonic())
            yield np.eye(400, dtype=np.float32)

    train(slow_step, make_state(jnp.ones((400, 400))), batches())
    # Batch 0 waits for the compiler; the later ones wait for the device.
    seconds_a_step = (time.monotonic() - asked[1]) / 5
    assert asked[2] - asked[1] < 0.5 * seconds_a_step


def test_log_line_tells_rate_and_time_left(caplog):
    with caplog.at_level(logging.INFO, logger="jaxembed.train"):
        train(
            count_step,
            count_state(),
            [np.ones((1,))] * 4,
            work_metric="words",
            total_work=800,
            description="word2vec",
        )
    assert "word2vec: 400 words of 800 (50%)" in caplog.text
    assert "words/s" in caplog.text and "left, value 1" in caplog.text


def test_terminal_gets_a_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(count_step, count_state(), [np.ones((1,))] * 4, steps=4, description="count")
    assert "count: 100%" in capsys.readouterr().err
