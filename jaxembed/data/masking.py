"""Masked words and next sentences, made from a text as they are asked for."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int32

from jaxembed.data.pieces import Pieces
from jaxembed.data.tokenizer import TextTokenizer

_TRIES = 100


@dataclasses.dataclass(frozen=True)
class MaskedWords:
    """What a model is asked: which pieces are hidden, and whether a sentence follows another.

    Attributes:
        rate: Share of pieces that are to be predicted.
        masked: Share of these that the mask stands for.
        replaced: Share of these that another piece stands for; the rest stay as they are.
        whole_words: Hide all pieces of a word or none.
        next_sentence: Whether examples are pairs; half of them do not belong together.

    Reference: Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.1.
    """

    rate: float = 0.15
    masked: float = 0.8
    replaced: float = 0.1
    whole_words: bool = False
    next_sentence: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}: give more than 0 and at most 1.")
        if min(self.masked, self.replaced) < 0 or self.masked + self.replaced > 1:
            raise ValueError(
                f"masked is {self.masked} and replaced {self.replaced}: give shares whose sum is "
                "at most 1."
            )

    def most(self, length: int) -> int:
        """Places to be predicted in a sequence of some length, at most."""
        return max(1, int(np.ceil(self.rate * length)))


def mask_pieces(
    ids: Int32[np.ndarray, "length"],
    allowed: Bool[np.ndarray, "length"],
    begins: Bool[np.ndarray, "length"],
    generator: np.random.Generator,
    *,
    task: MaskedWords,
    mask_id: int,
    others: Int32[np.ndarray, "count"],
) -> tuple[Int32[np.ndarray, "length"], Int32[np.ndarray, "targets"]]:
    """Hides pieces of a sequence.

    Args:
        ids: The sequence.
        allowed: Where a piece may be hidden: not at specials and padding.
        begins: Whether a piece begins a word.
        generator: Of the random numbers.
        task: Which shares.
        mask_id: What stands for a hidden piece.
        others: What is drawn from, evenly, to replace a piece.

    Returns:
        The sequence with pieces hidden, and the places to be predicted, rising. Their number is
        `rate` times the pieces allowed, rounded up or down at random so that it is so on average
        (BERT rounds to the nearest); at least 1 where one is allowed, and with whole words the
        most that does not exceed it, or one word.
    """
    places = np.flatnonzero(allowed)
    if not len(places):
        return ids, places.astype(np.int32)
    wanted = max(1, int(task.rate * len(places) + generator.random()))
    if task.whole_words:
        chosen = _choose_words(places, begins, wanted, generator)
    else:
        chosen = generator.permutation(places)[:wanted]
    chosen = np.sort(chosen).astype(np.int32)
    draw = generator.random(len(chosen))
    random = others[generator.integers(len(others), size=len(chosen))]
    hidden = np.where(draw < task.masked, mask_id, ids[chosen])
    is_replaced = (draw >= task.masked) & (draw < task.masked + task.replaced)
    result = ids.copy()
    result[chosen] = np.where(is_replaced, random, hidden)
    return result, chosen


def _choose_words(
    places: np.ndarray, begins: np.ndarray, wanted: int, generator: np.random.Generator
) -> np.ndarray:
    """The places of whole words, in random order, as long as they fit."""
    is_first = begins[places] | (np.diff(places, prepend=-2) != 1)
    words = np.split(places, np.flatnonzero(is_first)[1:])
    chosen: list[np.ndarray] = []
    left = wanted
    for number in generator.permutation(len(words)):
        word = words[number]
        if len(word) <= left:
            chosen.append(word)
            left -= len(word)
        if not left:
            break
    return np.concatenate(chosen) if chosen else min(words, key=len)[:wanted]


class PretrainingExamples:
    """Examples of a text, in the order of a whole run; a source for `make_batches`.

    An example depends on (seed, epoch, its number) and nothing else, so a run can be resumed
    anywhere. Each epoch has its own order, halves, random sentences and hidden pieces. Pass it
    with `shuffle=False` and `epochs=1`.

    An example is a dict of int32 arrays: `ids` and `segments` [length], padded with `pad_id` and 0;
    `length` []; `places` and `targets` [most], which pieces to predict and what they were, padded
    with 0 and -1; and, of pairs, `next`, 0 where the second part follows the first and 1 where
    it does not. A stretch of sentences that fits the length is halved at a random sentence; in
    half of the examples the second half is drawn from elsewhere: from another document where there
    are several, and never a repetition of the sentence that follows. (BERT uses what it cut off in
    the next example; here it is left out until the next epoch, so that examples do not depend on
    each other.)

    Attributes:
        stretches: First and last sentence (exclusive) of each stretch, [examples, 2].
    """

    def __init__(
        self,
        text: Pieces,
        tokenizer: TextTokenizer,
        *,
        task: MaskedWords,
        length: int,
        seed: int,
        epochs: int = 1,
        shuffle: bool = True,
    ) -> None:
        """Cuts the text into stretches.

        Args:
            text: Sentences of at most half as many pieces as fit (see `room`).
            tokenizer: Of the text; it needs ids for mask and ends.
            task: What is asked.
            length: Ids of an example.
            seed: Decides all that is drawn.
            epochs: Passes over the stretches.
            shuffle: Whether each pass has an order of its own.

        Raises:
            ValueError: If no two sentences stand in one document, a sentence is too long, or the
                tokenizer lacks an id.
        """
        self.text, self.task, self.length = text, task, length
        self.seed, self.epochs, self.shuffle = seed, epochs, shuffle
        self.mask_id, self.pad_id = tokenizer.mask_id, tokenizer.pad_id
        self.cls_id, self.sep_id = tokenizer.cls_id, tokenizer.sep_id
        self.specials = np.array(tokenizer.special_ids, np.int32)
        everything = np.arange(tokenizer.vocab_size, dtype=np.int32)
        self.others = np.setdiff1d(everything, self.specials)
        self.room = room_of(length, task.next_sentence)
        longest = int(np.diff(text.sentences).max())
        if longest > longest_sentence(length):
            raise ValueError(
                f"a sentence has {longest} pieces, but {longest_sentence(length)} are half of "
                f"what fits into {length}: cut sentences by `encode_pieces`."
            )
        self.stretches = _cut_stretches(text, self.room, 2 if task.next_sentence else 1)
        if not len(self.stretches):
            raise ValueError("no document has two sentences: give a text with longer ones.")
        self._by_length = np.argsort(np.diff(text.sentences), kind="stable")
        self._lengths = np.diff(text.sentences)[self._by_length]
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        return self.epochs * len(self.stretches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(index, len(self.stretches))
        number = int(self._order(epoch)[place]) if self.shuffle else place
        generator = np.random.default_rng([self.seed, epoch, number])
        first, last = self.stretches[number].tolist()
        if not self.task.next_sentence:
            return self._pack([self._span(first, last)], generator)
        cut = int(generator.integers(first + 1, last))
        is_random = bool(generator.integers(2))
        left = self._span(first, cut)
        if is_random:
            room = self.room - len(left[0])
            right = self._draw_other(cut, range(first, last), room, generator)
        else:
            right = self._span(cut, last)
        return self._pack([left, right], generator) | {"next": np.int32(is_random)}

    def _make_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.stretches))

    def _span(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of sentences, and which begin a word."""
        start, stop = self.text.sentences[first], self.text.sentences[last]
        return self.text.ids[start:stop], self.text.begins[start:stop]

    def _draw_other(
        self, follows: int, stretch: range, room: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whole sentences from elsewhere that fit, as those of a stretch do.

        Anything else, such as filling up the room, would tell the halves apart by their length.
        """
        documents, bounds = self.text.documents, self.text.sentences
        here = int(np.searchsorted(documents, follows, "right"))
        own = range(documents[here - 1], documents[here]) if len(documents) > 2 else stretch
        fitting = int(np.searchsorted(self._lengths, room, "right"))
        # All sentences where no other one fits: it is then cut.
        for most in (fitting, len(self._lengths)):
            first = self._draw_start(follows, own, self._by_length[:most], generator)
            if first is not None:
                limit = int(documents[np.searchsorted(documents, first, "right")])
                last = int(np.searchsorted(bounds, bounds[first] + room, "right")) - 1
                ids, begins = self._span(first, min(max(last, first + 1), limit))
                return ids[:room], begins[:room]
        raise ValueError("the text repeats one sentence: give a text of different ones.")

    def _draw_start(
        self, follows: int, own: range, among: np.ndarray, generator: np.random.Generator
    ) -> int | None:
        """A sentence that is not of one's own, nor says what follows; None where none is found."""
        for _ in range(_TRIES):
            first = int(among[generator.integers(len(among))])
            if first not in own and not np.array_equal(
                self.text.sentence(first), self.text.sentence(follows)
            ):
                return first
        return None

    def _pack(
        self, parts: list[tuple[np.ndarray, np.ndarray]], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Puts specials around, hides pieces and pads."""
        ids = np.full(self.length, self.pad_id, np.int32)
        segments = np.zeros(self.length, np.int32)
        begins = np.ones(self.length, bool)
        ids[0], end = self.cls_id, 1
        for segment, (pieces, firsts) in enumerate(parts):
            start, end = end, end + len(pieces) + 1
            ids[start:end] = [*pieces, self.sep_id]
            begins[start : end - 1] = firsts
            segments[start:end] = segment
        allowed = (np.arange(self.length) < end) & ~np.isin(ids, self.specials)
        hidden, chosen = mask_pieces(
            ids,
            allowed,
            begins,
            generator,
            task=self.task,
            mask_id=self.mask_id,
            others=self.others,
        )
        most = self.task.most(self.length)
        places, targets = np.zeros(most, np.int32), np.full(most, -1, np.int32)
        places[: len(chosen)], targets[: len(chosen)] = chosen, ids[chosen]
        return {
            "ids": hidden,
            "segments": segments,
            "length": np.int32(end),
            "places": places,
            "targets": targets,
        }


def room_of(length: int, next_sentence: bool) -> int:
    """Pieces of text in a sequence."""
    return length - (3 if next_sentence else 2)


def longest_sentence(length: int) -> int:
    """Most pieces of a sentence, of which two must fit into a pair."""
    return room_of(length, True) // 2


def _cut_stretches(text: Pieces, room: int, least: int) -> Int32[np.ndarray, "count 2"]:
    """Runs of whole sentences of a document that fit, each of `least` sentences or more."""
    found: list[tuple[int, int]] = []
    bounds = text.sentences.tolist()
    for start, stop in zip(text.documents[:-1].tolist(), text.documents[1:].tolist(), strict=True):
        first = start
        for sentence in range(start + 1, stop + 1):
            if sentence == stop or bounds[sentence + 1] - bounds[first] > room:
                found.append((first, sentence))
                first = sentence
        # The last of a document may be too short: it then takes a sentence of the one before.
        if found and found[-1][1] - found[-1][0] < least and found[-1][1] == stop:
            first, _ = found.pop()
            if found and first > start and found[-1][1] - found[-1][0] > least:
                before, _ = found.pop()
                found += [(before, first - 1), (first - 1, stop)]
    return np.array(found, np.int32).reshape(-1, 2)
