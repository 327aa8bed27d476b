"""Masked words and next sentences."""

import numpy as np
import pytest

from jaxembed.data import (
    MaskedWords,
    PretrainingExamples,
    encode_pieces,
    make_batches,
    mask_pieces,
    train_wordpiece,
)
from jaxembed.data.masking import longest_sentence

LENGTH = 32


def draw_lines(count, documents, *, seed=0, letters=5, most=8):
    """Sentences of 1 to `most` made-up words, a number and a stop; no two are alike."""
    draw = np.random.default_rng(seed)
    words = [
        "".join(draw.choice(list("abcdefgh"), draw.integers(1, letters + 1))) for _ in range(300)
    ]
    lines = [
        " ".join([*draw.choice(words, draw.integers(1, most + 1)), f"n{number}."])
        for number in range(count)
    ]
    for place in sorted(draw.choice(np.arange(1, count), documents - 1, replace=False))[::-1]:
        lines.insert(place, "")
    return lines


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(draw_lines(400, 1), 160)


def make_examples(tokenizer, lines, **changes):
    text = encode_pieces(lines, tokenizer, longest=longest_sentence(LENGTH))
    options = {"task": MaskedWords(), "length": LENGTH, "seed": 3, "epochs": 2} | changes
    return PretrainingExamples(text, tokenizer, **options)


def restore(example):
    """The ids before some were hidden."""
    ids = example["ids"].copy()
    is_target = example["targets"] >= 0
    ids[example["places"][is_target]] = example["targets"][is_target]
    return ids


