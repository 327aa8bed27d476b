"""Pairs of texts for two towers: queries and the documents that answer them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse

from jaxembed.data import docstrings
from jaxembed.data.faults import Faults, check_text
from jaxembed.data.names import nearest_spelling
from jaxembed.data.pairs import split_of
from jaxembed.data.retrieval_set import RetrievalSet, make_retrieval_set
from jaxembed.data.tables import TABLES, field_text, read_rows
from jaxembed.data.tfds_source import PREFIX, open_tfds

_TRECQA, _CRANFIELD = (
    ("train.csv", "dev.csv", "test.csv"),
    ("cran.all.1400", "cran.qry", "cranqrel"),
)
# Cranfield's codes: 1 is a complete answer, 4 of minimum interest. The code -1, one a query, is
# none that its readme explains, and is left out as in the figures others report.
_GAINS = {"-1": 0.0, "1": 4.0, "2": 3.0, "3": 2.0, "4": 1.0}
Pair = tuple[str, str, tuple[str, ...]]  # query, document, documents that are wrong
Found = tuple[str, Pair]  # what decides the split first


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Queries with their documents, to train on and to retrieve.

    Attributes:
        source: "docstring-pairs" (embedded); PATH of TREC-QA's folder (questions and answer
            sentences), of Cranfield's (titles with abstracts to train on, queries with judged
            documents to test), of a table (.tsv, .csv, .jsonl, .parquet) or of a folder with
            tables train.* and test.*; or tfds:NAME. What has no test set of its own is split by a
            hash of the query (of the function's name, of `docstring-pairs`).
        query: Name of the column or feature of queries.
        document: Name of the column or feature of documents; that of queries pairs each text with
            itself, for towers whose dropout makes two vectors of it.
        negative: Name of the column or feature of a document that is known not to answer the query,
            or of several in a list; None for none. TREC-QA's are its wrong sentences.
        longest: Most characters a text may have.
        on_bad: Whether what is empty, too long, ragged or without a partner is refused, or skipped
            and counted.
    """

    source: str = "docstring-pairs"
    query: str = "query"
    document: str = "document"
    negative: str | None = None
    longest: int = 10_000
    on_bad: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"longest is {self.longest}; give 1 or more characters.")


