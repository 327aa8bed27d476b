"""Sketches of streams: counts of items (count-min, count sketch), distinct items (HyperLogLog).

Each is an immutable pytree of a few kilobytes: `add` returns a new one, and `merge` of two is
exactly the sketch of both streams. NumPy in, NumPy out, on the host; JAX arrays on their device;
the same bits.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt32

from jaxembed.search.integer_hash import AnyArray, hash_items, is_host, random_signs, to_range

# Registers of HyperLogLog count leading zeros of one 32-bit word.
HASH_BITS = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountMinSketch:
    """Counts that are never too low, for items too many to count one by one.

    An estimate exceeds the true count by more than `e / width` of the total with probability at
    most `exp(-depth)`. Counters are int32: the total must stay below 2^31.

    Attributes:
        counts: The counters.
        seed: Chooses the hash functions.

    Reference: Cormode & Muthukrishnan, "An improved data stream summary", 2005, theorem 1.
    """

    counts: Int32[AnyArray, "depth width"]
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    @classmethod
    def empty(cls, *, width: int = 2048, depth: int = 5, seed: int = 0) -> "CountMinSketch":
        """Makes a sketch of nothing, on the host.

        Args:
            width: Counters a row; any number.
            depth: Rows, each with its own hash function.
            seed: Chooses the hash functions; only sketches of one seed can be merged.

        Returns:
            The sketch.

        Raises:
            ValueError: If a size is below 1.
        """
        return cls(_zeros(depth, width), seed)

    @classmethod
    def for_error(cls, *, epsilon: float, delta: float, seed: int = 0) -> "CountMinSketch":
        """Makes an empty sketch that keeps a bound.

        Args:
            epsilon: Largest excess, as a share of the total count.
            delta: Probability that one estimate exceeds it.
            seed: As in `empty`.

        Returns:
            The sketch.

        Raises:
            ValueError: If a number is not between 0 and 1.
        """
        if not (0 < epsilon < 1 and 0 < delta < 1):
            raise ValueError(f"epsilon {epsilon} and delta {delta} must lie between 0 and 1.")
        width, depth = math.ceil(math.e / epsilon), math.ceil(math.log(1 / delta))
        return cls.empty(width=width, depth=depth, seed=seed)

    def add(
        self, items: UInt32[AnyArray, "items words"], counts: Int32[AnyArray, "items"] | None = None
    ) -> "CountMinSketch":
        """Counts items.

        Args:
            items: Items as rows of words, see `words_of`; they may repeat.
            counts: How often each came, not negative; by default once.

        Returns:
            The new sketch.
        """
        amounts = np.ones(len(items), np.int32) if counts is None else counts
        places = _places(items, self.counts.shape, self.seed)
        return dataclasses.replace(self, counts=_scatter_add(self.counts, places, amounts))

    def merge(self, other: "CountMinSketch") -> "CountMinSketch":
        """Returns the sketch of both streams.

        Args:
            other: A sketch of the same shape and seed.

        Returns:
            Exactly what counting both streams in one sketch gives.

        Raises:
            ValueError: If shape or seed differ.
        """
        _check_alike(self, other)
        return dataclasses.replace(self, counts=self.counts + other.counts)

    def estimate(self, items: UInt32[AnyArray, "items words"]) -> Int32[AnyArray, "items"]:
        """Estimates how often items came.

        Args:
            items: Items as rows of words.

        Returns:
            At least the true counts.
        """
        return _gather(self.counts, _places(items, self.counts.shape, self.seed)).min(axis=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class CountSketch:
    """Counts with an error that is unbiased and falls with the second moment, and inner products.

    A row's estimate is unbiased with variance at most `F2 / width`, F2 being the sum of the squared
    counts; the median of the rows is taken. Counters are int32; counts may be negative.

    Attributes:
        counts: The counters.
        seed: Chooses the hash functions.

    Reference: Charikar, Chen & Farach-Colton, "Finding frequent items in data streams", 2002.
    """

    counts: Int32[AnyArray, "depth width"]
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    @classmethod
    def empty(cls, *, width: int = 2048, depth: int = 5, seed: int = 0) -> "CountSketch":
        """Makes a sketch of nothing, on the host.

        Args:
            width: Counters a row; any number.
            depth: Rows; an odd number, so that a median is one of them.
            seed: Chooses the hash functions; only sketches of one seed can be merged.

        Returns:
            The sketch.

        Raises:
            ValueError: If a size is below 1 or the depth is even.
        """
        if depth % 2 == 0:
            raise ValueError(f"depth is {depth}: wanted an odd number, for the median.")
        return cls(_zeros(depth, width), seed)

    def add(
        self, items: UInt32[AnyArray, "items words"], counts: Int32[AnyArray, "items"] | None = None
    ) -> "CountSketch":
        """Counts items.

        Args:
            items: Items as rows of words, see `words_of`; they may repeat.
            counts: How often each came; by default once.

        Returns:
            The new sketch.
        """
        signs = self._signs(items)
        amounts = signs if counts is None else signs * counts[None, :]
        places = _places(items, self.counts.shape, self.seed)
        return dataclasses.replace(self, counts=_scatter_add(self.counts, places, amounts))

    def merge(self, other: "CountSketch") -> "CountSketch":
        """Returns the sketch of both streams.

        Args:
            other: A sketch of the same shape and seed.

        Returns:
            Exactly what counting both streams in one sketch gives.

        Raises:
            ValueError: If shape or seed differ.
        """
        _check_alike(self, other)
        return dataclasses.replace(self, counts=self.counts + other.counts)

    def estimate(self, items: UInt32[AnyArray, "items words"]) -> Int32[AnyArray, "items"]:
        """Estimates how often items came.

        Args:
            items: Items as rows of words.

        Returns:
            The median of the rows' estimates.
        """
        found = _gather(self.counts, _places(items, self.counts.shape, self.seed))
        space = np if is_host(found) else jnp
        return space.sort(found * self._signs(items), axis=0)[self.counts.shape[0] // 2]

    def inner_products(self, other: "CountSketch") -> Float32[AnyArray, "depth"]:
        """Estimates the sum over items of the product of their counts in two streams.

        Args:
            other: A sketch of the same shape and seed; itself for the second moment.

        Returns:
            One unbiased estimate a row, of variance at most `2 F2 G2 / width`, F2 and G2 being the
            second moments; their mean is unbiased too, their median is the safer number.

        Raises:
            ValueError: If shape or seed differ.
        """
        _check_alike(self, other)
        return (self.counts.astype(np.float32) * other.counts.astype(np.float32)).sum(axis=1)

    def _signs(self, items):
        """One sign a row and item, from hash functions that the places do not use."""
        depth = self.counts.shape[0]
        rows = [
            random_signs(hash_items(items, seed=self.seed, stream=depth + i)) for i in range(depth)
        ]
        return (np if is_host(items) else jnp).stack(rows)  # [depth, items]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class HyperLogLog:
    """The number of distinct items of a stream, in one byte a register.

    The standard error is `1.04 / sqrt(registers)` of the count, from none to about 10^9 items.

    Attributes:
        registers: The largest rank seen in each.
        seed: Chooses the hash function.

    Reference: Flajolet, Fusy, Gandouet & Meunier, 2007; the estimator is algorithm 6 of Ertl, "New
    cardinality estimation algorithms for HyperLogLog sketches", https://arxiv.org/abs/1702.01284,
    which needs neither tables nor a switch for small counts.
    """

    registers: UInt8[AnyArray, "registers"]
    seed: int = dataclasses.field(default=0, metadata={"static": True})

    @classmethod
    def empty(cls, *, precision: int = 14, seed: int = 0) -> "HyperLogLog":
        """Makes a sketch of nothing, on the host.

        Args:
            precision: Binary logarithm of the number of registers, 4 to 24.
            seed: Chooses the hash function; only sketches of one seed can be merged.

        Returns:
            The sketch.

        Raises:
            ValueError: If the precision is out of range.
        """
        if not 4 <= precision <= 24:
            raise ValueError(f"precision is {precision}: wanted 4 to 24.")
        return cls(np.zeros(2**precision, np.uint8), seed)

    def add(self, items: UInt32[AnyArray, "items words"]) -> "HyperLogLog":
        """Sees items.

        Args:
            items: Items as rows of words, see `words_of`; they may repeat.

        Returns:
            The new sketch.
        """
        places = to_range(hash_items(items, seed=self.seed), len(self.registers))
        ranks = _leading_zeros(hash_items(items, seed=self.seed, stream=1)) + np.uint8(1)
        if is_host(self.registers, items):
            registers = self.registers.copy()
            np.maximum.at(registers, places, ranks)
        else:
            registers = jnp.asarray(self.registers).at[places].max(ranks)
        return dataclasses.replace(self, registers=registers)

    def merge(self, other: "HyperLogLog") -> "HyperLogLog":
        """Returns the sketch of both streams.

        Args:
            other: A sketch of the same number of registers and seed.

        Returns:
            Exactly what seeing both streams in one sketch gives.

        Raises:
            ValueError: If size or seed differ.
        """
        _check_alike(self, other)
        space = np if is_host(self.registers, other.registers) else jnp
        return dataclasses.replace(self, registers=space.maximum(self.registers, other.registers))

    def estimate(self) -> Float32[AnyArray, ""]:
        """Estimates the number of distinct items seen.

        Returns:
            The estimate; host and device may differ by rounding.
        """
        space = np if is_host(self.registers) else jnp
        size, ranks = len(self.registers), np.arange(HASH_BITS + 2, dtype=np.uint8)
        shares = (self.registers[:, None] == ranks[None, :]).mean(axis=0, dtype=np.float32)
        # Ertl's tau of the saturated registers, then his sum from high ranks to low, then sigma.
        total = _tau(space, 1.0 - shares[HASH_BITS + 1])
        for rank in range(HASH_BITS, 0, -1):
            total = 0.5 * (total + shares[rank])
        total = total + _sigma(space, shares[0])
        # Only full registers everywhere make the sum 0.
        total = space.maximum(total, np.float32(1e-20))
        return space.asarray(size / (2.0 * math.log(2.0)) / total, np.float32)


def _sigma(space, share):
    """Sums x and x^(2^k) 2^(k-1) for k from 1: infinite at 1; Ertl's sigma."""
    # 20 doublings reach any share of zeros that 2^24 registers can have, but 1 itself.
    power, weight, total = share, 1.0, share
    for _ in range(30):
        power = power * power
        total, weight = total + power * weight, 2.0 * weight
    return space.where(share == 1.0, np.float32(np.inf), total)


