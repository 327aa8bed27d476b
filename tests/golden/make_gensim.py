"""Writes the golden files of gensim: `python tests/golden/make_gensim.py` (gensim 4.4.0).

Forty words in several cases and scripts, with planted analogies, as gensim writes them in word2vec
binary and text, and gensim's own scores on questions and pairs about them.
"""

import json
import pathlib

import gensim
import numpy as np
from gensim.models import KeyedVectors

HERE = pathlib.Path(__file__).parent
DIM = 8


def make_vectors() -> KeyedVectors:
    """Capitals near their country plus one shift, plurals likewise, and unrelated words."""
    random = np.random.default_rng(0)
    countries = ["France", "Japan", "Peru", "Norway", "Kenya", "Österreich"]
    capitals = ["Paris", "Tokyo", "Lima", "Oslo", "Nairobi", "Wien"]
    singular = ["cat", "dog", "house", "tree", "idea"]
    plural = ["cats", "dogs", "houses", "trees", "ideas"]
    others = ["PARIS", "paris", "Cat", "the", "of", "東京", "naïve", "a_b", "zero", "peru"]
    keys, rows = [], []
    for left, right in ((countries, capitals), (singular, plural)):
        shift = random.standard_normal(DIM)
        base = random.standard_normal((len(left), DIM))
        keys += [*left, *right]
        rows += [*base, *(base + shift + 0.7 * random.standard_normal(base.shape))]
    keys += others
    rows += [*random.standard_normal((len(others), DIM))]
    vectors = KeyedVectors(DIM)
    vectors.add_vectors(keys, np.asarray(rows, np.float32))
    return vectors


def make_questions(vectors: KeyedVectors) -> str:
    """Every pair of pairs, some of them in other case or with an unknown word."""
    keys = vectors.index_to_key
    lines = []
    for name, start, size in (("capitals", 0, 6), ("gram-plural", 12, 5)):
        lines.append(f": {name}")
        pairs = [(keys[start + i], keys[start + size + i]) for i in range(size)]
        lines += [" ".join((*one, *two)) for one in pairs for two in pairs if one != two]
    lines += [": gram-unknown", "cat cats wug wugs", "CAT cats Dog DOGS"]
    return "\n".join(lines) + "\n"


def make_pairs(vectors: KeyedVectors) -> str:
    """Pairs with scores, one of them unknown."""
    random = np.random.default_rng(1)
    lines = ["# word1\tword2\tscore", "wug\tcat\t3.5"]
    for left, right in random.choice(vectors.index_to_key, (20, 2)):
        lines.append(f"{left}\t{right}\t{random.uniform(0, 10):.2f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes all golden files beside this script."""
    vectors = make_vectors()
    vectors.save_word2vec_format(HERE / "gensim_vectors.bin", binary=True)
    vectors.save_word2vec_format(HERE / "gensim_vectors.txt", binary=False)
    questions, pairs = HERE / "gensim_questions.txt", HERE / "gensim_pairs.tsv"
    questions.write_text(make_questions(vectors), encoding="utf-8")
    pairs.write_text(make_pairs(vectors), encoding="utf-8")
    results = {"gensim": gensim.__version__, "analogies": [], "pairs": []}
    for case_insensitive in (True, False):
        for dummy in (True, False):
            options = {"case_insensitive": case_insensitive, "dummy4unknown": dummy}
            for restrict in (300_000, 26):
                _, sections = vectors.evaluate_word_analogies(
                    questions, restrict_vocab=restrict, **options
                )
                counts = [[s["section"], len(s["correct"]), len(s["incorrect"])] for s in sections]
                results["analogies"].append([case_insensitive, dummy, restrict, counts])
            pearson, spearman, unknown = vectors.evaluate_word_pairs(pairs, **options)
            numbers = [*map(float, pearson), *map(float, spearman), float(unknown)]
            results["pairs"].append([case_insensitive, dummy, numbers])
    (HERE / "gensim_results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