@dataclasses.dataclass(frozen=True)
class TextMatches:
    """Pairs of texts.

    Attributes:
        queries: One a pair.
        documents: What answers it.
        negatives: Documents known not to answer it; often none.
        ids: int32 [n]; pairs that share a query or a document have equal ids, so they are no
            negatives of one another.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    ids: np.ndarray

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.queries)

    def fingerprint(self) -> str:
        """A hash of all texts."""
        content = json.dumps([self.queries, self.documents, self.negatives])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class TextPairSplits:
    """What to train on and what to test on.

    Attributes:
        train: The training pairs.
        tests: "test", and "validation" where there is one.
        skipped: How many bad items of each kind were left out.
    """

    train: TextMatches
    tests: dict[str, RetrievalSet]
    skipped: dict[str, int]


def load_text_pairs(data: TextPairs) -> TextPairSplits:
    """Reads what to train on and what to test on.

    Args:
        data: Which, and how.

    Returns:
        Training pairs, and queries with candidates to test on.

    Raises:
        FileNotFoundError: If `source` is neither a known name nor an existing path.
        KeyError: If a column or feature is not there.
        ModuleNotFoundError: If a package that is wanted is not installed.
        ValueError: If something is bad, and bad data are refused; the message names it.
    """
    faults = Faults(data.source, data.on_bad)
    if data.source == "docstring-pairs":
        _check_no_column(data)
        pairs = docstrings.read_docstring_pairs()
        found = ((_bare_name(signature), (text, signature, ())) for text, signature in pairs)
        return _split(found, data, faults)
    if data.source.startswith(PREFIX):
        return _split(_read_tfds(data, faults), data, faults)
    path = pathlib.Path(data.source)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {path}, and no embedded set of pairs of texts of that "
            f"name: docstring-pairs is one.{nearest_spelling(data.source, ['docstring-pairs'])}"
        )
    if path.is_file():
        return _split(_read_table(path, data, faults), data, faults)
    if all((path / name).is_file() for name in _CRANFIELD):
        _check_no_column(data)
        return _load_cranfield(path, data, faults)
    if all((path / name).is_file() for name in _TRECQA) and _is_trecqa(path / _TRECQA[0]):
        _check_no_column(data)
        return _load_trecqa(path, data, faults)
    return _load_folder(path, data, faults)


def _check_no_column(data: TextPairs) -> None:
    if data.negative is not None:
        raise ValueError(
            f"negative is {data.negative!r}, but {data.source} has no columns to choose: leave it "
            "out. TREC-QA's wrong sentences are taken without."
        )


def versions(source: str) -> dict[str, str]:
    """Versions of the packages that a source comes out of."""
    if source == "docstring-pairs":
        return docstrings.versions()
    if source.startswith(PREFIX):
        import importlib.metadata

        return {"tensorflow-datasets": importlib.metadata.version("tensorflow-datasets")}
    return {}


def match_texts(
    queries: Sequence[str],
    documents: Sequence[str],
    negatives: Sequence[Sequence[str]] | None = None,
) -> TextMatches:
    """Makes pairs, and gives equal ids to those that share a query or a document.

    Args:
        queries: One a pair.
        documents: One a pair.
        negatives: Documents known not to answer a query; by default none.

    Returns:
        The pairs in the same order; ids are numbered as they come.

    Raises:
        ValueError: If lengths differ.
    """
    if len(queries) != len(documents):
        raise ValueError(f"{len(queries)} queries but {len(documents)} documents: give pairs.")
    # Pairs are edges between texts; what is connected has one id.
    nodes: dict[tuple[int, str], int] = {}
    edges = [
        (nodes.setdefault((0, query), len(nodes)), nodes.setdefault((1, document), len(nodes)))
        for query, document in zip(queries, documents, strict=True)
    ]
    starts, ends = np.array(edges, np.int64).reshape(-1, 2).T
    graph = scipy.sparse.coo_array((np.ones(len(edges)), (starts, ends)), (len(nodes),) * 2)
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    hard = [()] * len(queries) if negatives is None else negatives
    return TextMatches(
        tuple(queries),
        tuple(documents),
        tuple(tuple(texts) for texts in hard),
        labels[starts].astype(np.int32),
    )


def _bare_name(signature: str) -> str:
    return signature.partition("(")[0].rpartition(".")[2]


def _check_pair(query: str, document: str, where: str, data: TextPairs, faults: Faults):
    """Both texts if they are good, or None."""
    query = check_text(query, data.longest, "query", where, faults)
    document = check_text(document, data.longest, "document", where, faults)
    return None if query is None or document is None else (query, document)


def _find_negatives(
    row: Mapping[str, Any], where: str, data: TextPairs, faults: Faults
) -> tuple[str, ...]:
    """The wrong documents of a row: of a text, a list of texts, or nothing."""
    if data.negative is None:
        return ()
    if data.negative not in row:
        raise KeyError(f"{where} has no {data.negative!r}: it has {list(row)}.")
    value = row[data.negative]
    if hasattr(value, "tolist"):  # of TFDS
        value = value.tolist()
    texts = value if isinstance(value, list | tuple) else [] if value is None else [value]
    texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in texts]
    if not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{where}: {data.negative} is {value!r:.40}: wanted a text or several.")
    checked = (
        check_text(one, data.longest, "negative", where, faults) for one in texts if one.strip()
    )
    return tuple(one for one in checked if one is not None)


def _split(found: Iterable[Found], data: TextPairs, faults: Faults) -> TextPairSplits:
    """Splits pairs by hash."""
    parts: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for decider, (query, document, wrong) in found:
        pair = _check_pair(query, document, f"{data.source}, {query[:40]!r}", data, faults)
        if pair:
            parts[split_of(decider)].append((*pair, wrong))
    skipped = faults.finish(sum(map(len, parts.values())))
    if not parts["train"] or not parts["test"]:
        raise ValueError(
            f"{data.source} has {len(parts['train'])} pairs to train on and {len(parts['test'])} "
            "to test on after its split by hash: give more, or a folder with train.* and test.*."
        )
    tests = {name: _ask(parts[name]) for name in ("validation", "test") if parts[name]}
    return TextPairSplits(match_texts(*zip(*parts["train"], strict=True)), tests, skipped)


def _ask(pairs: Sequence[Pair]) -> RetrievalSet:
    """Distinct queries, to be answered from all distinct documents."""
    documents = dict.fromkeys(document for _, document, _ in pairs)
    places = {document: place for place, document in enumerate(documents)}
    right: dict[str, dict[int, None]] = {}
    for query, document, _ in pairs:
        right.setdefault(query, {})[places[document]] = None
    return make_retrieval_set(list(right), list(places), [list(row) for row in right.values()])


def _read_table(path: pathlib.Path, data: TextPairs, faults: Faults) -> Iterable[Found]:
    for where, row in read_rows(path, faults):
        query, document = (field_text(row, field, path) for field in (data.query, data.document))
        pair = _check_pair(query, document, where, data, faults)
        if pair:
            yield pair[0], (*pair, _find_negatives(row, where, data, faults))


def _load_folder(folder: pathlib.Path, data: TextPairs, faults: Faults) -> TextPairSplits:
    """Tables of the names of splits."""
    parts: dict[str, list[Pair]] = {}
    for split in ("train", "validation", "test"):
        tables = [folder / f"{split}{suffix}" for suffix in TABLES]
        table = next((file for file in tables if file.is_file()), None)
        if table is not None:
            asked = data if split == "train" else dataclasses.replace(data, negative=None)
            parts[split] = [pair for _, pair in _read_table(table, asked, faults)]
        elif split != "validation":
            raise FileNotFoundError(
                f"{folder} has no {split} table ({', '.join(TABLES)}), and is no set of pairs that "
                "is known."
            )
    skipped = faults.finish(min(len(parts["train"]), len(parts["test"])))
    train = match_texts(*zip(*parts.pop("train"), strict=True))
    return TextPairSplits(train, {name: _ask(pairs) for name, pairs in parts.items()}, skipped)


def _read_tfds(data: TextPairs, faults: Faults) -> Iterable[Found]:
    source = open_tfds(data.source)
    for index in range(len(source)):
        element = source[index]
        for field in (data.query, data.document):
            if field not in element:
                raise KeyError(f"{data.source} has no {field!r}: it has {sorted(element)}.")
        texts = [element[field].decode("utf-8", "replace") for field in (data.query, data.document)]
        where = f"{data.source}, {index}"
        pair = _check_pair(*texts, where, data, faults)
        if pair:
            yield pair[0], (*pair, _find_negatives(element, where, data, faults))


def _is_trecqa(path: pathlib.Path) -> bool:
    with open(path, encoding="utf-8") as file:
        return file.readline().strip() == "qtext,label,atext"


def _load_trecqa(folder: pathlib.Path, data: TextPairs, faults: Faults) -> TextPairSplits:
    """Questions and sentences, labelled 1 if they answer them.

    Each question is answered from its own sentences. As is usual ("clean"), those without a right
    or without a wrong sentence are not tested on.
    """
    parts = {}
    for split, name in zip(("train", "validation", "test"), _TRECQA, strict=True):
        asked: dict[str, dict[str, bool]] = {}
        for where, row in read_rows(folder / name, faults):
            pair = _check_pair(row["qtext"], row["atext"], where, data, faults)
            if row["label"] not in ("0", "1"):
                faults.report("unknown labels", f"{where}: the label is {row['label']!r}")
            elif pair:
                answers = asked.setdefault(pair[0], {})
                answers[pair[1]] = answers.get(pair[1], False) or row["label"] == "1"
        parts[split] = asked
    queries, documents, negatives = [], [], []
    for question, answers in parts.pop("train").items():
        wrong = tuple(sentence for sentence, is_right in answers.items() if not is_right)
        for sentence, is_right in answers.items():
            if is_right:
                queries.append(question)
                documents.append(sentence)
                negatives.append(wrong)
    tests = {name: _ask_within(asked) for name, asked in parts.items()}
    skipped = faults.finish(len(queries))
    return TextPairSplits(match_texts(queries, documents, negatives), tests, skipped)


def _ask_within(asked: dict[str, dict[str, bool]]) -> RetrievalSet:
    """Questions, each to be answered from its own sentences."""
    asked = {question: found for question, found in asked.items() if len({*found.values()}) == 2}
    sentences = list(dict.fromkeys(text for found in asked.values() for text in found))
    places = {text: place for place, text in enumerate(sentences)}
    return make_retrieval_set(
        list(asked),
        sentences,
        [
            [places[text] for text, is_right in found.items() if is_right]
            for found in asked.values()
        ],
        pools=[[places[text] for text in found] for found in asked.values()],
    )


def _load_cranfield(folder: pathlib.Path, data: TextPairs, faults: Faults) -> TextPairSplits:
    """Abstracts found by queries; trained on titles with the rest of their abstracts."""
    documents, titles, numbers = [], [], {}
    for number, fields in _read_marked(folder / _CRANFIELD[0]):
        where = f"{_CRANFIELD[0]}, document {number}"
        text = check_text(fields.get("W", ""), data.longest, "document", where, faults)
        if text:
            numbers[number] = len(documents)
            documents.append(text)
            titles.append(" ".join(fields.get("T", "").split()))
    judged: dict[int, dict[int, float]] = {}
    lines = (folder / _CRANFIELD[2]).read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        where, words = f"{_CRANFIELD[2]}, line {number}", line.split()
        if len(words) != 3 or not words[0].isdigit() or words[2] not in _GAINS:
            faults.report("unreadable judgements", f"{where} is {line!r}")
        elif words[1] not in numbers:
            faults.report("judgements of no document", f"{where}: document {words[1]} is not there")
        elif _GAINS[words[2]]:
            place = numbers[words[1]]
            worth = judged.setdefault(int(words[0]), {})
            worth[place] = max(_GAINS[words[2]], worth.get(place, 0))
    queries, relevant, gains = [], [], []
    # Judgements number the queries by their order, not by their own numbers.
    for order, (number, fields) in enumerate(_read_marked(folder / _CRANFIELD[1]), 1):
        where = f"{_CRANFIELD[1]}, query {number}"
        text = check_text(fields.get("W", ""), data.longest, "query", where, faults)
        if text and order not in judged:
            faults.report("queries without judgements", f"{where} has no judgement")
        elif text:
            queries.append(text)
            relevant.append(list(judged[order]))
            gains.append(list(judged[order].values()))
    pairs = [
        (title, rest)
        for title, text in zip(titles, documents, strict=True)
        if title and (rest := text.removeprefix(title).strip())
    ]
    test = make_retrieval_set(queries, documents, relevant, gains=gains)
    skipped = faults.finish(min(len(pairs), len(queries)))
    return TextPairSplits(match_texts(*zip(*pairs, strict=True)), {"test": test}, skipped)


def _read_marked(path: pathlib.Path) -> Iterable[tuple[str, dict[str, str]]]:
    """Numbers and fields by letter of a file in which lines .I N and .W begin an entry, a field."""
    for entry in re.split(r"^\.I ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        number, _, rest = entry.partition("\n")
        fields = re.split(r"^\.([A-Z])\s*$", rest, flags=re.MULTILINE)
        letters: dict[str, str] = {}
        for letter, text in zip(fields[1::2], fields[2::2], strict=True):
            letters.setdefault(letter, text)
        yield number.strip().lstrip("0"), letters
