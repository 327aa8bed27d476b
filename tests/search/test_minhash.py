import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxembed.search.integer_hash import words_of
from jaxembed.search.minhash import (
    band_keys,
    band_probability,
    jaccard,
    merge_signatures,
    minhash,
)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def draw_pairs(shared, own, pairs, start=0):
    """Pairs of sets with so many shared items and so many of their own each."""
    numbers = start + np.arange(pairs * (shared + 2 * own)).reshape(pairs, -1)
    first = numbers[:, : shared + own]
    second = np.concatenate([numbers[:, :shared], numbers[:, shared + own :]], axis=1)
    return [words_of(sets.ravel()).reshape(*sets.shape, 2) for sets in (first, second)]


@pytest.mark.parametrize(("shared", "own"), [(1, 9), (10, 5), (30, 2)])
def test_signatures_agree_as_often_as_the_sets_are_similar(shared, own):
    pairs, functions = 40, 128
    first, second = draw_pairs(shared, own, pairs)
    similarity = shared / (shared + 2 * own)
    rate = jaccard(minhash(first), minhash(second)).mean()
    deviation = np.sqrt(similarity * (1 - similarity) / (pairs * functions))
    assert abs(rate - similarity) < 3 * deviation


def test_host_and_device_sign_alike():
    items, _ = draw_pairs(5, 3, 4)
    mask = np.random.default_rng(0).random(items.shape[:2]) < 0.7
    host = minhash(items, mask=mask, functions=16, seed=3)
    device = jax.jit(lambda items, mask: minhash(items, mask=mask, functions=16, seed=3))(
        jnp.asarray(items), jnp.asarray(mask)
    )
    assert isinstance(host, np.ndarray)
    np.testing.assert_array_equal(host, device)
    assert (host != minhash(items, mask=mask, functions=16, seed=4)).mean() > 0.9


def test_padding_order_and_repeats_change_nothing():
    items, _ = draw_pairs(6, 2, 3)
    padded = np.concatenate([items[:, ::-1], items[:, :2], items + np.uint32(999)], axis=1)
    mask = np.arange(padded.shape[1])[None, :] < 10
    np.testing.assert_array_equal(minhash(padded, mask=np.repeat(mask, 3, axis=0)), minhash(items))


def test_merged_signatures_are_those_of_the_union():
    first, second = draw_pairs(4, 3, 5)
    union = minhash(np.concatenate([first, second], axis=1))
    np.testing.assert_array_equal(merge_signatures(minhash(first), minhash(second)), union)


def test_empty_sets_are_equal_to_each_other_only():
    items, _ = draw_pairs(4, 0, 1)
    nothing = minhash(items, mask=np.zeros((1, 4), bool))
    assert (nothing == 2**32 - 1).all()
    assert jaccard(nothing, nothing).item() == 1
    assert jaccard(nothing, minhash(items)).item() == 0


def test_bands_collide_as_theory_says():
    shared, own, pairs, functions, bands = 12, 4, 400, 32, 8
    first, second = draw_pairs(shared, own, pairs)
    keys = [band_keys(minhash(sets, functions=functions), bands) for sets in (first, second)]
    rate = (keys[0] == keys[1]).any(axis=1).mean()
    similarity = shared / (shared + 2 * own)
    expected = band_probability(similarity, functions=functions, bands=bands)
    assert expected == pytest.approx(1 - (1 - similarity**4) ** 8)
    assert abs(rate - expected) < 3 * np.sqrt(expected * (1 - expected) / pairs)
    on_device = band_keys(jnp.asarray(minhash(first, functions=functions)), bands)
    np.testing.assert_array_equal(keys[0], on_device)


def test_what_cannot_be_compared_is_refused():
    items, _ = draw_pairs(1, 1, 1)
    with pytest.raises(ValueError, match="functions is 0"):
        minhash(items, functions=0)
    with pytest.raises(ValueError, match="Signatures of 4 and 8 functions"):
        jaccard(minhash(items, functions=4), minhash(items, functions=8))
    with pytest.raises(ValueError, match="3 bands do not divide 8 functions"):
        band_keys(minhash(items, functions=8), 3)