def sentences_of(tokenizer, example):
    """What stands between the specials of a pair, without padding."""
    ids = restore(example)
    ends = np.flatnonzero(ids == tokenizer.sep_id)
    assert ids[0] == tokenizer.cls_id and ends[1] == example["length"] - 1
    assert not ids[example["length"] :].any() and tokenizer.pad_id == 0
    segments = np.zeros(LENGTH, int)
    segments[ends[0] + 1 : ends[1] + 1] = 1
    np.testing.assert_array_equal(example["segments"], segments)
    return ids[1 : ends[0]], ids[ends[0] + 1 : ends[1]]


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_over_a_million_tokens_are_those_of_the_paper(whole_words):
    # About 3 of 10 pieces go on with a word, as in English; ids 0 to 4 are specials.
    vocab, length, specials = 1000, 500, 5
    generator = np.random.default_rng(0)
    task = MaskedWords(whole_words=whole_words)
    allowed_count = chosen_count = 0
    kinds = np.zeros(3)
    drawn = np.zeros(vocab)
    others = np.arange(specials, vocab, dtype=np.int32)
    for _ in range(1_000_000 // length):
        size = int(generator.integers(100, length + 1))
        ids = generator.integers(specials, vocab, length).astype(np.int32)
        ids[[0, size // 2, size - 1]] = [2, 3, 3]
        ids[size:] = 0
        begins = generator.random(length) < 0.7
        allowed = ids >= specials
        hidden, places = mask_pieces(
            ids, allowed, begins, generator, task=task, mask_id=4, others=others
        )
        assert (hidden[~allowed] == ids[~allowed]).all() and allowed[places].all()
        assert (np.diff(places) > 0).all() and len(places) <= task.most(length)
        changed = np.flatnonzero(hidden != ids)
        assert np.isin(changed, places).all()
        is_masked, is_kept = hidden[places] == 4, hidden[places] == ids[places]
        kinds += [is_masked.sum(), (~is_masked & ~is_kept).sum(), is_kept.sum()]
        drawn += np.bincount(hidden[places][~is_masked & ~is_kept], minlength=vocab)
        allowed_count += allowed.sum()
        chosen_count += len(places)
    # 1e6 tokens with padding; the share of 6e5 allowed ones is exact to the rounding of each row.
    assert abs(chosen_count / allowed_count - 0.15) <= 0.001
    np.testing.assert_allclose(kinds / chosen_count, [0.8, 0.1, 0.1], atol=0.005)
    assert not drawn[:specials].any() and (drawn[specials:] > 0).mean() > 0.99


def test_whole_words_are_hidden_whole():
    ids = np.arange(10, 40, dtype=np.int32)
    begins = np.arange(30) % 3 == 0
    allowed = np.ones(30, bool)
    allowed[[0, 1, 2, 29]] = False
    task = MaskedWords(rate=0.3, whole_words=True)
    counts = []
    for seed in range(200):
        _, places = mask_pieces(
            ids,
            allowed,
            begins,
            np.random.default_rng(seed),
            task=task,
            mask_id=4,
            others=np.arange(5, 9, dtype=np.int32),
        )
        words = np.unique(places // 3)
        whole = [place for word in words for place in range(3 * word, 3 * word + 3)]
        assert places.tolist() == [place for place in whole if allowed[place]]
        counts.append(len(places))
    assert max(counts) <= 8 and min(counts) >= 5  # 26 places, 7.8 wanted, words of 3 and one of 2


def test_half_of_the_pairs_belong_together_and_no_other_does(tokenizer):
    # Short sentences, so that none is cut and one that fits is always found.
    examples = make_examples(tokenizer, draw_lines(2000, 40, letters=1, most=4), epochs=6)
    text = examples.text
    documents = np.repeat(np.arange(40), np.diff(text.documents))
    numbers = {tuple(text.sentence(n).tolist()): n for n in range(len(documents))}
    assert len(numbers) == len(documents)

    stop = text.ids[-1]

    def where(ids):
        """Numbers of the sentences that some ids are, one after the other."""
        ends = np.flatnonzero(ids == stop) + 1
        found = [numbers[tuple(part.tolist())] for part in np.split(ids, ends)[:-1]]
        assert ends[-1] == len(ids) and np.all(np.diff(found) == 1)
        return found

    lengths = ([], [])
    for index in range(len(examples)):
        example = examples[index]
        first, second = sentences_of(tokenizer, example)
        last, begin = where(first)[-1], where(second)[0]
        assert (begin == last + 1) == (example["next"] == 0)
        assert (documents[begin] == documents[last]) == (example["next"] == 0)
        lengths[int(example["next"])].append(len(second))
    count = len(examples)
    assert abs(len(lengths[0]) / count - 0.5) < 4 * 0.5 / np.sqrt(count)
    # Neither half is known by its length: means of 1,000s of lengths of 1 to 29.
    means, spread = list(map(np.mean, lengths)), np.std(lengths[0]) / np.sqrt(count / 4)
    assert abs(means[0] - means[1]) < 5 * spread


def test_every_sentence_of_a_document_of_two_or_more_is_in_one_stretch(tokenizer):
    lines = draw_lines(500, 30, seed=5)
    examples = make_examples(tokenizer, lines, task=MaskedWords(next_sentence=False), epochs=1)
    text = examples.text
    covered = [s for first, last in examples.stretches for s in range(first, last)]
    assert sorted(covered) == list(range(len(text.sentences) - 1))
    seen = [restore(examples[index]) for index in range(len(examples))]
    assert sum(int((ids >= 5).sum()) for ids in seen) == len(text.ids)
    pairs = make_examples(tokenizer, lines).stretches
    assert (pairs[:, 1] - pairs[:, 0] >= 2).all() and (pairs[1:, 0] >= pairs[:-1, 1]).all()
    # Those left out are last sentences for which the stretch before had none to give.
    left = sorted(set(range(len(text.sentences) - 1)) - {s for a, b in pairs for s in range(a, b)})
    assert set(left) <= set((text.documents[1:] - 1).tolist())


def test_an_example_depends_on_seed_epoch_and_number_alone(tokenizer):
    lines = draw_lines(300, 5)
    ordered = make_examples(tokenizer, lines, shuffle=False)
    again = make_examples(tokenizer, lines, shuffle=False)
    count = len(ordered) // 2
    last = [ordered[index] for index in range(len(ordered))]
    for index in reversed(range(len(ordered))):
        for name, value in again[index].items():
            np.testing.assert_array_equal(value, last[index][name])
    differing = [(last[i]["ids"] != last[i + count]["ids"]).any() for i in range(count)]
    assert np.mean(differing) > 0.95  # another epoch hides other pieces
    other = make_examples(tokenizer, lines, shuffle=False, seed=4)
    assert np.mean([(other[i]["ids"] != last[i]["ids"]).any() for i in range(count)]) > 0.95
    # In order of the run, each epoch has every stretch once, and batches resume.
    shuffled = make_examples(tokenizer, lines)
    assert [sorted(shuffled._order(epoch)) for epoch in (0, 1)] == [list(range(count))] * 2
    assert list(shuffled._order(0)) != list(shuffled._order(1))
    options = {"batch_size": 16, "seed": 0, "shuffle": False, "epochs": 1}
    straight = make_batches(shuffled, **options)
    for _ in range(3):
        next(straight)
    state = straight.get_state()
    wanted = [next(straight) for _ in range(2)]
    resumed = make_batches(make_examples(tokenizer, lines), **options)
    resumed.set_state(state)
    for batch in wanted:
        for name, value in next(resumed).items():
            np.testing.assert_array_equal(value, batch[name])


def test_a_text_that_gives_no_pairs_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no document has two sentences"):
        make_examples(tokenizer, ["one", "", "two"])
    with pytest.raises(ValueError, match="repeats one sentence"):
        examples = make_examples(tokenizer, ["a b"] * 99)
        [examples[index] for index in range(len(examples))]
    with pytest.raises(ValueError, match="no words at all"):
        make_examples(tokenizer, ["", ""])
    text = encode_pieces(["a b c d e f g h " * 3] * 2, tokenizer, longest=99)
    with pytest.raises(ValueError, match="are half of what fits into 32"):
        PretrainingExamples(text, tokenizer, task=MaskedWords(), length=LENGTH, seed=0)
    with pytest.raises(ValueError, match="rate is 0.0"):
        MaskedWords(rate=0.0)
    with pytest.raises(ValueError, match="sum is at most 1"):
        MaskedWords(masked=0.8, replaced=0.3)
