"""The row-sparse training step of word2vec: many small updates of two tables, compiled as one loop.

A block of raw ids is subsampled and cut into parallel streams. An update takes a few consecutive
positions of each stream, its tiles, and changes only the rows that they touch: all pairs of a tile
are one masked matrix product, negatives are shared by the tiles of neighbouring streams, and each
table is gathered from and scattered to once. `SkipGram` and `CBOW` define the same update by
autodiff; the tests hold the two together.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, UInt32

from jaxembed.models.word2vec.config import PARTS, Step
from jaxembed.models.word2vec.stream import Tile, cut, subsample
from jaxembed.models.word2vec.tables import TOP_NODES, Tables

_BITS = np.arange(32, dtype=np.uint32)


class Axes(NamedTuple):
    """Names of the mesh axes inside `shard_map`, None where there is but one device.

    Streams are split over `data`, the embedding dimension over `model`.
    """

    data: str | None = None
    model: str | None = None


ONE_DEVICE = Axes()


class _Rows(NamedTuple):
    """What is to be added to some rows of a table: descending gradients times their rates."""

    ids: Int32[Array, "..."]
    values: Float[Array, "... dim"]


class _Part(NamedTuple):
    """Inputs and what they shall predict, of some of the streams.

    For negative sampling and softmax, `pairs` says which column of `targets` each row of
    `inputs` predicts; for the tree, which column of `inputs` predicts each row of `targets`.
    Without columns (CBOW) each row has the one target beside it. `input_rates` scale the
    gradients of the inputs; None where these are no rows of a table.
    """

    inputs: Float[Array, "streams inputs dim"]
    targets: Int32[Array, "streams targets"]
    pairs: Bool[Array, "streams length columns"] | Bool[Array, "streams length"]
    negatives: Int32[Array, "negatives"] | None
    input_rates: Float[Array, "streams inputs"] | None


class _Scored(NamedTuple):
    """What scoring gives: scaled gradients of each part's inputs, the new table, the loss."""

    gradients: list[Float[Array, "streams inputs dim"]]
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
        New params, and metrics as (total, count): `loss` in nats over the pairs (centres for
        CBOW) of one in `step.loss_every` updates, `words` of the raw block.
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
    span = updates * step.length  # positions of a stream
    first = (shard * streams + jnp.arange(streams)) * span
    is_tree = step.objective == "hierarchical-softmax"

    def tile_at(taken):
        by_input = step.architecture == "cbow" or not is_tree
        return cut(stream, first + taken, length=step.length, window=step.window, by_input=by_input)

    def update(totals, tile, index, progress, is_last):
        params, loss, pairs = totals
        negatives = None
        if tables.noise is not None:
            negatives = noise[index].reshape(shards, -1)[shard]
        rate = rates[0] + (rates[1] - rates[0]) * progress
        # The last one shows if an update before it diverged.
        is_measured = (index % step.loss_every == 0) | is_last
        params, tile_loss, tile_pairs = update_tiles(
            params, tile, negatives, rate, tables, is_measured, step=step, axes=axes
        )
        return params, loss + tile_loss, pairs + jnp.where(is_measured, tile_pairs, 0.0)

    def update_at_one_pace(index, totals):
        progress = (index / updates).astype(jnp.float32)
        return update(totals, tile_at(index * step.length), index, progress, index == updates - 1)

    def update_at_own_pace(carry):
        totals, index, taken, taken_by_all = carry
        progress = (taken_by_all / (step.streams * span)).astype(jnp.float32)
        tile, count = _fit(tile_at(taken), span - taken, tables, step)
        taken = taken + count
        taken_by_all = jnp.sum(taken)
        if axes.data is not None:
            taken_by_all = jax.lax.psum(taken_by_all, axes.data)
        is_last = taken_by_all == step.streams * span
        return update(totals, tile, index, progress, is_last), index + 1, taken, taken_by_all

    totals, none = (params, jnp.float32(0.0), jnp.float32(0.0)), jnp.int32(0)
    if is_tree:
        carry = totals, none, jnp.zeros(streams, jnp.int32), none
        totals, *_ = jax.lax.while_loop(
            lambda carry: carry[-1] < step.streams * span, update_at_own_pace, carry
        )
    else:
        totals = jax.lax.fori_loop(0, updates, update_at_one_pace, totals)
    params, loss, pairs = totals
    if axes.data is not None:
        loss, pairs = jax.lax.psum((loss, pairs), axes.data)
    words = jnp.sum(tokens >= 0).astype(jnp.float32)
    return params, {"loss": (loss, pairs), "words": (words, jnp.float32(1.0))}


