"""Few shapes with the least padding, each sequence in exactly one batch."""

import itertools

import jax
import numpy as np
import pytest

from jaxembed.data import PairBatches, bucket_batches, choose_lengths, make_batches


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_lengths_leave_the_least_padding(count):
    rng = np.random.default_rng(count)
    for _ in range(10):
        lengths = rng.integers(0, 9, rng.integers(1, 30))
        chosen = choose_lengths(lengths, count=count)

        def cost(shapes, lengths=lengths):
            return sum(min(shape for shape in shapes if shape >= n) for n in lengths)

        top = max(1, int(max(lengths)))
        others = itertools.combinations(range(1, top), min(count, top) - 1)
        assert cost(chosen) == min(cost((*other, top)) for other in others)
        assert len(chosen) <= count and list(chosen) == sorted(set(chosen)) and chosen[-1] == top


def test_at_most_eight_programs_are_compiled_however_lengths_fall():
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(2.7, 0.7, 2000)).astype(int), 1, 300)
    sequences = [[7] * length for length in lengths.tolist()]
    traced = []

    @jax.jit
    def run(ids, lengths):
        traced.append(ids.shape)
        return ids.sum(), lengths.sum()

    shapes = choose_lengths(lengths)
    total = 0
    seen = []
    for places, ids, real in bucket_batches(sequences, shapes, 64):
        run(ids, real)
        assert ids.shape[0] == 64 and np.all(
            (ids == 7) == (np.arange(ids.shape[1]) < real[:, None])
        )
        total += ids.shape[1] * np.count_nonzero(real)
        seen += [place for place in places if place >= 0]
    assert sorted(seen) == list(range(2000)) and len(traced) == len(shapes) == 8
    assert sum(lengths) > 0.8 * total
    with pytest.raises(ValueError, match="sequence 1 has 5 tokens"):
        list(bucket_batches([[1], [1] * 5], (2, 4), 2))


def test_pairs_lie_whole_in_batches_of_few_shapes():
    rng = np.random.default_rng(1)
    sources = [[index + 10] * int(rng.integers(1, 20)) for index in range(100)]
    targets = [[index + 10] * int(rng.integers(1, 25)) for index in range(100)]
    source = PairBatches(sources, targets, batch_size=8, max_len=20, seed=3)
    batches = list(make_batches(source, batch_size=None, seed=0, shuffle=True, epochs=1, threads=0))
    assert len(batches) == len(source) and {b["source"].shape[1] for b in batches} == set(
        source.shapes
    )
    seen = []
    for batch in batches:
        for row in np.flatnonzero(batch["source_lengths"]):
            index = int(batch["source"][row, 0]) - 10
            seen.append(index)
            for name, all_of in (("source", sources), ("target", targets)):
                length = batch[f"{name}_lengths"][row]
                assert batch[name][row, :length].tolist() == all_of[index]
                assert not batch[name][row, length:].any()
    kept = [i for i in range(100) if max(len(sources[i]), len(targets[i])) <= 20]
    assert sorted(seen) == kept and source.dropped == 100 - len(kept) > 0
