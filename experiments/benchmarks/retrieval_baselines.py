"""Measures what trained retrieval is set beside: pixel nearest neighbours and BM25.

python -m experiments.benchmarks.retrieval_baselines glyphs PATH/images/emoji
python -m experiments.benchmarks.retrieval_baselines PATH/sts/trecqa-wang docstring-pairs
"""

import dataclasses
import pathlib
import sys

from experiments.baselines import crop_ink, judge, nearest_pixels, rank_by_words
from experiments.benchmarks.record import record
from jaxembed.data import ImageCaptions, TextPairs, load_captions, load_text_pairs


def measure(source: str) -> None:
    about = {"data": source if "/" not in source else f"PATH/{pathlib.Path(source).name}"}
    if source == "glyphs" or "images" in pathlib.Path(source).parts:
        channels = 1 if source == "glyphs" else 3
        splits = load_captions(ImageCaptions(source, channels=channels, size=32, on_bad="skip"))
        for test in splits.tests:
            _measure_pixels(about | {"test": test}, splits, test, ("cosine", "euclidean"))
        if source == "glyphs":
            tests = {name: crop_ink(images) for name, images in splits.tests.items()}
            cropped = dataclasses.replace(splits, train=crop_ink(splits.train), tests=tests)
            for test in tests:
                _measure_pixels(
                    about | {"test": test, "ink": "cropped"}, cropped, test, ("cosine",)
                )
        return
    for test, asked in load_text_pairs(TextPairs(source, on_bad="skip")).tests.items():
        shape = {"queries": len(asked), "candidates": len(asked.candidates)}
        row = about | {"test": test, "baseline": "BM25, k1 1.2, b .75"} | shape
        record("retrieval_baselines", row | judge(rank_by_words(asked), asked))


def _measure_pixels(about, splits, test, metrics) -> None:
    asked = splits.retrieval(test)
    for metric in metrics:
        found = nearest_pixels(splits.train, splits.names[test], asked, metric=metric)
        shape = {"queries": len(asked), "candidates": len(asked.candidates)}
        row = about | {"baseline": f"pixels, {metric}"} | shape
        record("retrieval_baselines", row | judge(found, asked))


if __name__ == "__main__":
    for named in sys.argv[1:]:
        measure(named)