def _fit(
    tile: Tile, left: Int32[Array, "streams"], tables: Tables, step: Step
) -> tuple[Tile, Int32[Array, "streams"]]:
    """Leaves of each tile as many positions as have room in `step.slots`, but one in any case.

    Paths differ in length, so streams run through the text at their own pace: the slots are full,
    where an equal pace would leave every stream to wait for the one with the longest paths.
    """
    ends = jnp.cumsum(_tail_lengths(tile.centres, jnp.any(tile.pairs, axis=-1), tables), axis=-1)
    count = jnp.maximum(jnp.sum(ends <= step.slots, axis=-1), 1)
    count = jnp.minimum(count, left)
    is_taken = jnp.arange(step.length)[None] < count[:, None]
    return tile._replace(pairs=tile.pairs & is_taken[..., None]), count


def _tail_lengths(targets, is_used, tables: Tables) -> Int32[Array, "streams targets"]:
    """Nodes below the top ones on each target's path."""
    starts = _take(tables.tail_offsets, targets)
    return jnp.where(is_used, _take(tables.tail_offsets, targets + 1) - starts, 0)


def update_tiles(
    params: dict[str, Array],
    tile: Tile,
    negatives: Int32[Array, "negatives"] | None,
    rate: Float[Array, ""],
    tables: Tables,
    is_measured: Bool[Array, ""],
    *,
    step: Step,
    axes: Axes = ONE_DEVICE,
) -> tuple[dict[str, Array], Array, Array]:
    """Makes one update from one tile of each stream.

    Returns:
        New params, the summed loss in nats, 0 where it is not measured, and the number of
        predictions.
    """
    objective = {
        "negative-sampling": _negative_sampling,
        "hierarchical-softmax": _hierarchical_softmax,
        "softmax": _softmax,
    }[step.objective]
    # Rates enter the small matrices of errors: scaling the rows would be one more pass over them.
    rates = lambda scale, ids: rate * _take(scale, ids)  # noqa: E731
    pieces = _split(tile, negatives, step)
    is_tree = step.objective == "hierarchical-softmax"
    if step.architecture == "skip-gram":
        ids = [piece.words if is_tree else piece.centres for piece, _ in pieces]
        parts = [
            _Part(
                _take(params["input"], rows),
                piece.centres if is_tree else piece.words,
                piece.pairs,
                noise,
                rates(tables.input_scale, rows),
            )
            for rows, (piece, noise) in zip(ids, pieces, strict=True)
        ]
        predictions = jnp.sum(tile.pairs, dtype=jnp.float32)
    else:
        ids = [piece.words for piece, _ in pieces]
        masks = [piece.pairs.astype(jnp.float32) for piece, _ in pieces]
        counts = [jnp.sum(mask, axis=-1) for mask in masks]
        parts = [
            _Part(
                jnp.einsum("stc,scd->std", mask, _take(params["input"], piece.words))
                / jnp.maximum(count, 1.0)[..., None],
                piece.centres,
                count > 0,
                noise,
                None,
            )
            for mask, count, (piece, noise) in zip(masks, counts, pieces, strict=True)
        ]
        predictions = sum(jnp.sum(count > 0, dtype=jnp.float32) for count in counts)
    scored = objective(
        params["output"],
        parts,
        step=step,
        tables=tables,
        rates=partial(rates, tables.output_scale),
        measure=partial(_measure, is_measured),
        axes=axes,
    )
    gradients = scored.gradients
    if step.architecture == "cbow":  # undivided: see modules.CBOW
        gradients = [
            jnp.einsum(
                "sct,std->scd",
                _transposed(mask * rates(tables.input_scale, rows)[:, None]),
                gradient,
            )
            for mask, rows, gradient in zip(masks, ids, gradients, strict=True)
        ]
    rows = [_Rows(*pair) for pair in zip(ids, gradients, strict=True)]
    new_input = _add(params["input"], rows, axes)
    return {"input": new_input, "output": scored.output}, scored.loss, predictions


