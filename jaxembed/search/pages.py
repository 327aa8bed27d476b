"""Inverted lists cut into pages of one size, and a scan that scores them in matrix products.

A list takes as many pages as it needs, so that no list is padded to the longest. A scan goes
through the lists rather than the queries: all queries that probe a list are scored against each of
its pages in one product. It keeps the best score of every block of 16 vectors; the k best blocks of
a query hold its k best vectors, and only these are scored again one by one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxembed.search.kmeans import map_rows

BLOCK = 16  # vectors of which the scan keeps one score
LISTS_A_ROUND = 32
QUERIES_AT_ONCE = 1024
ITEMS_A_STEP = 32
NUMBERS_AT_ONCE = 1 << 21
SCORES_KEPT = 1 << 23  # 32 MB


class Layout(NamedTuple):
    """Where the vectors of each list lie.

    Attributes:
        slots: The vector that lies in a slot of a page, -1 in empty slots.
        page_lists: The list of each page; the pages of a list follow each other.
        first_pages: The first page of each list.
        page_counts: The number of pages of each list.
        longest: The largest of `page_counts`, a plain number.
    """

    slots: Int[Array | np.ndarray, "pages page"]
    page_lists: Int[Array | np.ndarray, "pages"]
    first_pages: Int[Array | np.ndarray, "lists"]
    page_counts: Int[Array | np.ndarray, "lists"]
    longest: int


def lay_out(assignments: Int[np.ndarray, "entries"], count: int, vectors=None) -> Layout:
    """Cuts lists into pages, on the host.

    Args:
        assignments: The list of each entry, from 0 to `count` - 1. Entries of a list keep their
            order.
        count: The number of lists.
        vectors: The vector that each entry stands for; by default its number.

    Returns:
        The layout.
    """
    entries = np.arange(len(assignments)) if vectors is None else vectors
    # A page of at most half the mean list wastes at most a quarter of its room on average.
    half = max(1, len(assignments) // (2 * count))
    page = BLOCK * min(8, 1 << max(0, (half // BLOCK).bit_length() - 1))
    lengths = np.bincount(assignments, minlength=count)
    page_counts = -(-lengths // page)
    if page_counts.sum() == 0:
        page_counts[0] = 1
    first_pages = np.cumsum(page_counts) - page_counts
    order = np.argsort(assignments, kind="stable")
    starts = np.cumsum(lengths) - lengths
    ranks = np.arange(len(order)) - starts[assignments[order]]
    slots = np.full(page_counts.sum() * page, -1, np.int32)
    slots[first_pages[assignments[order]] * page + ranks] = entries[order]
    return Layout(
        slots.reshape(-1, page),
        np.repeat(np.arange(count), page_counts).astype(np.int32),
        first_pages.astype(np.int32),
        page_counts.astype(np.int32),
        int(page_counts.max()),
    )


def fill(layout: Layout, rows: np.ndarray) -> np.ndarray:
    """Puts a row for each vector into the vector's slots; empty slots hold zeros."""
    is_empty = layout.slots < 0
    filled = rows[np.where(is_empty, 0, layout.slots)]
    filled[is_empty] = 0
    return filled


