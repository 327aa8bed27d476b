"""The row-sparse update against autodiff of the modules, on one device and on many."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.models import CBOW, SkipGram
from jaxembed.models.word2vec import (
    Axes,
    RowSGD,
    Step,
    WindowPairs,
    huffman_tree,
    make_step,
    make_tables,
    train_block,
)
from jaxembed.models.word2vec.config import PARTS
from jaxembed.models.word2vec.step import update_tiles
from jaxembed.models.word2vec.stream import Stream, cut, subsample
from jaxembed.train import make_mesh

VOCAB, DIM, WINDOW = 40, 8, 3
ARCHITECTURES = ("skip-gram", "cbow")
OBJECTIVES = ("negative-sampling", "hierarchical-softmax", "softmax")
SIX = list(itertools.product(ARCHITECTURES, OBJECTIVES))
RATE = 0.05


def small_step(architecture, objective, **changes):
    small = {"streams": 4, "length": 6, "group": 2, "shared": 3, "slots": 200, "loss_every": 1}
    return Step(architecture, objective, window=WINDOW, negatives=5, **(small | changes))


@pytest.fixture
def counts():
    return np.sort(np.random.default_rng(0).zipf(1.3, VOCAB).clip(5, 5_000))[::-1].copy()


def make_params(objective, seed=1):
    rng = np.random.default_rng(seed)
    rows = VOCAB - (objective == "hierarchical-softmax")
    shapes = {"input": (VOCAB, DIM), "output": (rows, DIM)}
    return {
        name: jnp.asarray(rng.normal(0, 0.5, shape), jnp.float32) for name, shape in shapes.items()
    }


def make_stream(counts, key, size=200):
    rng = np.random.default_rng(3)
    tokens = rng.choice(VOCAB, size, p=counts / counts.sum()).astype(np.int32)
    tokens[rng.random(size) < 0.1] = -1
    everything = jnp.full(VOCAB, 2**32 - 1, jnp.uint32)
    return subsample(jnp.asarray(tokens), everything, key, window=WINDOW, padding=64)


def naive_pairs(stream: Stream, position: int) -> list[int]:
    """Positions that the window of `position` reaches, by walking outwards."""
    tokens, reach = np.asarray(stream.tokens), np.asarray(stream.reach)
    found = []
    if tokens[position] < 0:
        return found
    for direction in (-1, 1):
        for distance in range(1, reach[position] + 1):
            other = position + direction * distance
            if not 0 <= other < len(tokens) or tokens[other] < 0:
                break
            found.append(other)
    return sorted(found)


def naive_draws(stream, starts, step, negatives):
    """(input position, target position, negatives) of every pair that a step covers."""
    last = len(stream.tokens)
    for row, start in enumerate(starts):
        noise = None
        if negatives is not None:
            noise = np.asarray(negatives).reshape(-1, step.shared)[row // step.group]
        rows = range(WINDOW + start, WINDOW + start + step.length)
        if step.architecture == "skip-gram" and step.objective == "hierarchical-softmax":
            for i in range(max(rows.start - WINDOW, 0), min(rows.stop + WINDOW, last)):
                yield from ((i, j, noise) for j in naive_pairs(stream, i) if j in rows)
        else:
            for i in rows:
                yield from ((i, j, noise) for j in naive_pairs(stream, i))


def oracle_loss(params, stream, starts, step, negatives, tree):
    """The summed loss of a step by the module's own definition; differentiable."""
    module = {"skip-gram": SkipGram, "cbow": CBOW}[step.architecture](VOCAB, DIM, step.objective)
    tokens = np.asarray(stream.tokens)
    draws = list(naive_draws(stream, starts, step, negatives))
    options = {"tree": tree, "negative_weight": step.negatives / step.shared}
    if step.architecture == "skip-gram":
        batch = [tokens[[i for i, _, _ in draws]], tokens[[j for _, j, _ in draws]]]
        noise = [n for _, _, n in draws]
        count = len(draws)
    else:
        centres = sorted({i for i, _, _ in draws})
        windows = [[j for i, j, _ in draws if i == c] for c in centres]
        contexts = np.zeros((len(centres), 2 * WINDOW), np.int32)
        mask = np.zeros(contexts.shape, bool)
        for row, window in enumerate(windows):
            contexts[row, : len(window)] = tokens[window]
            mask[row, : len(window)] = True
        batch = [contexts, mask, tokens[centres]]
        noise = [next(n for i, _, n in draws if i == c) for c in centres]
        count = len(centres)
    noise = None if noise[0] is None else jnp.asarray(np.stack(noise))
    losses = module.apply({"params": params}, *map(jnp.asarray, batch), noise, **options)
    return jnp.sum(losses), count