def _split(tile: Tile, negatives: Array | None, step: Step) -> list[tuple[Tile, Array | None]]:
    """Divides the streams into parts that do not depend on one another.

    XLA's CPU runs a batched product on one core: independent chains of them fill several, and
    four keep two cores busier than two do.
    """
    streams = tile.words.shape[0]
    parts = PARTS if streams % (PARTS * step.group) == 0 else 1
    noise = [None] * parts if negatives is None else jnp.split(negatives, parts)
    pieces = zip(*(jnp.split(leaf, parts) for leaf in tile), strict=True)
    return [(Tile(*piece), drawn) for piece, drawn in zip(pieces, noise, strict=True)]


def _negative_sampling(
    output, parts: list[_Part], *, step, tables, rates, measure, axes
) -> _Scored:
    del tables
    scored = [_score_against_noise(output, part, step, rates, measure, axes) for part in parts]
    gradients, rows, losses = zip(*scored, strict=True)
    return _Scored(
        list(gradients), _add(output, [row for pair in rows for row in pair], axes), sum(losses)
    )


def _score_against_noise(output, part: _Part, step, rates, measure, axes):
    """Gradient of the inputs, gradients of output rows, and loss of one part."""
    inputs, targets, pairs, negatives, input_rates = part
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
    loss = measure(
        lambda: (
            jnp.sum(jnp.where(pairs, _softplus(-logits, errors), 0.0))
            + jnp.sum(weights * _softplus(noise_logits, noise_errors))
        )
    )
    errors = jnp.where(pairs, errors, 0.0)
    noise_errors = -weights * noise_errors
    noise_rates = rates(negatives).reshape(groups, 1, step.shared)
    noise_rows = jnp.einsum("gnq,gqd->gnd", _transposed(noise_errors * noise_rates), grouped)
    target_rates = rates(targets)
    if by_column:
        rows = jnp.einsum("sct,std->scd", _transposed(errors * target_rates[:, None]), inputs)
    else:
        rows = (errors * target_rates)[..., None] * inputs
    if input_rates is not None:
        errors = errors * input_rates[..., None]
        noise_errors = noise_errors * input_rates.reshape(groups, -1, 1)
    gradient = jnp.einsum("gqn,gnd->gqd", noise_errors, noise).reshape(inputs.shape)
    if by_column:
        gradient += jnp.einsum("stc,scd->std", errors, positives)
    else:
        gradient += errors[..., None] * positives
    return gradient, [_Rows(targets, rows), _Rows(negatives, noise_rows)], loss


def _softmax(output, parts: list[_Part], *, step, tables, rates, measure, axes) -> _Scored:
    del step, tables
    gradients, errors_of_rows, loss = [], 0.0, 0.0
    for inputs, targets, pairs, _, input_rates in parts:
        if pairs.ndim == 2:
            targets, pairs = targets[..., None], pairs[..., None]
        else:
            targets = jnp.broadcast_to(targets[:, None], pairs.shape)
        rows = inputs.reshape(-1, inputs.shape[-1])
        weights = pairs.reshape(len(rows), -1).astype(jnp.float32)
        places = (jnp.arange(len(rows))[:, None], targets.reshape(weights.shape))
        labels = jnp.zeros((len(rows), output.shape[0])).at[places].add(weights)
        log_probabilities = jax.nn.log_softmax(_total(rows @ output.T, axes))
        errors = labels - jnp.sum(labels, axis=-1, keepdims=True) * jnp.exp(log_probabilities)
        gradient = (errors @ output).reshape(inputs.shape)
        gradients.append(gradient if input_rates is None else gradient * input_rates[..., None])
        errors_of_rows += errors.T @ rows
        loss += measure(lambda: -jnp.sum(labels * log_probabilities))  # noqa: B023
    ids = jnp.arange(output.shape[0])
    output = _add(output, [_Rows(ids, errors_of_rows * rates(ids)[:, None])], axes)
    return _Scored(gradients, output, loss)


