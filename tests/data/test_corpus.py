import collections
import errno
import gzip
import os
import subprocess
import sys
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from jaxembed import atomic
from jaxembed.data import corpus, encode_corpus, open_corpus, text

SENTENCES = strategies.lists(
    strategies.lists(strategies.sampled_from("a b c d é ff".split()), max_size=5), max_size=12
)


def naive_ids(sentences, min_count, max_vocab):
    """The ids by plain Python: words, kept ids with -1 between sentences, and sentences."""
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    words = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
    words = words[:max_vocab]
    kept = [[words.index(word) for word in sentence if word in words] for sentence in sentences]
    kept = [sentence for sentence in kept if sentence]
    ids = [number for sentence in kept for number in [*sentence, -1]][:-1]
    return words, [counts[word] for word in words], ids, len(kept)


def ids_of(encoded):
    return np.fromfile(encoded.path, "<i4").tolist()


@hypothesis.given(SENTENCES, strategies.integers(1, 3), strategies.sampled_from([None, 1, 3]))
@hypothesis.settings(max_examples=60, deadline=None)
def test_ids_equal_plain_python(tmp_path_factory, sentences, min_count, max_vocab):
    words, counts, ids, kept = naive_ids(sentences, min_count, max_vocab)
    hypothesis.assume(words)
    folder = tmp_path_factory.getbasetemp()
    options = {"min_count": min_count, "max_vocab": max_vocab}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "_CHUNK", 3)  # ids, so that every edge case meets a chunk edge
        patch.setattr(corpus, "_FLUSH", 2)
        encoded = encode_corpus(iter(sentences), folder / "ids", **options)
    assert ids_of(encoded) == ids
    assert list(encoded.vocabulary.words) == words
    assert encoded.vocabulary.counts.tolist() == counts
    assert encoded.total_words == sum(map(len, sentences))
    assert encoded.kept_words == sum(counts)
    assert encoded.sentences == kept
    assert len(encoded) == len(ids)
    (folder / "text").write_text("\n".join(map(" ".join, sentences)), encoding="utf-8")
    from_file = encode_corpus(folder / "text", folder / "other", **options)
    assert from_file.fingerprint == encoded.fingerprint


def test_an_endless_line_has_no_ends(tmp_path):
    for ending in ("", "\n"):
        (tmp_path / "text").write_text("a b rare a b" + ending)
        encoded = encode_corpus(tmp_path / "text", tmp_path / "ids", min_count=2)
        assert ids_of(encoded) == [0, 1, 0, 1]
        assert (encoded.total_words, encoded.kept_words, encoded.sentences) == (5, 4, 1)


def test_packed_files_and_folders_equal_plain_text(tmp_path):
    lines = [f"w{number % 7} w{number % 3}\n" for number in range(500)]
    (tmp_path / "plain").write_text("".join(lines))
    (tmp_path / "packed.gz").write_bytes(gzip.compress("".join(lines).encode()))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1").write_text("".join(lines[:200]))
    (tmp_path / "folder" / "2").write_text("".join(lines[200:]))
    fingerprints = {
        encode_corpus(tmp_path / name, tmp_path / "ids").fingerprint
        for name in ("plain", "packed.gz", "folder")
    }
    assert len(fingerprints) == 1


def test_a_saved_corpus_opens_equal(tmp_path):
    encoded = encode_corpus(["a b", "a c"], tmp_path / "deep" / "ids", min_count=1)
    assert open_corpus(encoded.path) == encoded
    assert sorted(os.listdir(tmp_path / "deep")) == ["ids", "ids.json"]


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 100])
def test_blocks_are_slices_of_the_ids(tmp_path, block_size):
    encoded = encode_corpus(["a b c", "a", "b c a"], tmp_path / "ids", min_count=1)
    ids = ids_of(encoded)
    blocks = encoded.blocks(block_size)
    assert len(blocks) == -(-len(ids) // block_size)
    for number in range(len(blocks)):
        block = blocks[number]
        part = ids[number * block_size : (number + 1) * block_size]
        assert block["tokens"].tolist() == part + [-1] * (block_size - len(part))
        assert block["words"] == sum(token >= 0 for token in part)
        assert block["position"] == number
        assert block["tokens"].flags.owndata and block["tokens"].dtype == np.int32
    assert len(list(blocks)) == len(blocks)
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_the_hash_seed_changes_nothing(tmp_path):
    code = (
        "import sys; from jaxembed.data import encode_corpus\n"
        "text = [[f'w{i * i % 97}' for i in range(n)] for n in range(50)]\n"
        "print(encode_corpus(text, sys.argv[1], min_count=2).fingerprint)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    first, second = (run.communicate()[0] for run in runs)
    assert first == second and len(first) > 60


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_CHUNK", 1 << 16)
    monkeypatch.setattr(corpus, "_CHUNK", 1 << 14)
    monkeypatch.setattr(corpus, "_FLUSH", 1 << 12)

    def peak(repeats):
        with open(tmp_path / "text", "w") as file:
            for number in range(repeats):
                file.write(f"word{number % 1000} the of and to " * 1000)
        tracemalloc.start()
        encode_corpus(tmp_path / "text", tmp_path / "ids", min_count=1)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)  # what is made once
    # Half a million words more must not cost even half a byte each.
    assert peak(120) < peak(20) + 2**18


def test_progress_counts_words(tmp_path):
    seen = []
    encode_corpus(["a b", "a"], tmp_path / "ids", min_count=1, progress=seen.append)
    assert seen[-1] == 3


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "no words at all"),
        (["", " "], {"min_count": 1}, "no words at all"),
        (["a b a"], {}, "no word occurs 5 times; the most frequent, 'a', occurs 2 times: lower"),
        (["a"], {"min_count": 0}, "min_count is 0"),
        (["a"], {"max_vocab": 0}, "max_vocab is 0"),
    ],
)
def test_texts_without_words_leave_nothing(tmp_path, source, options, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(source, tmp_path / "ids", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    before = encode_corpus(["old"], tmp_path / "ids", min_count=1)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", no_space)
    with pytest.raises(OSError, match="no space left on the disk while writing .*ids") as caught:
        encode_corpus(["new words"], tmp_path / "ids", min_count=1)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert open_corpus(tmp_path / "ids").fingerprint == before.fingerprint
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_during_the_first_pass_is_explained(tmp_path, monkeypatch):
    real = open
    monkeypatch.setattr(atomic, "open", lambda path, mode: real("/dev/full", "wb"), raising=False)
    with pytest.raises(OSError, match="no space left on the disk"):
        encode_corpus(["a " * 100_000], tmp_path / "ids", min_count=1)
    assert not list(tmp_path.iterdir())


def test_changed_files_are_refused(tmp_path):
    encoded = encode_corpus(["a b c"], tmp_path / "ids", min_count=1)
    good = encoded.path.read_bytes()
    encoded.path.write_bytes(good[:-4])
    with pytest.raises(ValueError, match="has 8 bytes, but 12 were written"):
        open_corpus(encoded.path)
    encoded.path.write_bytes(good[4:] + good[:4])
    with pytest.raises(ValueError, match="fingerprint differs"):
        open_corpus(encoded.path)
    (tmp_path / "ids.json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a corpus"):
        open_corpus(encoded.path)
    (tmp_path / "ids.json").unlink()
    with pytest.raises(FileNotFoundError, match="ids.json: encode the text again"):
        open_corpus(encoded.path)


def test_block_size_under_one_is_refused(tmp_path):
    encoded = encode_corpus(["a"], tmp_path / "ids", min_count=1)
    with pytest.raises(ValueError, match="block_size is 0"):
        encoded.blocks(0)
