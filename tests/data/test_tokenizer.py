"""Tokenizers of pretrained models, read and learned."""

import json
import subprocess
import sys

import fuzzed_texts
import numpy as np
import pytest
from tokenizers.implementations import BertWordPieceTokenizer

from jaxembed.data.tokenizer import (
    BERT_SPECIALS,
    load_tokenizer,
    train_byte_pairs,
    train_wordpiece,
)

LINES = [
    "The unwanted runners were running, unaffected by the winding river.",
    "Der Fluß läuft über die Brücke; naïve façades déjà vu.",
    "中文 字 and 12 pieces of Ωmega run-time words won't wind.",
] * 4


@pytest.fixture(scope="module")
def learned():
    return train_wordpiece(LINES, 120)


@pytest.fixture(scope="module")
def vocabulary(learned, tmp_path_factory):
    """The bare file of pieces."""
    file = tmp_path_factory.mktemp("bert") / "vocab.txt"
    pieces = learned.pieces(range(learned.vocab_size))
    file.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_bare_vocabulary_gives_the_ids_that_the_library_s_own_bert_gives(vocabulary, lowercase):
    peer = BertWordPieceTokenizer(str(vocabulary), lowercase=lowercase)
    texts = fuzzed_texts.draw_texts(2000, 1, " ".join(LINES).split())
    pairs = texts[1000:] + texts[:1000]
    mine = load_tokenizer(vocabulary, lowercase=lowercase)
    assert len({len(text) for text in texts}) > 50 and "" in texts
    for ours, theirs in zip(mine.encode(texts), peer.encode_batch(texts), strict=True):
        assert ours.ids.tolist() == theirs.ids and ours.cut == 0
        assert ours.offsets.tolist() == [list(span) for span in theirs.offsets]
    whole = peer.encode_batch(list(zip(texts, pairs, strict=True)))
    peer.enable_truncation(16)
    cut = peer.encode_batch(list(zip(texts, pairs, strict=True)))
    lost = 0
    for ours, theirs, all_of_it in zip(
        mine.encode(texts, pairs, max_length=16), cut, whole, strict=True
    ):
        assert ours.ids.tolist() == theirs.ids and ours.segments.tolist() == theirs.type_ids
        assert ours.cut == len(all_of_it) - len(theirs)
        lost += ours.cut
    assert lost > 1000


def test_the_longer_text_of_a_pair_is_cut_first(learned):
    (one,) = learned.encode(["the the the the the the"], ["river winding river"], max_length=9)
    assert learned.decode(one.ids[one.segments == 0]) == "the the the"
    assert one.cut > 0 and len(one) == 9
    (none,) = learned.encode(["the river"], max_length=2)
    assert none.ids.tolist() == [learned.cls_id, learned.sep_id] and none.cut >= 2


def test_offsets_are_characters_of_the_text_and_words_count_from_0(learned):
    text, other = "  Naïve\tunwanted 中字!", "The river"
    (one,) = learned.encode([text], [other])
    first = one.segments == 0
    for source, chosen in ((text, first), (other, ~first)):
        spans = one.offsets[chosen & (one.words >= 0)]
        words = one.words[chosen & (one.words >= 0)]
        by_word = [
            source[spans[words == w][0, 0] : spans[words == w][-1, 1]]
            for w in range(words.max() + 1)
        ]
        wanted = ["Naïve", "unwanted", "中", "字", "!"] if source == text else ["The", "river"]
        assert by_word == wanted
    assert (one.words == -1).sum() == 3 and not one.offsets[one.words == -1].any()
    assert {array.dtype for array in (one.ids, one.segments, one.offsets, one.words)} == {
        np.dtype(np.int32)
    }


def test_a_config_beside_the_vocabulary_decides_the_case(vocabulary, tmp_path):
    folder = tmp_path
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    accented = load_tokenizer(folder, lowercase=True)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = load_tokenizer(folder, lowercase=True)
    assert load_tokenizer(vocabulary, lowercase=False) == cased != accented
    (folder / "tokenizer.json").write_text(accented.to_json())
    assert load_tokenizer(folder) == accented  # it stands first


def test_stored_truncation_and_padding_are_left_out(learned, tmp_path):
    content = json.loads(learned.to_json())
    content["truncation"] = {
        "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right",
    }  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    assert load_tokenizer(file) == learned