def _hierarchical_softmax(
    output, parts: list[_Part], *, step, tables, rates, measure, axes
) -> _Scored:
    """Scores along the tree, the top nodes first.

    The paths below the top nodes are laid end to end, a tile's after one another, and handled
    `step.slots` nodes at a time. One pass is enough unless a single path is longer, see `_fit`;
    further passes see the output rows that the passes before have changed.
    """
    parts = [
        part
        if part.pairs.ndim == 3
        else part._replace(
            pairs=part.pairs[..., None] & jnp.eye(part.pairs.shape[1], dtype=bool)[None]
        )
        for part in parts
    ]
    gradients, rows, losses = zip(
        *(_top_nodes(output, part, tables, rates, measure, axes) for part in parts), strict=True
    )
    output = _add(output, [_Rows(rows[0].ids, sum(row.values for row in rows))], axes)
    tails = [_lay_tails(part, tables) for part in parts]
    longest = jnp.max(jnp.stack([jnp.max(ends[:, -1]) for ends, *_ in tails]))
    passes = (longest + step.slots - 1) // step.slots
    if axes.data is not None:
        passes = jax.lax.pmax(passes, axes.data)

    def one_pass(index, carry):
        gradients, output, loss = carry
        slots = index * step.slots + jnp.arange(step.slots)
        scored = [
            _tail_nodes(output, part, tail, slots, tables, rates, measure, axes)
            for part, tail in zip(parts, tails, strict=True)
        ]
        more, rows, losses = zip(*scored, strict=True)
        gradients = [sum(pair) for pair in zip(gradients, more, strict=True)]
        return gradients, _add(output, list(rows), axes), loss + sum(losses)

    start = (list(gradients), output, sum(losses))
    return _Scored(*jax.lax.fori_loop(0, passes, one_pass, start))


def _lay_tails(part: _Part, tables: Tables) -> tuple[Array, Array, Array]:
    """For each target: the end of its slots, its shift from slot to entry, its pairs as bits."""
    starts = _take(tables.tail_offsets, part.targets)
    lengths = _tail_lengths(part.targets, jnp.any(part.pairs, axis=-1), tables)
    ends = jnp.cumsum(lengths, axis=-1)
    return ends, starts - jnp.pad(ends, ((0, 0), (1, 0)))[:, :-1], _pack(part.pairs)


def _tail_nodes(output, part: _Part, tail, slots, tables, rates, measure, axes):
    """Gradient of the inputs, gradients of output rows, and loss at some slots."""
    inputs, targets, pairs, _, input_rates = part
    ends, shifts, packed = tail
    owners = jnp.sum(ends[:, None, :] <= slots[None, :, None], axis=-1)  # [streams, slots]
    used = owners < targets.shape[1]
    owners = jnp.minimum(owners, targets.shape[1] - 1)
    entries = jnp.take_along_axis(shifts, owners, axis=1) + slots[None]
    path = _take(tables.tail, jnp.where(used, entries, 0))
    ids, sign = path >> 1, (1 - 2 * (path & 1)).astype(jnp.float32)[:, None]
    nodes = _take(output, ids)
    logits = _total(jnp.einsum("scd,snd->scn", inputs, nodes), axes)
    mine = jnp.take_along_axis(packed, owners[..., None], axis=1)  # [streams, slots, words]
    active = _unpack(jnp.where(used[..., None], mine, 0), pairs.shape[2])
    signed = -sign * logits
    wrong = jax.nn.sigmoid(signed)
    loss = measure(lambda: jnp.sum(active * _softplus(signed, wrong)))
    errors = active * sign * wrong
    rows = jnp.einsum("snc,scd->snd", _transposed(errors * rates(ids)[:, None]), inputs)
    if input_rates is not None:
        errors = errors * input_rates[..., None]
    gradient = jnp.einsum("scn,snd->scd", errors, nodes)
    return gradient, _Rows(ids, rows), loss


