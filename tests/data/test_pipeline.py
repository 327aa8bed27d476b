import jax
import numpy as np
import pytest

from jaxembed.data import make_batches, pipeline


class Numbers:
    """A source of numbered elements that remembers what was read."""

    def __init__(self, length):
        self.length = length
        self.reads = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(index)
        return {"id": np.int32(index + 1), "pair": np.array([index, -index], np.float32)}


def batches_of(length, **options):
    defaults = {"batch_size": 4, "seed": 3, "shuffle": True, "epochs": 2, "threads": 0}
    return make_batches(Numbers(length), **{**defaults, **options})


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def naive_batches(orders, batch_size):
    """Batches of ids from the order of each epoch, by plain loops."""
    for order in orders:
        for start in range(0, len(order), batch_size):
            chunk = list(order[start : start + batch_size])
            missing = batch_size - len(chunk)
            yield chunk + [0] * missing, [True] * len(chunk) + [False] * missing


@pytest.mark.parametrize(("length", "batch_size"), [(1, 1), (1, 4), (8, 4), (10, 4), (3, 1)])
def test_unshuffled_batches_equal_a_plain_loop(length, batch_size):
    batches = list(batches_of(length, batch_size=batch_size, shuffle=False))
    orders = [range(1, length + 1)] * 2
    wanted = list(naive_batches(orders, batch_size))
    assert [(b["id"].tolist(), b["mask"].tolist()) for b in batches] == wanted
    assert batches[0]["pair"].shape == (batch_size, 2)
    assert batches[0]["pair"].dtype == np.float32


@pytest.fixture(params=["permutation", "grain"])
def shuffler(request, monkeypatch):
    """Both ways to shuffle."""
    if request.param == "grain":
        monkeypatch.setattr(pipeline, "_LONGEST_PERMUTATION", 0)


@pytest.mark.usefixtures("shuffler")
def test_every_epoch_has_each_element_once_in_another_order():
    batches = list(batches_of(10, epochs=3))
    assert len(batches) == 9
    epochs = []
    for three in (batches[:3], batches[3:6], batches[6:]):
        ids = np.concatenate([batch["id"][batch["mask"]] for batch in three])
        assert sorted(ids) == list(range(1, 11))
        epochs.append(tuple(ids.tolist()))
    assert len(set(epochs)) == 3


@pytest.mark.usefixtures("shuffler")
def test_neighbouring_seeds_share_no_epoch():
    orders = {
        tuple(element["id"] for element in batches_of(20, batch_size=None, seed=seed, epochs=1))
        for seed in range(5)
    }
    second = list(batches_of(20, batch_size=None, seed=0, epochs=2))[20:]
    assert len(orders) == 5
    assert tuple(element["id"] for element in second) not in orders


def test_first_places_are_uniform_over_seeds():
    firsts = [next(batches_of(4, batch_size=1, seed=seed))["id"][0] for seed in range(100)]
    # chi-squared with 3 degrees of freedom exceeds 16.3 once in a thousand; seeds are fixed.
    counts = np.bincount(firsts, minlength=5)[1:]
    assert ((counts - 25) ** 2 / 25).sum() < 16.3


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 3), (1, 1), (4, 16), (3, 0)])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_threads_and_prefetch_change_nothing(threads, prefetch, batch_size):
    straight = list(batches_of(11, batch_size=batch_size))
    other = list(batches_of(11, batch_size=batch_size, threads=threads, prefetch=prefetch))
    assert_same(straight, other)


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_processes_together_equal_a_single_one(process_count, drop_remainder):
    options = {"batch_size": 6, "drop_remainder": drop_remainder}
    whole = list(batches_of(13, **options, process_index=0, process_count=1))
    parts = [
        list(batches_of(13, **options, process_index=index, process_count=process_count))
        for index in range(process_count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in together]) for name in together[0]}
        for together in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)
    assert len(whole) == (4 if drop_remainder else 6)


def test_a_process_reads_only_its_own_elements():
    source = Numbers(12)
    options = {"batch_size": 4, "seed": 0, "shuffle": False, "epochs": 1, "threads": 0}
    list(make_batches(source, **options, process_index=1, process_count=2))
    assert source.reads == [2, 3, 6, 7, 10, 11]


def test_single_elements_are_shared_out_in_turn():
    whole = list(batches_of(6, batch_size=None))
    parts = [
        list(batches_of(6, batch_size=None, process_index=index, process_count=2))
        for index in range(2)
    ]
    assert_same(whole, [element for pair in zip(*parts, strict=True) for element in pair])
    assert "mask" not in whole[0]


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_resumed_iterator_equals_a_straight_one(stop, threads):
    straight = list(batches_of(10, epochs=3, threads=threads))
    first = batches_of(10, epochs=3, threads=threads)
    for _ in range(stop):
        next(first)
    state = first.get_state()
    second = batches_of(10, epochs=3, threads=threads)
    second.set_state(state)
    assert_same(straight[stop:], list(second))
    first.set_state(state)
    assert_same(straight[stop:], list(first))


def test_the_iterator_is_an_orbax_checkpointable(tmp_path):
    from orbax.checkpoint import v1 as ocp

    straight = list(batches_of(10))
    first = batches_of(10)
    next(first)
    ocp.save_checkpointables(tmp_path / "step", {"data": first})
    second = batches_of(10)
    ocp.load_checkpointables(tmp_path / "step", {"data": second})
    assert_same(straight[1:], list(second))


def test_endless_epochs_go_on():
    batches = batches_of(3, epochs=None)
    assert len([next(batches) for _ in range(50)]) == 50


def test_elements_that_are_no_dicts_stand_under_element():
    (batch,) = make_batches([1.5, 2.5], batch_size=3, seed=0, shuffle=False, epochs=1)
    np.testing.assert_array_equal(batch["element"], [1.5, 2.5, 0.0])


@pytest.mark.parametrize(
    ("length", "options", "message"),
    [
        (0, {}, "no elements"),
        (5, {"batch_size": 0}, "batch_size 0"),
        (5, {"batch_size": 4, "process_index": 0, "process_count": 3}, "among 3 processes"),
        (5, {"process_index": 2, "process_count": 2}, "process 2 of 2"),
        (5, {"seed": -1}, "seed is -1"),
        (5, {"epochs": 0}, "epochs is 0"),
        (5, {"threads": -1}, "threads is -1"),
        (3, {"drop_remainder": True}, "fill no batch of 4"),
        (5, {"batch_size": None, "process_index": 0, "process_count": 2}, "drop_remainder"),
    ],
)
def test_numbers_out_of_range_are_refused(length, options, message):
    with pytest.raises(ValueError, match=message):
        batches_of(length, **options)


def test_a_field_named_mask_is_refused():
    with pytest.raises(ValueError, match="rename it"):
        next(make_batches([{"mask": 1}], batch_size=1, seed=0, shuffle=False, epochs=1, threads=0))