def _tau(space, share):
    """Takes (1 - x^(2^-k))^2 2^-k from 1 - x, for k from 1, and a third of it; Ertl's tau."""
    power, weight, total = share, 1.0, 1.0 - share
    for _ in range(24):
        power, weight = space.sqrt(power), 0.5 * weight
        total = total - (1.0 - power) ** 2 * weight
    return space.where(share == 0.0, np.float32(0.0), total / 3.0)


def _leading_zeros(words):
    """Zero bits before the first one, 32 for 0, as uint8."""
    for shift in (1, 2, 4, 8, 16):
        words = words | (words >> np.uint32(shift))
    space = np if is_host(words) else jnp
    return space.bitwise_count(~words).astype(np.uint8)


def _zeros(depth, width):
    """Counters of nothing."""
    if depth < 1 or width < 1:
        raise ValueError(f"width {width} and depth {depth} must be at least 1.")
    return np.zeros((depth, width), np.int32)


def _places(items, shape, seed):
    """The counter of each item in each row, [depth, items]."""
    depth, width = shape
    rows = [to_range(hash_items(items, seed=seed, stream=row), width) for row in range(depth)]
    return (np if is_host(items) else jnp).stack(rows)


def _scatter_add(counts, places, amounts):
    """Adds amounts, one an item or one a row and item, to their counters."""
    rows = np.arange(len(counts))[:, None]
    if is_host(counts, places, amounts):
        counts = counts.copy()
        np.add.at(counts, (rows, places), amounts)
        return counts
    amounts = jnp.broadcast_to(jnp.asarray(amounts).reshape((-1, places.shape[1])), places.shape)
    return jnp.asarray(counts).at[rows, places].add(amounts)


def _gather(counts, places):
    """The counters at the places, [depth, items]."""
    if not is_host(counts, places):
        counts = jnp.asarray(counts)
    return counts[np.arange(len(counts))[:, None], places]


def _check_alike(first, second):
    """Raises ValueError unless two sketches count with the same functions."""
    shapes = [jax.tree.leaves(sketch)[0].shape for sketch in (first, second)]
    if shapes[0] != shapes[1] or first.seed != second.seed:
        raise ValueError(
            f"Sketches of shape {shapes[0]}, seed {first.seed} and of shape {shapes[1]}, seed "
            f"{second.seed}: both must be made alike."
        )
