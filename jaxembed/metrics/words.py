"""Analogies and word similarity: the two usual tests of word vectors, and a table to look at."""

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Float32, Int

PathLike = str | os.PathLike[str]
Method = Literal["3CosAdd", "3CosMul"]

# Levy and Goldberg's epsilon, as in gensim: keeps 3CosMul finite at the opposite of a.
COSMUL_EPSILON = 1e-6
# Few rows at a time stay in the processor's cache; measured, 256 take twice as long as 32.
QUESTIONS_AT_ONCE = 32
# Similarities held at once: the distinct words of the questions times a block of the vocabulary.
SIMILARITIES_AT_ONCE = 1 << 25
LANES = 128


@dataclasses.dataclass(frozen=True)
class AnalogySection:
    """Questions of one kind: its name, and (a, b, c, d) for "a is to b as c is to d"."""

    name: str
    questions: tuple[tuple[str, str, str, str], ...]


@dataclasses.dataclass(frozen=True)
class SectionScore:
    """How many of a section's questions were answered right, of how many that counted."""

    name: str
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share answered right, from 0 to 1; NaN where no question counted."""
        return self.correct / self.total if self.total else float("nan")


@dataclasses.dataclass(frozen=True)
class AnalogyScores:
    """Scores by section, the number of questions asked and of those whose words are all known."""

    sections: tuple[SectionScore, ...]
    asked: int
    known: int

    @property
    def coverage(self) -> float:
        """The share of the questions whose four words are all in the vocabulary."""
        return self.known / self.asked

    @property
    def overall(self) -> SectionScore:
        """All sections together."""
        return self._together("overall", self.sections)

    @property
    def semantic(self) -> SectionScore:
        """The sections whose name does not start with "gram"."""
        return self._together("semantic", [s for s in self.sections if s.name[:4] != "gram"])

    @property
    def syntactic(self) -> SectionScore:
        """The sections whose name starts with "gram"."""
        return self._together("syntactic", [s for s in self.sections if s.name[:4] == "gram"])

    @staticmethod
    def _together(name, sections):
        correct, total = sum(s.correct for s in sections), sum(s.total for s in sections)
        return SectionScore(name, correct, total)


@dataclasses.dataclass(frozen=True)
class WordPairScores:
    """Correlations of cosine and human score with two-sided p-values, and how many pairs counted.

    The correlations are NaN where either side is constant. `unknown` is the share, from 0 to 1, of
    the pairs with a word outside the vocabulary.
    """

    pearson: float
    pearson_pvalue: float
    spearman: float
    spearman_pvalue: float
    count: int
    unknown: float


def read_analogies(path: PathLike) -> list[AnalogySection]:
    """Reads questions in the form of questions-words.txt: `: section` lines and four words a line.

    Args:
        path: A UTF-8 text file. Blank lines are skipped.

    Returns:
        The sections in file order.

    Raises:
        ValueError: If a line has not four words or comes before any section, or there is no
            question; the message names the line.
    """
    sections: list[tuple[str, list]] = []
    for number, line in _lines(path):
        words = line.split()
        if line.startswith(":"):
            sections.append((line.lstrip(":").strip(), []))
        elif not sections:
            raise ValueError(
                f"{path}, line {number}: {line!r} comes before any section; begin the file with a "
                "line such as `: capitals`."
            )
        elif len(words) != 4:
            raise ValueError(
                f"{path}, line {number}: {line!r} has {len(words)} words; a question has 4."
            )
        else:
            sections[-1][1].append(tuple(words))
    if not any(questions for _, questions in sections):
        raise ValueError(f"{path}: no questions; wanted `: section` and four words a line.")
    return [AnalogySection(name, tuple(questions)) for name, questions in sections]


def read_word_pairs(path: PathLike) -> list[tuple[str, str, float]]:
    """Reads `word1 word2 score` lines, separated by tabs or by spaces.

    Args:
        path: A UTF-8 text file. Blank lines, lines that start with `#` and one header line are
            skipped.

    Returns:
        The pairs in file order.

    Raises:
        ValueError: If a line is not two words and a finite score, or there is no pair; the message
            names the line.
    """
    pairs: list[tuple[str, str, float]] = []
    is_first = True
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in (line.split("\t") if "\t" in line else line.split())]
        score = _finite(fields[2]) if len(fields) == 3 else None
        if score is not None:
            pairs.append((fields[0], fields[1], score))
        elif not is_first or len(fields) != 3:
            raise ValueError(
                f"{path}, line {number}: {line!r}; wanted two words and a score, separated by tabs "
                "or spaces."
            )
        is_first = False
    if not pairs:
        raise ValueError(f"{path}: no word pairs; wanted `word1 word2 score` lines.")
    return pairs


def evaluate_analogies(
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    sections: Sequence[AnalogySection],
    *,
    restrict_vocab: int = 300_000,
    case_insensitive: bool = True,
    method: Method = "3CosAdd",
    dummy_for_unknown: bool = False,
) -> AnalogyScores:
    """Answers "a is to b as c is to ?" by the nearest word, and counts the right answers.

    The three words of the question are never an answer, nor their spellings in other case. All is
    as in gensim's `evaluate_word_analogies`, except that gensim looks at the best five words only
    and gives up where all of them are such spellings. Equal scores go to the earlier key.

    The similarities of the distinct words of the questions are computed once; a question only adds
    or multiplies three rows of them.

    Args:
        keys: The words, most frequent first.
        matrix: Their vectors; zero and non-finite ones have cosine 0 with everything.
        sections: Questions, as `read_analogies` gives them.
        restrict_vocab: Use only the first so many keys, as questions and as answers.
        case_insensitive: Compare words in upper case; of equal ones the earliest key counts.
        method: "3CosAdd" maximises cos(x, b - a + c); "3CosMul" maximises
            cos(x, b) cos(x, c) / (cos(x, a) + 1e-6) with cosines moved to 0..1.
        dummy_for_unknown: Count questions with an unknown word as wrong; otherwise they are
            skipped.

    Returns:
        Counts by section and together, and the share of questions that could be answered.

    Raises:
        ValueError: If there is no question, shapes disagree, `restrict_vocab` is below 1, or the
            method is unknown.

    Reference: Mikolov et al., 2013, https://arxiv.org/abs/1301.3781, section 4; 3CosMul: Levy and
    Goldberg, 2014, https://aclanthology.org/W14-1618, equation 4.
    """
    _check_table(keys, matrix, restrict_vocab)
    if method not in get_args(Method):
        raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(get_args(Method))}.")
    asked = sum(len(section.questions) for section in sections)
    if asked == 0:
        raise ValueError("There are no analogy questions in the sections given: nothing to answer.")
    lookup, variants = _fold(keys[:restrict_vocab], case_insensitive)
    fold = str.upper if case_insensitive else str
    questions, owners = [], []
    for owner, section in enumerate(sections):
        for question in section.questions:
            ids = [lookup.get(fold(word), -1) for word in question]
            if min(ids) >= 0:
                questions.append(ids)
                owners.append(owner)
    counts = np.zeros((2, len(sections)), np.int64)  # right and total
    if questions:
        table = np.asarray(questions, np.int32)
        answers = _answer(_unit_rows(matrix[:restrict_vocab]), table[:, :3], variants, method)
        first_of = np.arange(len(keys[:restrict_vocab]))
        for first, others in variants.items():
            first_of[others] = first
        is_right = (answers >= 0) & (first_of[answers] == table[:, 3])
        # A question that asks for one of its own words cannot be answered.
        np.add.at(counts, (0, owners), is_right)
        np.add.at(counts, (1, owners), 1)
    if dummy_for_unknown:
        counts[1] = [len(section.questions) for section in sections]
    scores = tuple(
        SectionScore(section.name, int(correct), int(total))
        for section, correct, total in zip(sections, *counts, strict=True)
    )
    return AnalogyScores(scores, asked, len(questions))


def evaluate_word_pairs(
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    pairs: Sequence[tuple[str, str, float]],
    *,
    restrict_vocab: int = 300_000,
    case_insensitive: bool = True,
    dummy_for_unknown: bool = False,
) -> WordPairScores:
    """Correlates the cosine of two words' vectors with human judgements of their similarity.

    Args:
        keys: The words, most frequent first.
        matrix: Their vectors; zero and non-finite ones have cosine 0 with everything.
        pairs: Word pairs and scores, as `read_word_pairs` gives them.
        restrict_vocab: Use only the first so many keys.
        case_insensitive: Compare words in upper case; of equal ones the earliest key counts.
        dummy_for_unknown: Give pairs with an unknown word the similarity 0; otherwise they are
            skipped.

    Returns:
        The correlations, equal to those of gensim's `evaluate_word_pairs`.

    Raises:
        ValueError: If fewer than two pairs count, shapes disagree or `restrict_vocab` is below 1.
    """
    _check_table(keys, matrix, restrict_vocab)
    lookup, _ = _fold(keys[:restrict_vocab], case_insensitive)
    fold = str.upper if case_insensitive else str
    gold, cosines, unknown = [], [], 0
    for word, other, score in pairs:
        ids = [lookup.get(fold(word)), lookup.get(fold(other))]
        if None in ids:
            unknown += 1
            if not dummy_for_unknown:
                continue
            cosine = 0.0
        else:
            unit = _unit_rows(matrix[ids])
            cosine = float(np.dot(unit[0], unit[1]))
        gold.append(float(score))
        cosines.append(cosine)
    if len(gold) < 2:
        raise ValueError(
            f"Only {len(gold)} of {len(pairs)} pairs have both words in the vocabulary; a "
            "correlation needs 2. Check the language and the case of the words."
        )
    if np.ptp(gold) == 0 or np.ptp(cosines) == 0:
        pearson = spearman = (float("nan"), float("nan"))
    else:
        import scipy.stats

        pearson = scipy.stats.pearsonr(gold, cosines)
        spearman = scipy.stats.spearmanr(gold, cosines)
    values = [float(value) for value in (*pearson, *spearman)]
    return WordPairScores(*values, count=len(gold), unknown=unknown / len(pairs))


def neighbour_table(
    keys: Sequence[str],
    matrix: Float[np.ndarray, "count dim"],
    queries: Sequence[str],
    k: int = 5,
) -> str:
    """Lists the nearest neighbours of some words, for people to read.

    Args:
        keys: The words.
        matrix: Their vectors.
        queries: The words to look up.
        k: Neighbours a word, at most one less than there are keys.

    Returns:
        A line for each query: the word, then its neighbours with their cosines, in columns.

    Raises:
        ValueError: If there is no query, or k is out of range.
        KeyError: If a query is not among the keys.
    """
    _check_table(keys, matrix, len(keys))
    if not queries or not 1 <= k < len(keys):
        raise ValueError(
            f"{len(queries)} queries and k={k}: wanted at least one query and k from 1 to "
            f"{len(keys) - 1}, one less than there are keys."
        )
    lookup = {key: row for row, key in reversed(list(enumerate(keys)))}
    ids = np.asarray([_known(lookup, query) for query in queries], np.int32)
    scores, neighbours = _nearest(_unit_rows(matrix), ids, k)
    table = [
        [query, *(f"{keys[i]} {score:.2f}" for i, score in zip(*row, strict=True))]
        for query, *row in zip(queries, np.asarray(neighbours), np.asarray(scores), strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def _answer(
    unit: Float32[np.ndarray, "count dim"],
    questions: Int[np.ndarray, "questions 3"],
    variants: dict[int, list[int]],
    method: str,
) -> Int[np.ndarray, "questions"]:
    """The id of the best answer to each question; -1 where no word is left."""
    words, places = np.unique(questions, return_inverse=True)
    places = places.reshape(questions.shape).astype(np.int32)
    # Sizes are rounded up, so that other questions and vocabularies reuse the compiled program.
    word_count, question_count = -(-len(words) // 256) * 256, -(-len(places) // 1024) * 1024
    padded_words = np.zeros((word_count, unit.shape[1]), np.float32)
    padded_words[: len(words)] = unit[words]
    padded_places = np.zeros((question_count, 3), np.int32)
    padded_places[: len(places)] = places
    # The ids that no question with this word may answer: the word in all its spellings.
    spellings = [variants.get(int(word), [int(word)]) for word in words]
    banned = np.full((word_count, max(map(len, spellings))), -1, np.int32)
    for row, ids in zip(banned, spellings, strict=False):
        row[: len(ids)] = ids

    block = max(LANES, SIMILARITIES_AT_ONCE // word_count // LANES * LANES)
    block = min(block, -(-len(unit) // LANES) * LANES)
    best_scores = np.full(question_count, -np.inf, np.float32)
    best_ids = np.full(question_count, -1, np.int32)
    for start in range(0, len(unit), block):
        candidates = np.zeros((block, unit.shape[1]), np.float32)
        part = unit[start : start + block]
        candidates[: len(part)] = part
        scores, ids = _answer_in_block(
            padded_words, candidates, padded_places, banned, start, len(part), method=method
        )
        scores, ids = np.asarray(scores), np.asarray(ids)
        is_better = scores > best_scores  # not equal: the earlier key keeps its place
        best_scores = np.where(is_better, scores, best_scores)
        best_ids = np.where(is_better, ids, best_ids)
    return best_ids[: len(places)]


@partial(jax.jit, static_argnames="method")
def _answer_in_block(words, candidates, places, banned, start, count, *, method):
    """The best score and id for each question among one block of the vocabulary."""
    block = candidates.shape[0]
    similarities = jnp.matmul(words, candidates.T, precision=lax.Precision.HIGHEST)
    if method == "3CosMul":
        similarities = (1.0 + similarities) / 2.0
    is_padding = jnp.arange(block) >= count
    rows = jnp.arange(QUESTIONS_AT_ONCE)

    def best(places):
        a, b, c = (similarities[places[:, i]] for i in range(3))  # [questions, block]
        scores = b - a + c if method == "3CosAdd" else b * c / (a + COSMUL_EPSILON)
        scores = jnp.where(is_padding[None, :], -jnp.inf, scores)
        columns = banned[places].reshape(QUESTIONS_AT_ONCE, -1) - start
        columns = jnp.where((columns >= 0) & (columns < block), columns, block)
        scores = scores.at[rows[:, None], columns].set(-jnp.inf, mode="drop")
        # XLA's argmax is a scalar loop on the CPU: a plain maximum first is six times as fast.
        lanes = scores.reshape(QUESTIONS_AT_ONCE, -1, LANES)
        group = jnp.argmax(jnp.max(lanes, axis=2), axis=1)
        lane = jnp.argmax(lanes[rows, group], axis=1)
        return lanes[rows, group, lane], start + group * LANES + lane

    scores, ids = lax.map(best, places.reshape(-1, QUESTIONS_AT_ONCE, 3))
    return scores.reshape(-1), ids.reshape(-1)


@partial(jax.jit, static_argnames="k")
def _nearest(unit, ids, k):
    """The k nearest rows of each row in `ids`, itself excluded."""
    scores = jnp.matmul(unit[ids], unit.T, precision=lax.Precision.HIGHEST)
    scores = scores.at[jnp.arange(ids.shape[0]), ids].set(-jnp.inf)
    return lax.top_k(scores, k)


def _unit_rows(matrix) -> Float32[np.ndarray, "count dim"]:
    """Rows of length 1; zero rows, and those that are not finite, become zero."""
    matrix = np.asarray(matrix, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    is_usable = np.isfinite(norms) & (norms > 0)
    return np.where(is_usable, matrix, 0) / np.where(is_usable, norms, 1)


def _fold(keys, case_insensitive) -> tuple[dict[str, int], dict[int, list[int]]]:
    """The first id of each spelling, and all ids of those that occur in more than one case."""
    lookup: dict[str, int] = {}
    variants: dict[int, list[int]] = {}
    for row, key in enumerate(map(str.upper, keys) if case_insensitive else keys):
        first = lookup.setdefault(key, row)
        if first != row:
            variants.setdefault(first, [first]).append(row)
    return lookup, variants


def _check_table(keys, matrix, restrict_vocab) -> None:
    if np.ndim(matrix) != 2 or len(keys) != len(matrix) or len(keys) == 0:
        raise ValueError(
            f"{len(keys)} keys for a matrix of shape {np.shape(matrix)}: wanted one row a key, "
            "and at least one."
        )
    if restrict_vocab < 1:
        raise ValueError(f"restrict_vocab is {restrict_vocab}: it must be at least 1.")


def _known(lookup, query) -> int:
    if query not in lookup:
        raise KeyError(f"{query!r} is not among the {len(lookup)} keys.")
    return lookup[query]


def _finite(field: str) -> float | None:
    """The number in a field, or None."""
    try:
        number = float(field)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _lines(path):
    """The lines that are not blank, stripped, with their numbers from 1."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.strip()
