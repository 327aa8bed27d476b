from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.integer_hash import words_of
from jaxembed.search.sketches import CountMinSketch, CountSketch, HyperLogLog

pytestmark = pytest.mark.usefixtures("strict_dtypes")
EMPTY = {
    "count-min": CountMinSketch.empty(width=64, depth=3, seed=5),
    "count sketch": CountSketch.empty(width=64, depth=3, seed=5),
    "hyperloglog": HyperLogLog.empty(precision=6, seed=5),
}


def draw_stream(seed, count=3000, kinds=400):
    """A stream in which a few items are frequent, and its true counts."""
    numbers = (np.random.default_rng(seed).zipf(1.3, count) - 1) % kinds
    return words_of(numbers), Counter(numbers.tolist())


@pytest.mark.parametrize("name", EMPTY)
def test_merge_is_the_sketch_of_both_streams_on_host_and_device(name):
    (first, _), (second, _) = draw_stream(0), draw_stream(1)
    empty = EMPTY[name]
    whole = empty.add(first).add(second)
    chex.assert_trees_all_equal(empty.add(first).merge(empty.add(second)), whole)
    add = jax.jit(lambda sketch, items: sketch.add(items))
    on_device = add(add(empty, jnp.asarray(first)), jnp.asarray(second))
    assert isinstance(jax.tree.leaves(whole)[0], np.ndarray)
    chex.assert_trees_all_equal(on_device, jax.device_put(whole))
    chex.assert_trees_all_equal(add(empty, jnp.asarray(first)).merge(empty.add(second)), on_device)


@pytest.mark.parametrize("name", EMPTY)
def test_estimates_are_the_same_on_host_and_device(name):
    items, _ = draw_stream(0)
    sketch = EMPTY[name].add(items)
    if name == "hyperloglog":
        device = jax.jit(lambda sketch: sketch.estimate())(sketch)
        # Sums of some dozen float32 numbers, in another order.
        np.testing.assert_allclose(sketch.estimate(), device, rtol=1e-5)
    else:
        device = jax.jit(lambda sketch, items: sketch.estimate(items))(sketch, jnp.asarray(items))
        np.testing.assert_array_equal(sketch.estimate(items), device)


@pytest.mark.parametrize("name", EMPTY)
def test_sketches_made_otherwise_do_not_merge(name):
    other = {
        "count-min": CountMinSketch.empty(width=64, depth=3, seed=6),
        "count sketch": CountSketch.empty(width=32, depth=3, seed=5),
        "hyperloglog": HyperLogLog.empty(precision=7, seed=5),
    }[name]
    with pytest.raises(ValueError, match="both must be made alike"):
        EMPTY[name].merge(other)


def test_count_min_is_never_low_and_keeps_its_bound():
    epsilon, delta = 0.02, 0.05
    items, counts = draw_stream(2)
    asked = words_of(np.arange(2000))
    true = np.asarray([counts[number] for number in range(2000)])
    is_beyond = []
    for seed in range(5):
        sketch = CountMinSketch.for_error(epsilon=epsilon, delta=delta, seed=seed).add(items)
        excess = sketch.estimate(asked) - true
        assert excess.min() == 0
        is_beyond.append(excess > epsilon * len(items))
    assert np.mean(is_beyond) < delta
    assert sketch.counts.shape == (3, 136)


def test_counts_given_are_counts_repeated():
    numbers, amounts = np.asarray([3, 7, 3]), np.asarray([2, 1, 4], np.int32)
    for name in ("count-min", "count sketch"):
        repeated = EMPTY[name].add(words_of(np.repeat(numbers, amounts)))
        given = EMPTY[name].add(words_of(numbers), amounts)
        chex.assert_trees_all_equal(given, repeated)
        on_device = EMPTY[name].add(jnp.asarray(words_of(numbers)), jnp.asarray(amounts))
        chex.assert_trees_all_equal(on_device, jax.device_put(repeated))


def test_count_sketch_is_unbiased_with_the_stated_variance():
    (first, left), (second, right) = draw_stream(3), draw_stream(4)
    moment = sum(count**2 for count in left.values())
    other = sum(count**2 for count in right.values())
    product = sum(count * right[number] for number, count in left.items())
    estimates, products = [], []
    for seed in range(60):
        sketches = [
            CountSketch.empty(width=100, depth=1, seed=seed).add(items) for items in (first, second)
        ]
        estimates.append(sketches[0].estimate(words_of([1]))[0])
        products.append(sketches[0].inner_products(sketches[1])[0])
    deviation = np.sqrt(moment / 100)
    assert abs(np.mean(estimates) - left[1]) < 3 * deviation / np.sqrt(60)
    assert np.std(estimates) < 1.4 * deviation  # 5 standard errors above the bound
    deviation = np.sqrt((moment * other + product**2) / 100)
    assert abs(np.mean(products) - product) < 3 * deviation / np.sqrt(60)
    assert np.std(products) < 1.4 * deviation


def test_negative_counts_take_back():
    items, _ = draw_stream(5)
    sketch = EMPTY["count sketch"].add(items).add(items, np.full(len(items), -1, np.int32))
    assert not sketch.counts.any()


@pytest.mark.parametrize("distinct", [0, 1, 30, 700, 20_000])
def test_hyperloglog_errs_by_its_standard_error(distinct):
    seeds, registers = 20, 2**8
    errors = []
    for seed in range(seeds):
        items = words_of(np.arange(distinct) + seed * 100_000)
        sketch = HyperLogLog.empty(precision=8, seed=seed).add(items).add(items)
        errors.append(sketch.estimate() / max(distinct, 1) - (distinct > 0))
    deviation = 1.04 / np.sqrt(registers)
    assert abs(np.mean(errors)) < 3 * deviation / np.sqrt(seeds)
    assert np.std(errors) < 1.5 * deviation


def test_hyperloglog_ranks_are_counted_zeros():
    sketch = HyperLogLog.empty(precision=4).add(words_of(np.arange(500)))
    from jaxembed.search.integer_hash import hash_items

    expected = [0] * 16
    pairs = zip(
        hash_items(words_of(np.arange(500)), seed=0).tolist(),
        hash_items(words_of(np.arange(500)), seed=0, stream=1).tolist(),
        strict=True,
    )
    for place, value in pairs:
        expected[place >> 28] = max(expected[place >> 28], 33 - value.bit_length())
    np.testing.assert_array_equal(sketch.registers, expected)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="width 0 and depth 5"):
        CountMinSketch.empty(width=0)
    with pytest.raises(ValueError, match="depth is 4: wanted an odd number"):
        CountSketch.empty(depth=4)
    with pytest.raises(ValueError, match="precision is 3"):
        HyperLogLog.empty(precision=3)
    with pytest.raises(ValueError, match="epsilon 2.0"):
        CountMinSketch.for_error(epsilon=2.0, delta=0.1)
