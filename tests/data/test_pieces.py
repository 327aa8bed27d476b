"""A text as pieces, with its sentences and documents."""

import numpy as np
import pytest

from jaxembed.data import PieceCorpus, encode_pieces, make_tokenizer, split_documents
from jaxembed.data.pieces import read_lines_of

LINES = ["the river bank", "", "a central bank lends", "it saves", "", "", "banks"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(PieceCorpus("unused", vocab_size=60), LINES * 3)


def test_sentences_and_documents_are_where_they_were(tokenizer):
    text = encode_pieces(LINES, tokenizer, longest=50)
    count = len(text.sentences) - 1
    assert [tokenizer.decode(text.sentence(i)) for i in range(count)] == [x for x in LINES if x]
    assert text.documents.tolist() == [0, 1, 3, 4]
    assert text.begins.sum() == len(" ".join(LINES).split())
    pieces = tokenizer.pieces(text.ids)
    assert [piece.startswith("##") for piece in pieces] == (~text.begins).tolist()


def test_a_long_sentence_becomes_several_and_loses_nothing(tokenizer):
    whole = encode_pieces(LINES, tokenizer, longest=50)
    cut = encode_pieces(LINES, tokenizer, longest=2)
    np.testing.assert_array_equal(whole.ids, cut.ids)
    assert np.diff(cut.sentences).max() == 2 and set(whole.sentences) <= set(cut.sentences)
    limits = [cut.sentences[place] for place in cut.documents]
    assert limits == [whole.sentences[place] for place in whole.documents]


def test_documents_are_kept_apart_whole_and_once(tokenizer):
    lines = [line for number in range(40) for line in ("the bank", f"it {'s' * (number + 1)}", "")]
    text = encode_pieces(lines, tokenizer, longest=60)
    train, kept = split_documents(text, 0.25, 1)
    assert len(kept.documents) - 1 == 10 and len(train.documents) - 1 == 30
    documents = [
        part.ids[part.sentences[a] : part.sentences[b]].tobytes()
        for part in (train, kept)
        for a, b in zip(part.documents[:-1], part.documents[1:], strict=True)
    ]
    whole = [
        text.ids[text.sentences[a] : text.sentences[b]].tobytes()
        for a, b in zip(text.documents[:-1], text.documents[1:], strict=True)
    ]
    assert sorted(documents) == sorted(whole)
    again = split_documents(text, 0.25, 1)
    assert again[0].fingerprint() == train.fingerprint() != kept.fingerprint()
    assert split_documents(text, 0.25, 2)[1].fingerprint() != kept.fingerprint()


def test_a_text_of_one_document_is_kept_apart_by_stretches(tokenizer):
    text = encode_pieces(["the bank"] * 120, tokenizer, longest=60)
    train, kept = split_documents(text, 0.3, 0)
    sizes = [*np.diff(train.documents), *np.diff(kept.documents)]
    assert sorted(sizes) == [20, 50, 50] and len(kept.documents) == 2
    with pytest.raises(ValueError, match="leaves none to judge by"):
        split_documents(encode_pieces(["the bank"] * 50, tokenizer, longest=60), 0.3, 0)


def test_lines_keep_the_ends_of_documents(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(LINES) + "\n")
    assert list(read_lines_of(str(file))) == LINES
    assert list(read_lines_of(LINES)) == LINES
    with pytest.raises(ValueError, match="held_out is 1"):
        PieceCorpus("docstrings", held_out=1.0)
