"""Texts and images through an encoder, in few shapes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxembed.data import TextTokenizer, bucket_batches, choose_lengths

AT_ONCE = 256


def pad_texts(
    tokenizer: TextTokenizer, texts: Sequence[str], max_length: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ids in one shape.

    Args:
        tokenizer: Makes ids of texts.
        texts: The texts.
        max_length: Longest, in tokens; longer ones are cut.

    Returns:
        Ids [texts, longest] padded behind, lengths [texts], and how many texts were cut.
    """
    encoded = tokenizer.encode(texts, max_length=max_length)
    lengths = np.array([len(one) for one in encoded], np.int32)
    ids = np.zeros((len(encoded), int(lengths.max())), np.int32)
    for row, one in zip(ids, encoded, strict=True):
        row[: len(one)] = one.ids
    return ids, lengths, sum(one.cut > 0 for one in encoded)


def encode_objects(
    encode: Callable[..., Any],
    objects: Sequence[str] | np.ndarray,
    tokenizer: TextTokenizer | None,
    max_length: int,
) -> np.ndarray:
    """Encodes texts or images batch by batch, in at most 8 shapes.

    Args:
        encode: Compiled; takes ids and lengths, or pixels.
        objects: Texts, or images in an array.
        tokenizer: Of texts; None for images.
        max_length: Longest text in tokens.

    Returns:
        Float32 vectors in the order of the objects.
    """
    size = min(AT_ONCE, len(objects))
    if tokenizer is None:
        parts = []
        for start in range(0, len(objects), size):
            part = objects[start : start + size]
            padding = [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1)
            parts.append(np.asarray(encode(np.pad(part, padding)))[: len(part)])
        return np.concatenate(parts).astype(np.float32)
    sequences = [one.ids.tolist() for one in tokenizer.encode(list(objects), max_length=max_length)]
    shapes = choose_lengths(map(len, sequences))
    vectors: np.ndarray | None = None
    for bucket in bucket_batches(sequences, shapes, size):
        found = np.asarray(encode(bucket.ids, bucket.lengths), np.float32)
        if vectors is None:
            vectors = np.zeros((len(objects), found.shape[1]), np.float32)
        is_real = bucket.places >= 0
        vectors[bucket.places[is_real]] = found[is_real]
    return vectors
