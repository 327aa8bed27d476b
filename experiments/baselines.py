"""What a trained retrieval has to beat: nearest neighbours of pixels, and BM25."""

import dataclasses
from typing import Literal

import numpy as np
from PIL import Image

from jaxembed.data import CaptionedImages, RetrievalSet
from jaxembed.metrics import (
    BM25,
    average_precision_at_k,
    mrr,
    ndcg_at_k,
    rank,
    recall_at_k,
)
from jaxembed.search import ExactIndex

_LOOKED_AT = 64  # nearest images, of which several may have the same name


def nearest_pixels(
    train: CaptionedImages,
    names: tuple[str, ...],
    asked: RetrievalSet,
    *,
    k: int = 10,
    metric: Literal["cosine", "euclidean"] = "cosine",
    batch_size: int = 256,
) -> np.ndarray:
    """Gives each image the names of the training images whose pixels are nearest.

    Args:
        train: Images with known names.
        names: The name of each of their ids.
        asked: Images as queries and names as candidates.
        k: How many names a query.
        metric: How pixels are compared.
        batch_size: Queries searched for at once.

    Returns:
        Numbers of candidates, int32 [queries, k], nearest first; -1 where there are fewer.
    """
    places = {name: place for place, name in enumerate(asked.candidates)}
    known = np.array([places.get(names[number], -1) for number in train.ids], np.int32)
    index = ExactIndex.build(_flatten(train.pixels), metric=metric)
    rows = []
    for start in range(0, len(asked), batch_size):
        batch = asked.queries[start : start + batch_size]
        missing = batch_size - len(batch)  # one shape, one compilation
        queries = np.pad(_flatten(batch), ((0, missing), (0, 0)))
        _, ids = index.search(queries, min(_LOOKED_AT, index.size))
        for near in known[np.asarray(ids)[: len(batch)]]:
            distinct = list(dict.fromkeys(near[near >= 0].tolist()))[:k]
            rows.append(distinct + [-1] * (k - len(distinct)))
    return np.array(rows, np.int32)


def crop_ink(images: CaptionedImages) -> CaptionedImages:
    """Scales what is drawn on black to the whole image, so that place and size do not count.

    Args:
        images: Images, 0 where nothing is drawn.

    Returns:
        The same, scaled.
    """
    _, height, width, channels = images.pixels.shape
    scaled = []
    for pixels in images.pixels:
        rows, columns = (np.flatnonzero(pixels.any(axis=(other, 2))) for other in (1, 0))
        box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        colours = [Image.fromarray(box[..., i]).resize((width, height)) for i in range(channels)]
        scaled.append(np.stack([np.asarray(colour) for colour in colours], axis=-1))
    return dataclasses.replace(images, pixels=np.stack(scaled))


def rank_by_words(asked: RetrievalSet, k: int = 100) -> np.ndarray:
    """Ranks the candidates of texts by BM25.

    Args:
        asked: Texts as queries and candidates.
        k: How many candidates a query.

    Returns:
        Numbers of candidates, int32 [queries, k], best first; -1 where there are fewer.
    """
    scores = BM25.build(asked.candidates).scores(asked.queries)
    return rank(scores, k, pools=asked.pools)


def judge(found: np.ndarray, asked: RetrievalSet) -> dict[str, float]:
    """Measures what was found.

    Args:
        found: Numbers of candidates, [queries, k], best first; -1 where there are fewer.
        asked: What is right.

    Returns:
        Means over the queries by name.
    """
    graded = {"gains": asked.gains}
    values = {
        "recall_at_1": recall_at_k(found, asked.relevant, 1),
        "recall_at_5": recall_at_k(found, asked.relevant, 5),
        "recall_at_10": recall_at_k(found, asked.relevant, 10),
        "mrr": mrr(found, asked.relevant),
        "map": average_precision_at_k(found, asked.relevant),
        "ndcg_at_10": ndcg_at_k(found, asked.relevant, 10),
        "graded_ndcg_at_10": ndcg_at_k(found, asked.relevant, 10, **graded),
    }
    return {name: round(float(np.mean(value)), 4) for name, value in values.items()}


def _flatten(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)