def _top_nodes(output, part: _Part, tables, rates, measure, axes):
    """The part of every path among the top nodes: one dense product for all of them."""
    inputs, targets, pairs, _, input_rates = part
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
    loss = measure(lambda: jnp.sum(visits * _softplus(logits, right) - lefts * logits))
    errors = lefts - visits * right
    ids = jnp.arange(size)
    rows = jnp.einsum("scn,scd->nd", errors, inputs) * rates(ids)[:, None]
    if input_rates is not None:
        errors = errors * input_rates[..., None]
    gradient = jnp.einsum("scn,nd->scd", errors, nodes)
    return gradient, _Rows(ids, rows), loss


def _pack(pairs: Bool[Array, "streams rows columns"]) -> UInt32[Array, "streams rows words"]:
    """Each row's columns as bits of 32-bit words, which are quicker to look up than rows."""
    padding = -pairs.shape[2] % 32
    bits = jnp.pad(pairs, ((0, 0), (0, 0), (0, padding))).astype(jnp.uint32)
    bits = (
        bits.reshape(*pairs.shape[:2], -1, 32) << jnp.arange(32, dtype=jnp.uint32)[None, None, None]
    )
    return jnp.sum(bits, axis=-1, dtype=jnp.uint32)


def _unpack(
    packed: UInt32[Array, "streams rows words"], columns: int
) -> Float[Array, "streams columns rows"]:
    """What `_pack` packed, as 0 and 1, its last two axes swapped."""
    words = jnp.swapaxes(packed, 1, 2)
    bits = (words[:, :, None] >> _BITS[None, None, :, None]) & 1  # [streams, words, 32, rows]
    bits = bits.reshape(len(packed), -1, packed.shape[1])
    return bits[:, :columns].astype(jnp.float32)


def _transposed(scores: Array) -> Array:
    """Swaps the last two axes in memory: XLA's CPU is slow where it contracts the first of them."""
    return jax.lax.optimization_barrier(jnp.swapaxes(scores, 1, 2))


def _measure(is_measured, loss) -> Array:
    """A loss costs a third of an update: it is computed only where it is asked for."""
    return jax.lax.cond(is_measured, loss, lambda: jnp.float32(0.0))


def _take(table: Array, ids: Int[Array, "..."]) -> Array:
    return table.at[ids].get(mode="promise_in_bounds")


def _softplus(logits: Array, sigmoids: Array) -> Array:
    """log(1 + exp(logits)) from sigmoids that the gradient needs anyway: one log, never inf."""
    return jnp.maximum(logits, 0.0) - jnp.log(jnp.maximum(sigmoids, 1.0 - sigmoids))


def _total(scores, axes: Axes):
    """Sums the parts of the scores that lie on the shards of the dimension."""
    return scores if axes.model is None else jax.lax.psum(scores, axes.model)


def _add(table, parts: list[_Rows], axes: Axes) -> Array:
    """Adds rows to a table by one scatter."""
    ids = jnp.concatenate([part.ids.reshape(-1) for part in parts])
    rows = jnp.concatenate([part.values.reshape(-1, table.shape[1]) for part in parts])
    if axes.data is not None:
        ids, rows = jax.lax.all_gather((ids, rows), axes.data, tiled=True)
    return table.at[ids].add(rows, mode="promise_in_bounds")