@pytest.mark.parametrize(("architecture", "objective"), SIX)
def test_update_equals_autodiff_of_the_module_on_the_same_draws(
    architecture, objective, counts, key
):
    step = small_step(architecture, objective)
    tables = make_tables(step, counts, damping=2.0)
    tree = huffman_tree(counts)
    params = make_params(objective)
    stream = make_stream(counts, key)
    starts = np.asarray([0, 50, 101, 150])
    negatives = None
    if objective == "negative-sampling":
        negatives = tables.noise.draw(key, (2 * step.shared,))
    by_input = architecture == "cbow" or objective != "hierarchical-softmax"
    tile = cut(stream, jnp.asarray(starts), length=6, window=WINDOW, by_input=by_input)
    new, loss, count = jax.jit(partial(update_tiles, step=step))(
        params, tile, negatives, jnp.float32(RATE), tables, jnp.bool_(True)
    )
    (wanted_loss, wanted_count), gradient = jax.value_and_grad(oracle_loss, has_aux=True)(
        params, stream, starts, step, negatives, tree
    )
    scales = {"input": tables.input_scale, "output": tables.output_scale}
    assert min(float(scale.min()) for scale in scales.values()) < 1.0  # damping takes part
    wanted = {name: params[name] - RATE * scales[name][:, None] * gradient[name] for name in params}
    chex.assert_trees_all_close(new, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    assert int(count) == wanted_count


@pytest.mark.parametrize(("architecture", "objective"), SIX)
def test_block_loss_is_the_mean_over_all_pairs_of_the_block(architecture, objective, counts, key):
    """At rate 0 a block's loss is one sum over all its pairs, whatever the tiling."""
    step = small_step(architecture, objective, slots=7)  # hierarchical softmax in many passes
    tables = make_tables(step, counts, sample=0.0)
    params = make_params(objective)
    tokens = np.random.default_rng(5).integers(0, VOCAB, 80).astype(np.int32)
    tokens[[10, 60, 61]] = -1
    same, metrics = jax.jit(partial(train_block, step=step))(
        params, jnp.asarray(tokens), jnp.zeros(2), key, tables
    )
    chex.assert_trees_all_equal(same, params)
    draw_key, noise_key = jax.random.split(key)
    stream = subsample(jnp.asarray(tokens), tables.keep, draw_key, window=WINDOW, padding=24)
    if objective == "negative-sampling":
        return check_negative_sampling(step, stream, tables, noise_key, params, metrics)
    whole = small_step(architecture, objective, streams=1, length=len(tokens), group=1)
    loss, count = oracle_loss(params, stream, [0], whole, None, huffman_tree(counts))
    np.testing.assert_allclose(metrics["loss"][0], loss, rtol=1e-5)
    assert int(metrics["loss"][1]) == count
    assert int(metrics["words"][0]) == 77


def check_negative_sampling(step, stream, tables, noise_key, params, metrics):
    """The negatives of every update are those drawn for it."""
    updates = -(-int(stream.length) // 24)
    noise = tables.noise.draw(noise_key, (-(-80 // 24), 2 * step.shared))
    losses = counts = 0
    for update in range(updates):
        starts = np.arange(4) * updates * 6 + update * 6
        loss, count = oracle_loss(params, stream, starts, step, noise[update], None)
        losses, counts = losses + loss, counts + count
    np.testing.assert_allclose(metrics["loss"][0], losses, rtol=1e-5)
    assert int(metrics["loss"][1]) == counts


@pytest.mark.parametrize(
    ("architecture", "objective", "shape"),
    [(*pair, (2, 4)) for pair in SIX]
    + [(*SIX[0], shape) for shape in [(1, 2), (1, 4), (1, 8), (2, 1)]],
)
def test_sharded_block_equals_one_device(architecture, objective, shape, counts, key):
    """The dimension over `model` is exact; streams over `data` change nothing but rounding."""
    step = small_step(architecture, objective)
    tables = make_tables(step, counts)
    params = make_params(objective)
    tokens = jnp.asarray(np.random.default_rng(5).integers(-1, VOCAB, 400), jnp.int32)
    rates = jnp.asarray([0.05, 0.01])
    wanted = jax.jit(partial(train_block, step=step))(params, tokens, rates, key, tables)
    mesh = make_mesh(*shape, devices=jax.devices()[: shape[0] * shape[1]])
    split, whole = jax.P(None, "model"), jax.P()
    sharded = jax.shard_map(
        partial(train_block, step=step, axes=Axes("data", "model")),
        mesh=mesh,
        in_specs=(split, whole, whole, whole, whole),
        out_specs=(split, whole),
        check_vma=False,
    )
    got = jax.jit(sharded)(params, tokens, rates, key, tables)
    chex.assert_trees_all_close(got, wanted, rtol=2e-5, atol=2e-5)


FOUR = [pair for pair in SIX if pair[1] != "softmax"]


@pytest.mark.optimized
@pytest.mark.parametrize(("architecture", "objective"), FOUR)
def test_no_table_is_copied_inside_the_loop(architecture, objective, counts, key):
    """A copy of a table in every update would cost more than the update."""
    vocab, dim = 997, 24
    counts = np.arange(vocab, 0, -1) + 5
    step = small_step(architecture, objective)
    tables = make_tables(step, counts)
    rows = vocab - (objective == "hierarchical-softmax")
    params = {"input": jnp.zeros((vocab, dim)), "output": jnp.zeros((rows, dim))}
    function = jax.jit(partial(train_block, step=step), donate_argnums=0)
    compiled = function.lower(
        params, jnp.zeros(512, jnp.int32), jnp.zeros(2), key, tables
    ).compile()
    text = compiled.as_text()
    shapes = (f"f32[{vocab},{dim}]", f"f32[{rows},{dim}]")
    copies = [
        line
        for line in text.splitlines()
        if " copy(" in line and any(shape in line.split(" copy(")[0] for shape in shapes)
    ]
    assert "while" in text
    assert copies == []


@pytest.mark.parametrize(("architecture", "objective"), SIX)
def test_block_lowers_for_every_platform(architecture, objective, counts, key):
    step = small_step(architecture, objective)
    tables = make_tables(step, counts)
    function = jax.jit(partial(train_block, step=step))
    exported = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(
        make_params(objective),
        jnp.zeros(256, jnp.int32),
        jnp.zeros(2),
        key,
        tables,
    )
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.parametrize("window", [1, 2, 5, 8, 20])
@pytest.mark.parametrize("words", [1, 10_000, 10**9])
def test_layout_of_a_step_is_aligned_and_within_its_positions(window, words):
    optim = RowSGD()
    for objective in OBJECTIVES:
        module = SkipGram(VOCAB, DIM, objective)
        step = make_step(module, WindowPairs(window=window), optim, words)
        if objective != "hierarchical-softmax":
            assert (step.length + 2 * window) % 16 == 0
        assert step.streams % (PARTS * step.group) == 0
        smallest = PARTS * step.group * step.length
        assert step.streams * step.length <= max(optim.positions, smallest)
        assert step.streams * step.length <= max(words // 1000, smallest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 16_384}, "diverged"),
        ({"damping": 32.0}, "diverged"),
        ({"lr": 0.0}, "positive"),
        ({"final_lr": 1.0}, "0 to lr"),
    ],
)
def test_unsafe_updates_are_refused_with_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        RowSGD(**changes)


def test_undamped_updates_are_allowed_while_they_are_small():
    assert RowSGD(positions=1024, damping=float("inf")).positions == 1024
