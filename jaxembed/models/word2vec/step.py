"""The row-sparse training step of word2vec: many small updates of two tables, compiled as one loop.

A block of raw ids is subsampled and cut into parallel streams. An update takes a few consecutive
positions of each stream, its tiles, and changes only the rows that they touch: all pairs of a tile
are one masked matrix product, negatives are shared by the tiles of neighbouring streams, and each
table is gathered from and scattered to once. `SkipGram` and `CBOW` define the same update by
autodiff; the tests hold the two together.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt32

from jaxembed.models.word2vec.modules import Objective
from jaxembed.models.word2vec.sampling import (
    AliasTable,
    HuffmanTree,
    alias_table,
    huffman_tree,
    keep_probabilities,
    threshold,
)
from jaxembed.models.word2vec.stream import Tile, cut, subsample

# Larger updates made NaN on real text, whatever the damping; see experiments/benchmarks.
MOST_POSITIONS, MOST_DAMPING = 8192, 8.0
TOP_NODES = 32  # inner nodes of the tree held as one dense matrix; a word's part fits 32 bits


@dataclass(frozen=True)
class WindowPairs:
    """Which pairs of words enter the loss, and against what they are scored.

    Attributes:
        window: Largest distance of a pair; each position reaches a uniform 1..window.
        sample: Threshold of subsampling frequent words; 0 keeps every word.
        negatives: Negatives a prediction, in expectation; for negative sampling.
        exponent: Negatives are drawn in proportion to counts ** exponent.
    """

    window: int = 5
    sample: float = 1e-3
    negatives: int = 5
    exponent: float = 0.75

    def __post_init__(self) -> None:
        for name, least in {"window": 1, "sample": 0.0, "negatives": 1}.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")


@dataclass(frozen=True)
class RowSGD:
    """Stochastic gradient descent on the rows that an update touches.

    The learning rate falls linearly in the raw words seen.

    Attributes:
        lr: Learning rate at the start.
        final_lr: Learning rate at the end.
        damping: Occurrences of a row that one update sums at full strength, see `make_tables`.
        streams: Parallel streams in an update, a multiple of `group`; a small corpus is given
            fewer, see `streams_for`.
        length: Consecutive positions of a stream in an update.
        group: Neighbouring streams whose tiles share their negatives.
        shared: Negatives drawn for each group.
        slots: Tree nodes below the top ones handled at once, a tile; for hierarchical softmax.
    """

    lr: float = 0.04
    final_lr: float = 1e-5
    damping: float = 4.0
    streams: int = 128
    length: int = 16
    group: int = 4
    shared: int = 64
    slots: int = 160

    def __post_init__(self) -> None:
        for name in ("lr", "damping", "streams", "length", "group", "shared", "slots"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a positive number.")
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(f"final_lr is {self.final_lr}; give 0 to lr, which is {self.lr}.")
        if self.streams % self.group:
            raise ValueError(
                f"{self.streams} streams do not divide into groups of {self.group}: "
                f"choose streams a multiple of group."
            )
        positions = self.streams * self.length
        if positions > MOST_POSITIONS or (self.damping > MOST_DAMPING and positions > 1024):
            raise ValueError(
                f"{self.streams} streams x {self.length} positions with damping {self.damping} "
                f"diverged where it was measured: one update sums too many gradients of the same "
                f"tables. Keep streams * length <= {MOST_POSITIONS} and damping <= "
                f"{MOST_DAMPING}, or streams * length <= 1024."
            )


def tuned_optim(architecture: str, objective: Objective) -> RowSGD:
    """Settings chosen on 100 MB of English, see experiments/benchmarks/results."""
    return _TUNED.get((architecture, objective), RowSGD())


_TUNED = {
    ("skip-gram", "negative-sampling"): RowSGD(lr=0.04, damping=4.0, shared=64),
    ("cbow", "negative-sampling"): RowSGD(lr=0.1, damping=2.0, shared=32),
    ("skip-gram", "hierarchical-softmax"): RowSGD(lr=0.025, length=8, streams=256, slots=96),
    ("cbow", "hierarchical-softmax"): RowSGD(lr=0.05, length=8, streams=256, slots=96),
}


def streams_for(words: int, optim: RowSGD) -> int:
    """Streams for a corpus: its words bring at least 1,000 updates an epoch if they can."""
    fitting = optim.group
    while 2 * fitting <= optim.streams and 2 * fitting * optim.length * 1000 <= words:
        fitting *= 2
    return fitting


@dataclass(frozen=True)
class Step:
    """What decides an update, apart from the vocabulary and the random draws.

    Attributes:
        architecture: Which of the two predicts: the centre its window, or the window its centre.
        objective: How a prediction is scored.
        window: Largest distance of a pair; each position reaches a uniform 1..window.
        negatives: Negatives a prediction, in expectation.
        streams: Parallel streams, a multiple of `group`.
        length: Consecutive positions of a stream in one update.
        group: Neighbouring streams whose tiles share their negatives.
        shared: Negatives drawn for each group.
        slots: Tree nodes below the top ones handled at once, a tile.
    """

    architecture: Literal["skip-gram", "cbow"]
    objective: Objective
    window: int = 5
    negatives: int = 5
    streams: int = 128
    length: int = 16
    group: int = 4
    shared: int = 32
    slots: int = 160


class Tables(NamedTuple):
    """Constants of a vocabulary that every update reads.

    Attributes:
        keep: Subsampling thresholds on 32 bits.
        input_scale: Factor in (0, 1] on the summed update of each input row.
        output_scale: The same for output rows.
        noise: Distribution of negatives, for negative sampling.
        top_bits: The path among the top nodes: bit n of [0] says that node n is on it, of [1]
            that the path turns to code 0 there.
        tail_offsets: Where the rest of each path starts in `tail`, and past the last one its end.
        tail: The rest of all paths: 2 * node + code.
    """

    keep: UInt32[Array, "vocab"]
    input_scale: Float[Array, "vocab"]
    output_scale: Float[Array, "outputs"]
    noise: AliasTable | None = None
    top_bits: UInt32[Array, "2 vocab"] | None = None
    tail_offsets: Int32[Array, "vocab+1"] | None = None
    tail: Int32[Array, "entries"] | None = None


def make_tables(
    step: Step,
    counts: Int[np.ndarray, "vocab"],
    *,
    sample: float = 1e-3,
    exponent: float = 0.75,
    damping: float = 4.0,
) -> Tables:
    """Makes a vocabulary's constants.

    A step sums updates that are all computed from the same stale tables. For a frequent word that
    is many of them, and the sum overshoots; its row's update is therefore scaled by
    min(1, damping / E), E the number of times the word is expected to occur in a step, in units of
    what one position contributes.

    Args:
        step: The update.
        counts: Occurrences of each word.
        sample: Threshold of subsampling; 0 keeps everything.
        exponent: Negatives are drawn in proportion to counts ** exponent.
        damping: Occurrences of a row that a step sums at full strength; inf for no damping.

    Returns:
        The tables, on the default device.
    """
    counts = np.asarray(counts, np.int64)
    keep = keep_probabilities(counts, sample)
    share = counts * keep / np.sum(counts * keep)
    positions = step.streams * step.length
    expected_input = positions * share * (1 if step.architecture == "skip-gram" else 2)
    noise, tree = None, {}
    if step.objective == "negative-sampling":
        weights = counts.astype(np.float64) ** exponent
        noise = alias_table(weights)
        expected_output = positions * (share + step.negatives * weights / weights.sum())
    elif step.objective == "hierarchical-softmax":
        paths = huffman_tree(counts)
        tree = _split_paths(paths)
        visits = np.repeat(share, np.diff(paths.offsets))
        expected_output = positions * np.bincount(paths.nodes, visits, len(counts) - 1)
    else:
        expected_output = positions * 2 * share
    scale = lambda expected: np.minimum(1.0, damping / np.maximum(expected, 1e-30))  # noqa: E731
    tables = Tables(
        keep=threshold(keep),
        input_scale=scale(expected_input).astype(np.float32),
        output_scale=scale(expected_output).astype(np.float32),
        noise=noise,
        **tree,
    )
    return jax.tree.map(jnp.asarray, tables)


def _split_paths(tree: HuffmanTree) -> dict[str, np.ndarray]:
    """Each path's part among the top nodes as bits, and the rest end to end."""
    lengths = np.diff(tree.offsets)
    words = np.repeat(np.arange(len(lengths)), lengths)
    top = tree.nodes < TOP_NODES
    bits = np.zeros((2, len(lengths)), np.uint32)
    values = np.uint32(1) << tree.nodes[top].astype(np.uint32)
    np.bitwise_or.at(bits[0], words[top], values)
    np.bitwise_or.at(bits[1], words[top], np.where(tree.turns[top] == 0, values, np.uint32(0)))
    tail_lengths = np.bincount(words[~top], minlength=len(lengths))
    return {
        "top_bits": bits,
        "tail_offsets": np.concatenate([[0], np.cumsum(tail_lengths)]).astype(np.int32),
        "tail": (2 * tree.nodes + tree.turns)[~top].astype(np.int32),
    }


