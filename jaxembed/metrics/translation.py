"""Metrics of sequences against references: BLEU of a corpus and of a sentence, error rates."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

Tokens = str | Sequence[str]


@dataclasses.dataclass(frozen=True)
class CorpusBleu:
    """BLEU of a corpus as sacrebleu gives it; `float` of it is the score.

    Attributes:
        score: From 0 to 100.
        signature: Tokenizer, case, smoothing, number of references and version, to be quoted with
            the score.
        precisions: Of n-grams of length 1 to 4, from 0 to 100.
        brevity_penalty: From 0 to 1.
        hypothesis_length: Tokens of all hypotheses.
        reference_length: Tokens of the references nearest in length.
    """

    score: float
    signature: str
    precisions: tuple[float, ...]
    brevity_penalty: float
    hypothesis_length: int
    reference_length: int

    def __float__(self) -> float:
        return self.score


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    tokenize: str | None = None,
    smooth_method: str = "exp",
    smooth_value: float | int | None = None,
    lowercase: bool = False,
    effective_order: bool = False,
) -> CorpusBleu:
    """BLEU of a corpus, computed by sacrebleu.

    Args:
        hypotheses: One text an item, not tokenized; may be empty.
        references: One text an item; or, for several references, as many lists of those.
        tokenize: sacrebleu's tokenizer: "13a" (its own choice where it is None), "intl", "zh",
            "char", "none" and others.
        smooth_method: "exp", "floor", "add-k" or "none".
        smooth_value: For "floor" and "add-k"; None for sacrebleu's own choice.
        lowercase: Ignore case.
        effective_order: Leave out n-grams longer than any hypothesis has; for single sentences.

    Returns:
        The score with its signature.

    Raises:
        ImportError: If sacrebleu is not installed.
        ValueError: If there is nothing to score, or the numbers of texts differ.

    Reference: Post, 2018, https://aclanthology.org/W18-6319.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("corpus_bleu takes lists of texts: put a single one in a list.")
    documents = [references] if references and isinstance(references[0], str) else list(references)
    if not hypotheses or not documents:
        raise ValueError(
            f"{len(hypotheses)} hypotheses and {len(documents)} lists of references: give one or "
            "more of each."
        )
    for document in documents:
        if len(document) != len(hypotheses):
            raise ValueError(
                f"{len(hypotheses)} hypotheses but {len(document)} references: lines must be pairs."
            )
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError(
            "corpus_bleu needs sacrebleu: pip install 'jaxembed[experiments]'."
        ) from error
    metric = BLEU(
        lowercase=lowercase,
        tokenize=tokenize,
        smooth_method=smooth_method,
        smooth_value=smooth_value,
        effective_order=effective_order,
    )
    found = metric.corpus_score(list(hypotheses), [list(document) for document in documents])
    return CorpusBleu(
        score=found.score,
        signature=str(metric.get_signature()),
        precisions=tuple(found.precisions),
        brevity_penalty=found.bp,
        hypothesis_length=found.sys_len,
        reference_length=found.ref_len,
    )


def sentence_bleu(hypothesis: Tokens, reference: Tokens, *, max_order: int = 4) -> float:
    """The textbook's BLEU: long n-grams weigh by their precision raised to 1 / 2^n.

    exp(min(0, 1 - reference length / hypothesis length)) * prod_n p_n^(1 / 2^n), where p_n is the
    share of the hypothesis' n-grams that are in the reference, each as often as it is there. It is
    for looking at single sentences, and no substitute for `corpus_bleu`.

    Args:
        hypothesis: Tokens, or a text that is split at white space.
        reference: Tokens, or a text that is split at white space.
        max_order: Longest n-gram; of a shorter hypothesis its length.

    Returns:
        From 0 to 1; 0 for an empty hypothesis.

    Raises:
        ValueError: If `max_order` is below 1.

    Reference: Zhang et al., Dive into Deep Learning, section 10.7.6, https://d2l.ai.
    """
    if max_order < 1:
        raise ValueError(f"max_order is {max_order}: give 1 or more.")
    ours, theirs = _tokens(hypothesis), _tokens(reference)
    if not ours:
        return 0.0
    score = math.exp(min(0.0, 1.0 - len(theirs) / len(ours)))
    for order in range(1, min(max_order, len(ours)) + 1):
        matches = sum((_n_grams(ours, order) & _n_grams(theirs, order)).values())
        score *= (matches / (len(ours) - order + 1)) ** 0.5**order
    return score


def word_error_rate(
    hypotheses: Sequence[Tokens], references: Sequence[Tokens | Sequence[Sequence[str]]]
) -> float:
    """Insertions, deletions and substitutions per token of the references.

    With phones as tokens it is the phone error rate.

    Args:
        hypotheses: Tokens, or texts that are split at white space.
        references: The same; or for an item with several right answers a list of token lists, of
            which the one that needs the fewest edits counts (of equal ones the longest).

    Returns:
        From 0; above 1 where hypotheses are much too long.

    Raises:
        ValueError: If the numbers of items differ, or the references have no tokens.
    """
    edits = length = 0
    for ours, answers in _paired(hypotheses, references):
        best, size = min((edit_distance(ours, theirs), -len(theirs)) for theirs in answers)
        edits, length = edits + best, length - size
    if not length:
        raise ValueError("The references have no tokens: there is nothing to get wrong.")
    return edits / length


def sequence_error_rate(
    hypotheses: Sequence[Tokens], references: Sequence[Tokens | Sequence[Sequence[str]]]
) -> float:
    """Share of the items that are not wholly right: the word error rate of pronunciations.

    Args:
        hypotheses: As in `word_error_rate`.
        references: As in `word_error_rate`; any of several answers is right.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: If the numbers of items differ, or there are none.
    """
    wrong = [ours not in answers for ours, answers in _paired(hypotheses, references)]
    if not wrong:
        raise ValueError("There are no hypotheses: give one or more.")
    return sum(wrong) / len(wrong)


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence of the other."""
    row = list(range(len(second) + 1))
    for place, token in enumerate(first, 1):
        diagonal, row[0] = row[0], place
        for column, other in enumerate(second, 1):
            least = min(row[column] + 1, row[column - 1] + 1, diagonal + (token != other))
            diagonal, row[column] = row[column], least
    return row[-1]


def _paired(hypotheses, references):
    """Each hypothesis' tokens with the token lists that are right."""
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses but {len(references)} references: items must be pairs."
        )
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        several = not isinstance(reference, str) and reference
        several = several and not isinstance(reference[0], str)
        answers = [_tokens(one) for one in (reference if several else [reference])]
        yield _tokens(hypothesis), answers


def _tokens(text: Tokens) -> list[str]:
    return text.split() if isinstance(text, str) else list(text)


def _n_grams(tokens: list[str], order: int) -> Counter:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))
