"""Beam search against brute force, against its own definition, and what must not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference.decoding as reference
from flat_models import PENALTIES, as_tuples, make_models, step

from jaxembed.decoding import Shared, beam_search, exhaustive_search, greedy_search, search_by_shard

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# vocab, longest, models, penalty, EOS, lift of EOS: 216 models in all
GROUPS = [
    (2, 5, 40, "none", 1, 0.0),
    (3, 5, 60, "length", 0, 0.0),
    (5, 4, 60, "none", 4, 0.0),
    (6, 4, 50, "length^-0.5", 2, 0.5),
    (7, 5, 6, "gnmt^0.6", 6, 0.5),
]
EVERY_GROUP = pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group[0]}^{group[1]}")


@functools.cache
def solved(group):
    """The models of a group, the oracle, a beam that holds everything, and small ones."""
    vocab, max_len, count, penalty, eos, lift = group
    models = make_models(vocab + max_len, count, vocab=vocab, max_len=max_len, eos=eos, lift=lift)
    options = {"length_penalty": penalty}
    best = models.decode(exhaustive_search, vocab_size=vocab, n_best=4, **options)
    whole = models.decode(beam_search, beam_size=vocab ** (max_len - 1), n_best=4, **options)
    sizes = (3, 1) if penalty == "none" else (3,)
    small = [models.decode(beam_search, beam_size=size, **options) for size in sizes]
    return models, best, whole, small


@EVERY_GROUP
def test_a_beam_that_holds_everything_equals_exhaustive_search(group):
    _, best, whole, _ = solved(group)
    for name in ("tokens", "lengths", "finished", "optimal"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(best, name), name)
    np.testing.assert_allclose(whole.scores, best.scores, atol=2e-6)
    assert np.all(whole.optimal)


@EVERY_GROUP
def test_no_beam_scores_above_the_best_and_optimal_is_never_wrong(group):
    _, best, _, small = solved(group)
    for decoded in small:
        gap = np.asarray(best.scores[:, 0] - decoded.scores[:, 0])
        assert np.all(gap > -2e-6)
        assert np.all(gap[np.asarray(decoded.optimal)] < 2e-6)


def test_optimal_is_often_true_and_not_always():
    _, best, _, (_, small) = solved(GROUPS[2])
    is_best = np.abs(np.asarray(best.scores[:, 0] - small.scores[:, 0])) < 2e-6
    assert 0.9 * np.sum(is_best) < np.sum(np.asarray(small.optimal)) < 60


@EVERY_GROUP
def test_scores_and_log_probabilities_equal_rescoring(group):
    models, _, _, small = solved(group)
    for decoded in small:
        for item in range(0, len(models.table), 3):
            found = as_tuples(decoded, item)
            assert len({tokens for _, tokens, _ in found}) == len(found) > 0
            assert found == sorted(found, key=lambda hypothesis: -hypothesis[0])
            for place, (score, tokens, finished) in enumerate(found):
                wanted, values = models.rescored(item, tokens, PENALTIES[group[3]])
                got = np.asarray(decoded.log_probs[item, place])
                np.testing.assert_allclose(score, wanted, atol=1e-5)
                np.testing.assert_allclose(got[: len(values)], values, atol=1e-5)
                assert not np.any(got[len(values) :])
                assert models.eos not in tokens[:-1]
                assert finished == (tokens[-1] == models.eos)
                assert finished or len(tokens) == models.max_len
                assert not np.any(decoded.tokens[item, place, len(tokens) :])


@pytest.mark.parametrize("group", [GROUPS[0], GROUPS[2]], ids=["2^5", "5^4"])
def test_a_beam_of_one_is_greedy(group):
    models, _, _, (_, one) = solved(group)
    greedy = models.decode(greedy_search)
    for name in ("tokens", "lengths", "finished", "optimal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(greedy, name), name)
    np.testing.assert_allclose(one.scores, greedy.scores, atol=1e-6)


def make_rule(stop, size, penalty, longest):
    """The stopping rules as their owners state them."""

    def is_done(pool, best, length, completed, led):
        is_full = len(pool) == size
        if stop == "huggingface-true":
            return is_full
        if stop == "ctranslate2":
            return led and completed >= size if penalty(2) == 1 else completed >= size
        if stop == "exact":
            reach = max(best / penalty(length + 1), best / penalty(longest))
        else:
            reach = best / penalty(longest if stop == "huggingface-never" else length)
        return is_full and pool[-1][0] >= reach

    return is_done


@pytest.mark.parametrize(
    ("stop", "penalty"),
    [
        ("exact", "length"),
        ("huggingface-false", "length"),
        ("huggingface-true", "none"),
        ("huggingface-never", "length"),
        ("ctranslate2", "none"),
        ("ctranslate2", "length"),
    ],
)
def test_beam_equals_its_definition_under_each_stopping_rule(stop, penalty):
    models = make_models(5, 30, vocab=4, max_len=6, lift=0.7)
    decoded = models.decode(beam_search, beam_size=3, stop=stop, length_penalty=penalty)
    for item in range(30):
        wanted = reference.beam(
            models.log_probs(item),
            bos=models.bos,
            eos=models.eos,
            max_len=6,
            size=3,
            penalty=PENALTIES[penalty],
            is_done=make_rule(stop, 3, PENALTIES[penalty], 6),
        )
        found = as_tuples(decoded, item)
        assert [hypothesis[1:] for hypothesis in found] == [hypothesis[1:] for hypothesis in wanted]
        np.testing.assert_allclose(
            [hypothesis[0] for hypothesis in found],
            [hypothesis[0] for hypothesis in wanted],
            atol=1e-5,
        )


def test_exact_never_loses_to_another_stopping_rule():
    models = make_models(6, 100, vocab=4, max_len=7, lift=0.7)
    run = functools.partial(models.decode, beam_size=2, length_penalty="length")
    exact = run(beam_search)
    losses = [
        np.asarray(exact.scores[:, 0] - run(beam_search, stop=stop).scores[:, 0])
        for stop in ("huggingface-true", "ctranslate2")
    ]
    assert all(np.all(loss >= 0) for loss in losses)
    assert all(np.any(loss > 1e-3) for loss in losses)


def test_one_best_equals_the_first_of_many():
    models = make_models(7, 50, vocab=5, max_len=6, lift=0.7)
    many, one = (
        models.decode(beam_search, beam_size=4, n_best=n, length_penalty="gnmt^0.6")
        for n in (None, 1)
    )
    assert one.tokens.shape == (50, 1, 6)
    np.testing.assert_array_equal(one.tokens[:, 0], many.tokens[:, 0])
    np.testing.assert_array_equal(one.scores[:, 0], many.scores[:, 0])


def test_constraints_hold_and_leave_the_best_that_keeps_them():
    models = make_models(8, 24, vocab=4, max_len=4, lift=1.0)
    limits = np.arange(24) % 5
    options = {"length_penalty": "length", "beam_size": 64, "n_best": 8}
    kept = {"max_lens": limits, "forbidden": np.asarray([2])}
    some = models.decode(beam_search, arrays=kept, min_len=2, **options)
    first = {"forced_first": np.arange(24) % 4}
    forced = models.decode(beam_search, arrays=first, min_len=2, **options)
    for item in range(24):
        enumerate_all = functools.partial(
            reference.all_hypotheses,
            models.log_probs(item),
            bos=models.bos,
            eos=models.eos,
            penalty=PENALTIES["length"],
            min_len=2,
        )
        wanted = enumerate_all(max_len=limits[item], forbidden=[2]) if limits[item] else []
        assert_same(as_tuples(some, item), wanted[:8])
        assert_same(as_tuples(forced, item), enumerate_all(max_len=4, first=item % 4)[:8])
    assert np.all(some.optimal == (limits > 0))
    kept["forbidden"] = np.arange(4) == 2
    again = models.decode(beam_search, arrays=kept, min_len=2, **options)
    jax.tree.map(np.testing.assert_array_equal, some, again)


def assert_same(found, wanted):
    assert [hypothesis[1:] for hypothesis in found] == [hypothesis[1:] for hypothesis in wanted]
    np.testing.assert_allclose([h[0] for h in found], [h[0] for h in wanted], atol=1e-5)


def test_batch_mates_padding_order_devices_and_jit_change_nothing():
    models = make_models(9, 64, vocab=6, max_len=5, lift=0.5)
    options = {"beam_size": 3, "length_penalty": "gnmt^0.6"}
    run = functools.partial(models.decode, beam_search, **options)
    limits = np.full(64, 5)
    all_at_once = run(arrays={"max_lens": limits})
    order = np.random.default_rng(0).permutation(64)
    assert_rows_equal(run(order, arrays={"max_lens": limits}), all_at_once, order)
    assert_rows_equal(run(slice(10, 13), jit=False), all_at_once, slice(10, 13))
    for item in (0, 63):
        assert_rows_equal(run([item], arrays={"max_lens": limits[:1]}), all_at_once, [item])
    padded = run(np.append(np.arange(64), [0, 0]), arrays={"max_lens": np.append(limits, [0, 0])})
    assert_rows_equal(padded, all_at_once, slice(0, 64), rows=slice(0, 64))
    longer = run(arrays={"max_lens": limits}, max_len=9)
    np.testing.assert_array_equal(longer.tokens[:, :, :5], all_at_once.tokens)
    np.testing.assert_array_equal(longer.scores, all_at_once.scores)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def search(_, table):
        return beam_search(
            step,
            {"node": jnp.full(len(table), -1)},
            context=table,
            batch_size=len(table),
            bos_id=models.bos,
            eos_id=models.eos,
            max_len=5,
            **options,
        )

    table = jax.device_put(
        models.table, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    )
    for many in (jax.jit(search_by_shard(search, mesh)), jax.jit(search)):
        assert_rows_equal(many((), table), all_at_once, slice(0, 64))


def assert_rows_equal(got, wanted, places, rows=slice(None)):
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one[rows], np.asarray(other)[places])


def make_timed_model(batch, ends, vocab=5):
    """A step function that gives EOS, which is 0, all weight at its end, and a count of steps."""
    steps = []

    def timed(tokens, cache, ends):
        jax.debug.callback(lambda: steps.append(1))
        now = cache["now"] + 1
        beam = len(tokens) // len(ends)
        likely = jnp.where(now == jnp.repeat(ends, beam), 0, 1 + tokens % (vocab - 1))
        return 20.0 * jax.nn.one_hot(likely, vocab, dtype=jnp.float32), {"now": now}

    cache = {"now": jnp.zeros(batch, jnp.int32)}
    return functools.partial(timed), cache, jnp.asarray(ends, jnp.int32), steps


@pytest.mark.parametrize("ends", [[5, 2, 3], [5, 5, 5]])
def test_the_loop_ends_with_the_last_item(ends):
    timed, cache, ends, steps = make_timed_model(3, ends)
    decoded = jax.jit(
        lambda: beam_search(
            timed,
            cache,
            context=ends,
            batch_size=3,
            beam_size=4,
            bos_id=1,
            eos_id=0,
            max_len=200,
            n_best=1,
        )
    )()
    jax.effects_barrier()
    np.testing.assert_array_equal(decoded.lengths[:, 0], ends)
    assert len(steps) == 5 and np.all(decoded.finished) and np.all(decoded.optimal)


def test_a_shared_part_stays_in_place_and_a_lineage_finds_it():
    batch, beam, vocab, longest = 3, 4, 6, 5
    table = jnp.asarray(np.random.default_rng(0).normal(0, 2, (batch, 997, vocab)), jnp.float32)

    def score(tokens, table):  # a model of all tokens so far
        powers = jnp.asarray([7**n for n in range(longest)])
        nodes = jnp.sum((tokens + 1) * powers[None], axis=1) % 997
        return jnp.take_along_axis(jnp.repeat(table, beam, 0), nodes[:, None, None], 1)[:, 0]

    def ordinary(last, cache, table):
        tokens = cache["tokens"].at[:, cache["step"][0]].set(last)
        return score(tokens, table), {"step": cache["step"] + 1, "tokens": tokens}

    def sharing(last, cache, table):
        step, (kept,) = cache["step"][0], cache["kept"]
        lineage = cache["lineage"].at[:, step].set(jnp.tile(jnp.arange(beam), batch))
        kept = kept.at[:, step].set(last.reshape(batch, beam))
        tokens = jnp.take_along_axis(jnp.repeat(kept, beam, 0), lineage[:, :, None], 2)[..., 0]
        cache = {"step": cache["step"] + 1, "lineage": lineage, "kept": Shared(kept)}
        return score(jnp.where(jnp.arange(longest)[None] <= step, tokens, 0), table), cache

    def run(step_fn, cache):
        cache = {"step": jnp.zeros(batch, jnp.int32)} | cache
        options = {"beam_size": beam, "bos_id": 1, "eos_id": 0, "max_len": longest}
        return beam_search(step_fn, cache, context=table, batch_size=batch, **options)

    empty = jnp.zeros((batch, longest), jnp.int32)
    kept = Shared(jnp.zeros((batch, longest, beam), jnp.int32))
    moved = run(ordinary, {"tokens": empty})
    jax.tree.map(
        np.testing.assert_array_equal, run(sharing, {"lineage": empty, "kept": kept}), moved
    )
    assert np.all(moved.lengths[:, 0] > 2)


def test_masks_of_the_model_and_short_floats_leave_no_infinity_or_nan():
    models = make_models(10, 4, vocab=4, max_len=4)
    hard = models.table.copy()
    hard[0, :, 2] = -np.inf
    hard[1, :, 1:] = np.finfo(np.float32).min  # only EOS
    hard[2, :, 0] = -1e9  # never EOS
    hard[3] = np.nan
    decoded = models._replace(table=hard).decode(beam_search, beam_size=3)
    assert all(np.isfinite(field).all() for field in (decoded.scores, decoded.log_probs))
    assert 2 not in np.asarray(decoded.tokens[0]) and as_tuples(decoded, 1) == [(0.0, (0,), True)]
    assert not np.any(decoded.finished[2]) and np.all(decoded.lengths[2] == 4)
    assert as_tuples(decoded, 3) == [] and not decoded.optimal[3]
    short = models._replace(table=models.table.astype(jnp.bfloat16)).decode(
        beam_search, beam_size=3
    )
    assert short.scores.dtype == short.log_probs.dtype == jnp.float32
    score, tokens, _ = as_tuples(short, 0)[0]
    exact = models._replace(table=models.table.astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_allclose(score, exact.rescored(0, tokens, PENALTIES["none"])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0"),
        ({"max_len": 0}, "max_len is 0"),
        ({"min_len": 5}, "min_len is 5"),
        ({"n_best": 3}, "n_best is 3"),
        ({"stop": "never"}, "stop|Stop"),
        ({"length_penalty": "wu"}, "Unknown length penalty 'wu'"),
        ({"length_penalty": "length^99"}, "does not fit float32"),
        ({"eos_id": 4}, "eos_id is 4"),
        ({"max_lens": np.ones(3, np.int32)}, "max_lens has shape|batch"),
        ({"forbidden": [7]}, "forbidden holds 7"),
        ({"forbidden": np.ones(3, bool)}, "mask of shape"),
        ({"forced_first": -1}, "forced_first holds -1"),
    ],
)
def test_bad_options_are_refused(options, message):
    models = make_models(0, 2, vocab=4, max_len=4)
    options = {"beam_size": 2, "eos_id": 0, "bos_id": 1, "max_len": 4} | options
    cache = {"node": jnp.full(2, -1)}
    # By the function itself, or before it by the types in its signature.
    with pytest.raises((ValueError, TypeError), match=message):
        beam_search(step, cache, context=jnp.asarray(models.table), batch_size=2, **options)


@pytest.mark.parametrize(
    ("step_fn", "cache", "message"),
    [
        (lambda t, c: (jnp.zeros((2, 3)), c), {"a": jnp.zeros(2)}, r"logits \(2, 3\) for 4"),
        (lambda t, c: jnp.zeros((4, 3)), {"a": jnp.zeros(2)}, "not \\(logits, cache\\)"),
        (lambda t, c: (jnp.zeros((4, 3)), c), {"a": jnp.zeros(3)}, r"cache\['a'\] has shape"),
        (lambda t, c: (jnp.zeros((4, 3)), c), {"a": jnp.zeros(())}, "must lead with the batch"),
        (
            lambda t, c: (jnp.zeros((4, 3)), {"a": c["a"].astype(jnp.int32)}),
            {"a": jnp.zeros(2)},
            r"changed the cache at \['a'\]: float32\[4\] came in and int32\[4\]",
        ),
        (lambda t, c: (jnp.zeros((4, 3)), {}), {"a": jnp.zeros(2)}, "nothing came out"),
    ],
)
def test_a_step_function_that_breaks_its_contract_is_named(step_fn, cache, message):
    with pytest.raises(ValueError, match=message):
        beam_search(step_fn, cache, batch_size=2, beam_size=2, bos_id=1, eos_id=0, max_len=3)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_search_lowers_for_devices_that_are_not_here(platform):
    models = make_models(0, 2, vocab=4, max_len=4)
    run = jax.jit(
        lambda table: beam_search(
            step,
            {"node": jnp.full(2, -1)},
            context=table,
            batch_size=2,
            beam_size=3,
            bos_id=1,
            eos_id=0,
            max_len=4,
        )
    )
    jax.export.export(run, platforms=[platform])(jnp.asarray(models.table))