class Axes(NamedTuple):
    """Names of the mesh axes inside `shard_map`, None where there is but one device.

    Streams are split over `data`, the embedding dimension over `model`.
    """

    data: str | None = None
    model: str | None = None


ONE_DEVICE = Axes()


class _Rows(NamedTuple):
    """Descending gradients of some rows of a table."""

    ids: Int32[Array, "..."]
    values: Float[Array, "... dim"]


class _Objective(NamedTuple):
    """What scoring the predictions gives."""

    gradient: Float[Array, "streams inputs dim"]
    output: Float[Array, "outputs dim"]
    loss: Float[Array, ""]


def train_block(
    params: dict[str, Array],
    tokens: Int32[Array, "block"],
    rates: Float[Array, "2"],
    key: Array,
    tables: Tables,
    *,
    step: Step,
    axes: Axes = ONE_DEVICE,
) -> tuple[dict[str, Array], dict[str, tuple[Array, Array]]]:
    """Trains on one block of raw ids.

    Args:
        params: `input` and `output` tables, [vocab, dim] and [outputs, dim].
        tokens: Raw ids in the order of the text, -1 at the ends of sentences and as padding. The
            block's ends are ends of sentences.
        rates: Learning rate at the start and at the end of the block.
        key: Random key of this block.
        tables: The vocabulary's constants.
        step: The update.
        axes: Mesh axes, when called inside `shard_map`.

    Returns:
        New params, and metrics as (total, count): `loss` in nats over pairs (over centres for
        CBOW), `words` of the raw block.
    """
    tile_positions = step.streams * step.length
    draw_key, noise_key = jax.random.split(key)
    stream = subsample(tokens, tables.keep, draw_key, window=step.window, padding=tile_positions)
    updates = (stream.length + tile_positions - 1) // tile_positions
    noise = jnp.zeros((0,), jnp.int32)
    if tables.noise is not None:
        most = -(-tokens.shape[0] // tile_positions)
        noise = tables.noise.draw(noise_key, (most, step.streams // step.group * step.shared))
    shards = 1 if axes.data is None else jax.lax.axis_size(axes.data)
    shard = 0 if axes.data is None else jax.lax.axis_index(axes.data)
    streams = step.streams // shards
    first = (shard * streams + jnp.arange(streams)) * updates * step.length

    def update(index, carry):
        params, loss, pairs = carry
        tile = cut(
            stream,
            first + index * step.length,
            length=step.length,
            window=step.window,
            by_input=step.architecture == "cbow" or step.objective != "hierarchical-softmax",
        )
        negatives = None
        if tables.noise is not None:
            negatives = noise[index].reshape(shards, -1)[shard]
        rate = rates[0] + (rates[1] - rates[0]) * (index / updates).astype(jnp.float32)
        params, tile_loss, tile_pairs = update_tiles(
            params, tile, negatives, rate, tables, step=step, axes=axes
        )
        return params, loss + tile_loss, pairs + tile_pairs

    start = (params, jnp.float32(0.0), jnp.float32(0.0))
    params, loss, pairs = jax.lax.fori_loop(0, updates, update, start)
    if axes.data is not None:
        loss, pairs = jax.lax.psum((loss, pairs), axes.data)
    words = jnp.sum(tokens >= 0).astype(jnp.float32)
    return params, {"loss": (loss, pairs), "words": (words, jnp.float32(1.0))}


def update_tiles(
    params: dict[str, Array],
    tile: Tile,
    negatives: Int32[Array, "negatives"] | None,
    rate: Float[Array, ""],
    tables: Tables,
    *,
    step: Step,
    axes: Axes = ONE_DEVICE,
) -> tuple[dict[str, Array], Array, Array]:
    """Makes one update from one tile of each stream.

    Returns:
        New params, the summed loss in nats and the number of predictions it sums.
    """
    objective = {
        "negative-sampling": partial(_negative_sampling, negatives=negatives),
        "hierarchical-softmax": _hierarchical_softmax,
        "softmax": _softmax,
    }[step.objective]
    add_output = partial(_add, rate=rate, scale=tables.output_scale, axes=axes)
    score = partial(objective, params["output"], step=step, tables=tables, add=add_output)
    counts = jnp.sum(tile.pairs, axis=-1, dtype=jnp.float32)  # [streams, length]
    if step.architecture == "skip-gram":
        ids, targets = tile.centres, tile.words
        if step.objective == "hierarchical-softmax":
            ids, targets = targets, ids
        scored = score(_take(params["input"], ids), targets, tile.pairs, axes=axes)
        predictions, rows = jnp.sum(counts), scored.gradient
    else:
        ids, present = tile.words, counts > 0
        mask = tile.pairs.astype(jnp.float32)
        contexts = _take(params["input"], ids)
        means = jnp.einsum("stc,scd->std", mask, contexts) / jnp.maximum(counts, 1.0)[..., None]
        scored = score(means, tile.centres, present, axes=axes)
        predictions = jnp.sum(present, dtype=jnp.float32)
        rows = jnp.einsum("stc,std->scd", mask, scored.gradient)  # undivided: see modules.CBOW
    new_input = _add(
        params["input"], [_Rows(ids, rows)], rate=rate, scale=tables.input_scale, axes=axes
    )
    return {"input": new_input, "output": scored.output}, scored.loss, predictions


def _negative_sampling(output, inputs, targets, pairs, *, negatives, step, tables, add, axes):
    """Rows of `inputs` predict columns of `targets` (skip-gram) or one target each (CBOW)."""
    del tables
    by_column = pairs.ndim == 3
    groups, dim = inputs.shape[0] // step.group, inputs.shape[-1]
    grouped = inputs.reshape(groups, -1, dim)
    positives = _take(output, targets)
    noise = _take(output, negatives).reshape(groups, step.shared, dim)
    if by_column:
        logits = jnp.einsum("std,scd->stc", inputs, positives)
        counts = jnp.sum(pairs, axis=-1, dtype=jnp.float32)
    else:
        logits = jnp.sum(inputs * positives, axis=-1)
        counts = pairs.astype(jnp.float32)
    noise_logits = jnp.einsum("gqd,gnd->gqn", grouped, noise)
    logits, noise_logits = _total((logits, noise_logits), axes)
    weights = (step.negatives / step.shared) * counts.reshape(groups, -1, 1)
    errors, noise_errors = jax.nn.sigmoid(-logits), jax.nn.sigmoid(noise_logits)
    loss = jnp.sum(jnp.where(pairs, _softplus(-logits, errors), 0.0))
    loss += jnp.sum(weights * _softplus(noise_logits, noise_errors))
    errors = jnp.where(pairs, errors, 0.0)
    noise_errors = -weights * noise_errors
    gradient = jnp.einsum("gqn,gnd->gqd", noise_errors, noise).reshape(inputs.shape)
    noise_rows = jnp.einsum("gqn,gqd->gnd", noise_errors, grouped)
    if by_column:
        gradient += jnp.einsum("stc,scd->std", errors, positives)
        rows = jnp.einsum("stc,std->scd", errors, inputs)
    else:
        gradient += errors[..., None] * positives
        rows = errors[..., None] * inputs
    output = add(output, [_Rows(targets, rows), _Rows(negatives, noise_rows)])
    return _Objective(gradient, output, loss)


def _softmax(output, inputs, targets, pairs, *, step, tables, add, axes):
    """Rows of `inputs` predict columns of `targets` (skip-gram) or one target each (CBOW)."""
    del step, tables
    if pairs.ndim == 2:
        targets, pairs = targets[..., None], pairs[..., None]
    else:
        targets = jnp.broadcast_to(targets[:, None], pairs.shape)
    rows = inputs.reshape(-1, inputs.shape[-1])
    weights = pairs.reshape(len(rows), -1).astype(jnp.float32)
    labels = jnp.zeros((len(rows), output.shape[0]))
    labels = labels.at[jnp.arange(len(rows))[:, None], targets.reshape(weights.shape)].add(weights)
    log_probabilities = jax.nn.log_softmax(_total(rows @ output.T, axes))
    errors = labels - jnp.sum(labels, axis=-1, keepdims=True) * jnp.exp(log_probabilities)
    gradient = (errors @ output).reshape(inputs.shape)
    output = add(output, [_Rows(jnp.arange(output.shape[0]), errors.T @ rows)])
    return _Objective(gradient, output, -jnp.sum(labels * log_probabilities))


def _hierarchical_softmax(output, inputs, targets, pairs, *, step, tables, add, axes):
    """Columns of `inputs` predict rows of `targets` (skip-gram) or each its own (CBOW).

    The paths below the top nodes are laid end to end, a tile's after one another, and handled
    `step.slots` nodes at a time. Tiles of mostly common words need one pass; further passes see
    the output rows that the passes before have changed.
    """
    if pairs.ndim == 2:
        pairs = pairs[..., None] & jnp.eye(pairs.shape[1], dtype=bool)[None]
    gradient, output, loss = _top_nodes(output, inputs, targets, pairs, tables, add, axes)
    starts = _take(tables.tail_offsets, targets)
    lengths = _take(tables.tail_offsets, targets + 1) - starts
    ends = jnp.cumsum(jnp.where(jnp.any(pairs, axis=-1), lengths, 0), axis=-1)
    shifts = starts - jnp.pad(ends, ((0, 0), (1, 0)))[:, :-1]  # slot + shift is the tail's entry
    passes = (jnp.max(ends[:, -1]) + step.slots - 1) // step.slots
    if axes.data is not None:
        passes = jax.lax.pmax(passes, axes.data)

    def one_pass(index, carry):
        gradient, output, loss = carry
        slots = index * step.slots + jnp.arange(step.slots)
        owners = jnp.sum(ends[:, None, :] <= slots[None, :, None], axis=-1)  # [streams, slots]
        used = owners < targets.shape[1]
        owners = jnp.minimum(owners, targets.shape[1] - 1)
        entries = jnp.take_along_axis(shifts, owners, axis=1) + slots[None]
        path = _take(tables.tail, jnp.where(used, entries, 0))
        ids, left = path >> 1, ((path & 1) == 0)[..., None]
        nodes = _take(output, ids)
        logits = _total(jnp.einsum("snd,scd->snc", nodes, inputs), axes)
        active = jax.vmap(lambda mask, rows: mask[rows])(pairs, owners) & used[..., None]
        signed = jnp.where(left, -logits, logits)
        wrong = jax.nn.sigmoid(signed)
        loss += jnp.sum(jnp.where(active, _softplus(signed, wrong), 0.0))
        errors = jnp.where(active, jnp.where(left, wrong, -wrong), 0.0)
        gradient += jnp.einsum("snc,snd->scd", errors, nodes)
        output = add(output, [_Rows(ids, jnp.einsum("snc,scd->snd", errors, inputs))])
        return gradient, output, loss

    return _Objective(*jax.lax.fori_loop(0, passes, one_pass, (gradient, output, loss)))


def _top_nodes(output, inputs, targets, pairs, tables, add, axes):
    """The part of every path among the top nodes: one dense product for all of them."""
    size = min(TOP_NODES, output.shape[0])
    nodes = output[:size]
    bits = jnp.arange(size, dtype=jnp.uint32)
    on_path, left = (
        ((_take(table, targets)[..., None] >> bits[None, None]) & 1).astype(jnp.float32)
        for table in tables.top_bits
    )
    mask = pairs.astype(jnp.float32)
    visits = jnp.einsum("stc,stn->scn", mask, on_path)
    lefts = jnp.einsum("stc,stn->scn", mask, left)
    logits = _total(jnp.einsum("scd,nd->scn", inputs, nodes), axes)
    right = jax.nn.sigmoid(logits)
    loss = jnp.sum(visits * _softplus(logits, right) - lefts * logits)
    errors = lefts - visits * right
    gradient = jnp.einsum("scn,nd->scd", errors, nodes)
    rows = jnp.einsum("scn,scd->nd", errors, inputs)
    return gradient, add(output, [_Rows(jnp.arange(size), rows)]), loss


def _take(table: Array, ids: Int[Array, "..."]) -> Array:
    return table.at[ids].get(mode="promise_in_bounds")


def _softplus(logits: Array, sigmoids: Array) -> Array:
    """log(1 + exp(logits)) from sigmoids that the gradient needs anyway: one log, never inf."""
    return jnp.maximum(logits, 0.0) - jnp.log(jnp.maximum(sigmoids, 1.0 - sigmoids))


def _total(scores, axes: Axes):
    """Sums the parts of the scores that lie on the shards of the dimension."""
    return scores if axes.model is None else jax.lax.psum(scores, axes.model)


def _add(table, parts: list[_Rows], *, rate, scale, axes: Axes) -> Array:
    """Adds rate * scale * rows to a table by one scatter."""
    ids = jnp.concatenate([part.ids.reshape(-1) for part in parts])
    rows = jnp.concatenate([part.values.reshape(-1, table.shape[1]) for part in parts])
    rows = rows * (rate * _take(scale, ids))[:, None]
    if axes.data is not None:
        ids, rows = jax.lax.all_gather((ids, rows), axes.data, tiled=True)
    return table.at[ids].add(rows, mode="promise_in_bounds")