def test_pieces_that_are_line_ends_elsewhere_keep_their_ids(learned, tmp_path):
    file = tmp_path / "vocab.txt"
    pieces = [*BERT_SPECIALS, "a", "\u2028", "\x85", "b"]
    file.write_bytes("\r\n".join(pieces).encode() + b"\r\n")
    read = load_tokenizer(file)
    assert read.vocab_size == 9 and read.encode(["b"])[0].ids.tolist() == [2, 8, 3]


def test_a_learned_vocabulary_takes_its_text_apart_and_together(learned):
    assert learned.vocab_size == 120 and learned.special_ids == (0, 1, 2, 3, 4)
    assert (learned.pad_id, learned.cls_id, learned.sep_id, learned.mask_id) == (0, 2, 3, 4)
    (one,) = learned.encode([LINES[0]])
    assert learned.decode(one.ids) == LINES[0].lower()
    assert len(one) < 40  # it joins letters
    (unknown,) = learned.encode(["жж"])
    assert learned.pieces(unknown.ids) == ["[CLS]", "[UNK]", "[SEP]"]
    # Only the most frequent letters: of these, the rarest of the text are gone.
    few = train_wordpiece(LINES, 120, alphabet=10)
    assert few.pieces(few.encode(["brücke"])[0].ids)[1:-1] == ["[UNK]"]


def test_byte_pairs_know_every_text():
    learned = train_byte_pairs(LINES, 330)
    texts = fuzzed_texts.draw_texts(200, 2, LINES[0].split())
    texts = [text for text in texts if "<" not in text]
    for text, one in zip(texts, learned.encode(texts), strict=True):
        assert learned.decode(one.ids) == text
        assert learned.pieces(one.ids[[0, -1]]) == ["<s>", "</s>"]
    assert learned.encode(["a"], ["b"])[0].segments.tolist() == [0, 0, 0, 1, 1]
    assert learned.pieces([learned.mask_id, learned.pad_id]) == ["<mask>", "<pad>"]
    assert len(learned.encode(["THE river"])[0]) > len(learned.encode(["The river"])[0])
    lower = train_byte_pairs(LINES, 330, lowercase=True)
    assert lower.decode(lower.encode(["The River"])[0].ids) == "the river"


def test_equal_texts_give_equal_tokenizers_in_every_process(learned):
    program = (
        "import sys, json, hashlib; from jaxembed.data.tokenizer import *\n"
        "lines = json.load(sys.stdin)\n"
        "made = train_wordpiece(lines, 120).content + train_byte_pairs(lines, 330).content\n"
        "print(hashlib.sha256(made.encode()).hexdigest())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(LINES),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    }
    assert len(prints) == 1


def test_what_is_no_tokenizer_and_no_text_is_refused(learned, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json or vocab.txt"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_tokenizer(tmp_path / "vocab.txt")
    for name, content, message in (
        ("vocab.txt", b"a\n[PAD]\n", r"lacks \[UNK\], \[CLS\]"),
        ("vocab.txt", b"\xff", "not UTF-8"),
        ("tokenizer.json", learned.to_json()[:-20].encode(), "not a Hugging Face tokenizer"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path / name)
    with pytest.raises(ValueError, match="half a surrogate pair"):
        learned.encode(["fine", "a\ud800"])
    with pytest.raises(TypeError, match="bytes|violates|[Tt]ype-check"):
        learned.encode(["fine", b"a"])
    with pytest.raises(TypeError, match="single string|typechecking"):
        learned.encode("fine")
    with pytest.raises(ValueError, match="1 texts but 2 pairs"):
        learned.encode(["a"], ["b", "c"])
    with pytest.raises(ValueError, match="2 specials are put around"):
        learned.encode(["a"], max_length=1)
    with pytest.raises(ValueError, match="no words at all"):
        train_wordpiece(["", "\x00 "], 100)
    with pytest.raises(ValueError, match="vocab_size is 261"):
        train_byte_pairs(LINES, 261)
    bytes_only = train_byte_pairs(LINES, 300)
    stripped = json.loads(bytes_only.to_json())
    stripped["added_tokens"] = []
    for name in ("<mask>",):
        stripped["model"]["vocab"]["x" + name] = stripped["model"]["vocab"].pop(name)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(stripped))
    with pytest.raises(ValueError, match="no token for 'mask'"):
        _ = load_tokenizer(file).mask_id
