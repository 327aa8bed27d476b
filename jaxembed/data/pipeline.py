"""The one input pipeline: any random access source to batches, through grain."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

# Grain's shuffle needs no memory, but about 40 ms an epoch however few elements there are; a
# permutation in memory takes microseconds for few and 8 bytes an element.
_LONGEST_PERMUTATION = 1 << 22


@runtime_checkable
class RandomAccessSource(Protocol):
    """Anything with a length and elements by index."""

    def __len__(self) -> int:
        """The number of elements."""
        ...

    def __getitem__(self, index: int) -> Any:
        """An element: an array, a number, bytes, or a dict, tuple or list of them."""
        ...


def make_batches(
    source: RandomAccessSource,
    *,
    batch_size: int | None,
    seed: int,
    shuffle: bool,
    epochs: int | None,
    process_index: int | None = None,
    process_count: int | None = None,
    threads: int = 2,
    prefetch: int = 4,
    drop_remainder: bool = False,
) -> Any:
    """Makes the iterator over a source's batches.

    What comes does not depend on `threads` and `prefetch`. Every epoch has its own order, and no
    batch holds elements of two. The batches of all processes, put together in their order, are
    the batches of a single process; a process reads only its own elements.

    The iterator has `get_state` and `set_state`, and is an Orbax checkpointable.

    Args:
        source: What to read; elements must be alike in structure and shapes. If it has a method
            `of_epoch(number)`, that gives the source of an epoch, of the same length.
        batch_size: Elements a batch, over all processes. None gives single elements, as they are.
        seed: Decides the order; 0 or more.
        shuffle: Whether to shuffle, differently in each epoch.
        epochs: How often to go through the source; None never ends.
        process_index: Which process this is; None asks jax.
        process_count: How many processes there are; None asks jax.
        threads: Threads that read; 0 reads in the caller's.
        prefetch: Batches to read ahead.
        drop_remainder: Drop what is left at an epoch's end where it fills no batch. Otherwise
            the last batch is filled up with rows of zeros.

    Returns:
        A grain iterator over dicts with the elements' arrays, [batch / process_count, ...] each,
        and `mask`, bool, False for filled-up rows. An element that is not a dict stands under
        `element`. With `batch_size` None: the elements, without a mask.

    Raises:
        ValueError: If a number is out of range, the source has no elements (or, with
            `drop_remainder`, no whole batch), or the processes' shares would not be equal.
    """
    import grain  # it brings Orbax, and takes a second

    process_index = jax.process_index() if process_index is None else process_index
    process_count = jax.process_count() if process_count is None else process_count
    global_size = process_count if batch_size is None else batch_size
    _check_numbers(global_size, seed, epochs, process_index, process_count, threads, prefetch)
    _check_length(len(source), batch_size, process_count, drop_remainder)
    rows = global_size // process_count
    first_row = rows * process_index

    length = len(source)
    batches_per_epoch = (length if drop_remainder else length + global_size - 1) // global_size
    order = _make_order(length, seed) if shuffle else lambda epoch, start, stop: range(start, stop)

    def read_batch(number: int) -> Any:
        """This process's part of a batch; batches are numbered through all epochs."""
        epoch, number = divmod(int(number), batches_per_epoch)
        start = number * global_size
        batch = order(epoch, start, min(start + global_size, length))
        read_from = source.of_epoch(epoch) if hasattr(source, "of_epoch") else source
        if batch_size is None:
            return read_from[int(batch[process_index])]
        return _read_rows(read_from, batch, first_row, rows)

    count = sys.maxsize if epochs is None else epochs * batches_per_epoch
    read = grain.MapDataset.range(count).map(read_batch)
    # Grain reads ahead only with both; either alone would be refused or ignored.
    threads, prefetch = (threads, prefetch) if threads and prefetch else (0, 0)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(read.to_iter_dataset(options, allow_nones=True))


def _make_order(length: int, seed: int) -> Callable[[int, int, int], Sequence[int]]:
    """A function of epoch, start and stop that gives a slice of the epoch's shuffled indices."""
    if length > _LONGEST_PERMUTATION:
        import grain

        # Grain adds the epoch to the seed: spread seeds, or epoch 1 of seed 0 is epoch 0 of 1.
        spread = int(np.random.SeedSequence(seed).generate_state(1)[0])
        shuffled = grain.MapDataset.range(length).shuffle(seed=spread)
        return lambda epoch, start, stop: [
            int(shuffled[epoch * length + index]) for index in range(start, stop)
        ]

    @functools.lru_cache(maxsize=2)  # at an epoch's end, threads read in two
    def permutation(epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        return generator.permutation(length)

    return lambda epoch, start, stop: permutation(epoch)[start:stop].tolist()


def _read_rows(
    source: RandomAccessSource, batch: Sequence[int], first_row: int, rows: int
) -> dict[str, Any]:
    """Reads this process's rows of a batch, filled up with zeros."""
    mine = batch[first_row : first_row + rows]
    # A process without a row of its own reads one to know its shape.
    elements = [source[int(index)] for index in (mine or batch[:1])]
    if not isinstance(elements[0], dict):
        elements = [{"element": element} for element in elements]
    if "mask" in elements[0]:
        raise ValueError("elements have a field `mask`, which batches use: rename it.")
    stacked = jax.tree.map(lambda *leaves: _stack(leaves, len(mine), rows), *elements)
    return {**stacked, "mask": np.arange(rows) < len(mine)}


def _stack(leaves: Sequence[Any], count: int, rows: int) -> np.ndarray:
    """Stacks `count` leaves and fills up to `rows` with zeros."""
    values = np.stack([np.asarray(leaf) for leaf in leaves])
    stacked = np.zeros((rows, *values.shape[1:]), values.dtype)
    stacked[:count] = values[:count]
    return stacked


def _check_numbers(
    global_size: int,
    seed: int,
    epochs: int | None,
    process_index: int,
    process_count: int,
    threads: int,
    prefetch: int,
) -> None:
    """Complains about numbers out of range."""
    if process_count < 1 or not 0 <= process_index < process_count:
        raise ValueError(
            f"process {process_index} of {process_count}: the index must be from 0 to count - 1."
        )
    if global_size < 1 or global_size % process_count:
        raise ValueError(
            f"batch_size {global_size} does not divide among {process_count} processes: give a "
            "positive multiple of their number."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}: give 0 or more.")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs is {epochs}: give 1 or more, or None for no end.")
    if threads < 0 or prefetch < 0:
        raise ValueError(f"threads is {threads}, prefetch {prefetch}: give 0 or more.")


def _check_length(
    length: int, batch_size: int | None, process_count: int, drop_remainder: bool
) -> None:
    """Complains about a source that gives no batch, or unequal shares."""
    if length == 0:
        raise ValueError("the source has no elements: give one that has.")
    global_size = process_count if batch_size is None else batch_size
    if drop_remainder and length < global_size:
        raise ValueError(
            f"{length} elements fill no batch of {global_size} and drop_remainder is set: lower "
            "batch_size, or keep the remainder."
        )
    if batch_size is None and length % process_count and not drop_remainder:
        raise ValueError(
            f"{length} single elements do not divide among {process_count} processes: set "
            "drop_remainder, or give batch_size, with which the last batch is filled up."
        )