def scan_lists(
    queries: Float[Array, "queries dim"],
    coarse: Float[Array, "queries lists"],
    probes: Int[Array, ""],
    layout: Layout,
    content: Array,
    offsets: Float[Array, "pages page"],
    decode: Callable[[Array, Int[Array, "some"]], Float[Array, "some rows dim"]],
    k: int,
    *,
    is_euclidean: bool,
) -> tuple[Float[Array, "queries found"], Int[Array, "queries found"]]:
    """Finds the k best vectors of the lists that each query probes.

    Args:
        queries: Query vectors.
        coarse: How near each list is, larger is nearer; -inf is never probed.
        probes: How many lists to scan; may be traced.
        layout: Where the vectors lie.
        content: What is stored for each slot, `[pages, page, width]`.
        offsets: Added to the product of a vector with a query; -inf keeps a slot from being found.
            For Euclidean distance minus half the square of the vector's length.
        decode: Makes vectors `[n, rows, dim]` of stored rows `[n, rows, width]`, whose lists `[n]`
            are given.
        k: How many to find.
        is_euclidean: Nearness is minus the distance, computed as a difference; otherwise it is the
            product plus offset.

    Returns:
        Nearness, largest first, and the slots, counted through all pages. -inf where fewer are
        found.
    """

    def scan(parts):
        return _scan(*parts, probes, layout, content, offsets, decode, k, is_euclidean)

    scores = _room(layout) * layout.slots.shape[1] // BLOCK  # that are kept for a query
    return map_rows(scan, (queries, coarse), min(QUERIES_AT_ONCE, max(32, SCORES_KEPT // scores)))


def _room(layout):
    """How many pages of a query a round takes: those of the longest list, or of 32 mean ones."""
    list_count = layout.first_pages.shape[0]
    wanted = min(list_count, LISTS_A_ROUND)
    return max(layout.longest, -(-wanted * layout.slots.shape[0] // list_count))


def _scan(queries, coarse, probes, layout, content, offsets, decode, k, is_euclidean):
    """Rounds over the lists, nearest first; a round takes what fits into its room of pages."""
    query_count, list_count = coarse.shape
    page_count = layout.slots.shape[0]
    wanted = min(list_count, LISTS_A_ROUND)
    room = _room(layout)
    numbers = jnp.arange(list_count, dtype=jnp.int32)[None, :]
    probes = jnp.minimum(jnp.asarray(probes, jnp.int32), list_count)
    found = min(k, page_count * layout.slots.shape[1])

    def next_round(state):
        taken, last, last_list, best, best_slots = state
        is_later = (coarse < last[:, None]) | (
            (coarse == last[:, None]) & (numbers > last_list[:, None])
        )
        nearness, lists = lax.top_k(jnp.where(is_later, coarse, -jnp.inf), wanted)
        pages = layout.page_counts[lists]
        ends = jnp.cumsum(pages, axis=1)  # [queries, wanted]
        place = jnp.arange(wanted, dtype=jnp.int32)[None, :]
        is_probed = (ends <= room) & (taken[:, None] + place < probes) & (nearness > -jnp.inf)
        count = jnp.sum(is_probed, axis=1, dtype=jnp.int32)
        near, slots = _scan_round(
            queries, lists, is_probed, room, layout, content, offsets, decode, found, is_euclidean
        )
        near, slots = _merge(best, best_slots, near, slots)
        at = jnp.maximum(count - 1, 0)[:, None]
        last = jnp.take_along_axis(nearness, at, axis=1)[:, 0]
        last_list = jnp.take_along_axis(lists, at, axis=1)[:, 0]
        # No list left: the query is done.
        taken = jnp.where(count == 0, probes, taken + count)
        return taken, last, last_list, near, slots

    state = (
        jnp.zeros(query_count, jnp.int32),
        jnp.full(query_count, jnp.inf, jnp.float32),
        jnp.full(query_count, -1, jnp.int32),
        jnp.full((query_count, found), -jnp.inf, jnp.float32),
        jnp.zeros((query_count, found), jnp.int32),
    )
    state = lax.while_loop(lambda state: jnp.any(state[0] < probes), next_round, state)
    return state[3], state[4]


def _scan_round(queries, lists, is_probed, room, layout, content, offsets, decode, k, is_euclidean):
    """Scans some lists `[queries, wanted]` of each query, together at most `room` pages."""
    query_count, wanted = lists.shape
    list_count = layout.first_pages.shape[0]
    page_count, page = layout.slots.shape
    blocks = page // BLOCK
    tile = 1 << max(0, min(5, (query_count // 16).bit_length() - 1))  # queries of one product

    # Queue the queries of each list.
    keys = jnp.where(is_probed, lists, list_count).reshape(-1)
    pairs = jnp.arange(keys.shape[0], dtype=jnp.int32)
    sorted_keys, order = lax.sort((keys, pairs), num_keys=1)
    bounds = jnp.searchsorted(
        sorted_keys, jnp.arange(list_count + 1, dtype=jnp.int32), method="scan_unrolled"
    ).astype(jnp.int32)
    starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
    ranks = jnp.zeros_like(pairs).at[order].set(pairs) - bounds[keys]

    # An item is a tile of a list's queue and one of the list's pages.
    tiles = -(-lengths // tile)
    item_ends = jnp.cumsum(tiles * layout.page_counts)
    item_starts = item_ends - tiles * layout.page_counts
    most = min(query_count * room, query_count * room // tile + page_count)
    most = -(-most // ITEMS_A_STEP) * ITEMS_A_STEP
    items = jnp.arange(most, dtype=jnp.int32)
    item_lists = jnp.searchsorted(item_ends, items, side="right", method="scan_unrolled")
    item_lists = jnp.minimum(item_lists, list_count - 1).astype(jnp.int32)
    within = items - item_starts[item_lists]
    counts = jnp.maximum(layout.page_counts[item_lists], 1)
    item_pages = jnp.clip(layout.first_pages[item_lists] + within % counts, 0, page_count - 1)
    item_queues = starts[item_lists] + within // counts * tile

    def score_items(step, maxima):
        first = step * ITEMS_A_STEP
        pages = lax.dynamic_slice_in_dim(item_pages, first, ITEMS_A_STEP)
        queues = lax.dynamic_slice_in_dim(item_queues, first, ITEMS_A_STEP)
        queues = queues[:, None] + jnp.arange(tile, dtype=jnp.int32)[None, :]
        rows = queries[order[jnp.minimum(queues, order.shape[0] - 1)] // wanted]
        vectors = decode(content[pages], layout.page_lists[pages])
        scores = jnp.einsum("itd,ipd->itp", rows, vectors, precision=lax.Precision.HIGHEST)
        scores = scores + offsets[pages][:, None, :]
        best = jnp.max(scores.reshape(*scores.shape[:2], blocks, BLOCK), axis=3)
        return lax.dynamic_update_slice_in_dim(maxima, best, first, axis=0)

    maxima = jnp.zeros((most, tile, blocks), jnp.float32)
    maxima = lax.fori_loop(0, -(-item_ends[-1] // ITEMS_A_STEP), score_items, maxima)

    # Collect for each query the maxima of its pages, in the order of its lists.
    pages = jnp.where(is_probed, layout.page_counts[lists], 0)
    ends = jnp.cumsum(pages, axis=1)
    places = jnp.arange(room, dtype=jnp.int32)
    which = jnp.sum(ends[:, None, :] <= places[None, :, None], axis=2, dtype=jnp.int32)
    which = jnp.minimum(which, wanted - 1)  # [queries, room]
    ranks = ranks.reshape(query_count, wanted)
    firsts = item_starts[lists] + ranks // tile * layout.page_counts[lists] - (ends - pages)
    rows = (firsts * tile + ranks % tile).astype(jnp.int32)
    rows = jnp.take_along_axis(rows, which, axis=1) + places[None, :] * tile
    is_page = places[None, :] < ends[:, -1:]
    block_scores = maxima.reshape(-1, blocks)[jnp.where(is_page, rows, 0)]
    block_scores = jnp.where(is_page[:, :, None], block_scores, -jnp.inf)
    page_starts = layout.first_pages[lists] - (ends - pages)
    page_numbers = jnp.take_along_axis(page_starts, which, axis=1) + places[None, :]

    kept = min(k, room * blocks)
    kept_scores, kept_blocks = lax.top_k(block_scores.reshape(query_count, -1), kept)
    chosen = jnp.take_along_axis(page_numbers, kept_blocks // blocks, axis=1) * blocks
    chosen = jnp.where(kept_scores == -jnp.inf, 0, chosen + kept_blocks % blocks)

    def measure(parts):
        return _measure(*parts, layout, content, offsets, decode, k, is_euclidean)

    size = max(1, NUMBERS_AT_ONCE // (kept * BLOCK * queries.shape[1]))
    return map_rows(measure, (queries, chosen, kept_scores), size)


def _measure(queries, blocks, block_scores, layout, content, offsets, decode, k, is_euclidean):
    """Scores every vector of some blocks of each query; returns the best and their slots."""
    count, kept = blocks.shape
    width = content.shape[2]
    lists = layout.page_lists[blocks.reshape(-1) // (layout.slots.shape[1] // BLOCK)]
    stored = content.reshape(-1, BLOCK, width)[blocks.reshape(-1)]
    vectors = decode(stored, lists).reshape(count, kept * BLOCK, -1)
    added = offsets.reshape(-1, BLOCK)[blocks]  # [queries, kept, BLOCK]
    added = jnp.where((block_scores > -jnp.inf)[:, :, None], added, -jnp.inf).reshape(count, -1)
    if is_euclidean:
        differences = queries[:, None, :] - vectors
        nearness = -jnp.sqrt(jnp.sum(differences * differences, axis=2))
        nearness = jnp.where(added == -jnp.inf, -jnp.inf, nearness)
    else:
        products = jnp.einsum("qd,qcd->qc", queries, vectors, precision=lax.Precision.HIGHEST)
        nearness = products + added
    found = min(k, kept * BLOCK)
    nearness, places = lax.top_k(nearness, found)
    slots = jnp.take_along_axis(blocks, places // BLOCK, axis=1) * BLOCK + places % BLOCK
    padding = ((0, 0), (0, k - found))
    return jnp.pad(nearness, padding, constant_values=-jnp.inf), jnp.pad(slots, padding)


def _merge(best, best_slots, near, slots):
    """The best of two lists of results of each query."""
    joined, places = lax.top_k(jnp.concatenate([best, near], axis=1), best.shape[1])
    slots = jnp.concatenate([best_slots, slots], axis=1)
    return joined, jnp.take_along_axis(slots, places, axis=1)


def in_order_of_position(nearness, positions):
    """Sorts results of equal nearness by position, lowest first."""
    negative, positions = lax.sort((0.0 - nearness, positions), dimension=1, num_keys=2)
    return 0.0 - negative, positions
