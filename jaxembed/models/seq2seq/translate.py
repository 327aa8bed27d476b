"""From sources to targets by beam search."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxembed.decoding import Decoded, Stop, beam_search
from jaxembed.models.seq2seq.recurrent import Seq2Seq
from jaxembed.models.seq2seq.transformer import TransformerSeq2Seq


def translate(
    model: Seq2Seq | TransformerSeq2Seq,
    params: PyTree,
    source: Int[Array, "batch length"],
    source_lengths: Int[Array, "batch"],
    *,
    bos_id: int,
    eos_id: int,
    max_len: int,
    beam_size: int = 1,
    length_penalty: str = "none",
    stop: Stop = "exact",
    n_best: int | None = 1,
    max_lens: Int[Array, "batch"] | None = None,
    min_len: int = 0,
    forbidden: Sequence[int] | None = None,
) -> Decoded:
    """Encodes a batch and searches for its targets; for `jax.jit`, with `model` and options static.

    Args:
        model: An encoder-decoder.
        params: Its parameters.
        source: Token ids, padded behind.
        source_lengths: Real tokens of each; 0 for a row that is padding.
        bos_id: Token the decoder starts from.
        eos_id: Token that ends a target.
        max_len: Longest target, EOS counted.
        beam_size: Live beginnings an item; 1 is greedy search.
        length_penalty: As in `beam_search`.
        stop: As in `beam_search`.
        n_best: How many targets to return; None for `beam_size`.
        max_lens: As in `beam_search`; where None, a row without a source gets no target.
        min_len: As in `beam_search`.
        forbidden: As in `beam_search`; PAD, BOS and the unknown token, say.

    Returns:
        The best targets of each item.
    """
    variables = {"params": params}
    if max_lens is None:
        max_lens = jnp.where(source_lengths > 0, max_len, 0)
    cache, context = model.apply(
        variables, source, source_lengths, max_len=max_len, beam_size=beam_size, method="encode"
    )

    def step(tokens, cache, context):
        return model.apply(variables, tokens, cache, context, method="decode_step")

    return beam_search(
        step,
        cache,
        context=context,
        batch_size=source.shape[0],
        beam_size=beam_size,
        bos_id=bos_id,
        eos_id=eos_id,
        max_len=max_len,
        length_penalty=length_penalty,
        stop=stop,
        n_best=n_best,
        max_lens=max_lens,
        min_len=min_len,
        forbidden=forbidden,
    )
