import dataclasses
import json
import logging

import numpy as np
import pytest

from jaxembed.data import TextPairs, docstrings, load_text_pairs, match_texts
from jaxembed.data import text_pairs as text_pairs_module
from jaxembed.data.pairs import split_of

ROWS = [(f"query {number}", f"document {number}") for number in range(60)]


def write_tsv(path, rows):
    lines = ["query\tdocument\tother", *("\t".join((*row, "x")) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps({"query": q, "document": d}) + "\n" for q, d in rows))


def write_csv(path, rows):
    path.write_text("query,document\n" + "".join(f'{q},"{d}"\n' for q, d in rows))


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="tfds may do without")
    from pyarrow import parquet

    queries, documents = (list(column) for column in zip(*rows, strict=True))
    parquet.write_table(pyarrow.table({"query": queries, "document": documents}), path)


WRITERS = {"tsv": write_tsv, "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_of_any_kind_is_split_by_its_queries(tmp_path, kind):
    path = tmp_path / f"pairs.{kind}"
    WRITERS[kind](path, ROWS)
    splits = load_text_pairs(TextPairs(str(path)))
    wanted = {
        part: [row for row in ROWS if split_of(row[0]) == part]
        for part in ("train", "validation", "test")
    }
    assert list(zip(splits.train.queries, splits.train.documents, strict=True)) == wanted["train"]
    for part, asked in splits.tests.items():
        right = [asked.candidates[row[0]] for row in asked.relevant]
        assert list(zip(asked.queries, right, strict=True)) == wanted[part]
    assert set(splits.tests) == {part for part in ("validation", "test") if wanted[part]}


def test_one_column_twice_pairs_each_text_with_itself(tmp_path):
    write_tsv(tmp_path / "x.tsv", ROWS)
    splits = load_text_pairs(TextPairs(str(tmp_path / "x.tsv"), document="query"))
    assert splits.train.queries == splits.train.documents
    assert len(set(splits.train.ids.tolist())) == len(splits.train)


def test_a_folder_of_tables_keeps_its_splits(tmp_path):
    write_tsv(tmp_path / "train.tsv", ROWS[:4])
    write_jsonl(tmp_path / "test.jsonl", [("a", "one"), ("b", "two"), ("a", "two")])
    splits = load_text_pairs(TextPairs(str(tmp_path)))
    assert splits.train.queries == tuple(query for query, _ in ROWS[:4])
    asked = splits.tests["test"]
    assert asked.queries == ("a", "b") and asked.candidates == ("one", "two")
    np.testing.assert_array_equal(asked.relevant, [[0, 1], [1, -1]])
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="no test table"):
        load_text_pairs(TextPairs(str(tmp_path)))


def test_wrong_documents_stand_in_a_column_of_their_own(tmp_path, monkeypatch):
    """One text or several; only what is trained on needs it."""
    folder, data = tmp_path / "pairs", TextPairs(str(tmp_path / "pairs"), negative="wrong")
    folder.mkdir()
    rows = [{"query": query, "document": document} for query, document in ROWS[:4]]
    for row, wrong in zip(rows, ("no", ["not", "nor"], None, ""), strict=True):
        row["wrong"] = wrong
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_tsv(folder / "test.tsv", ROWS[4:])
    wanted = (("no",), ("not", "nor"), (), ())
    assert load_text_pairs(data).train.negatives == wanted
    several = np.array([b"not", b"nor"], object)
    opened = [{"query": q.encode(), "document": d.encode(), "wrong": several} for q, d in ROWS]
    monkeypatch.setattr(text_pairs_module, "open_tfds", lambda name: opened)
    found = load_text_pairs(dataclasses.replace(data, source="tfds:qa")).train.negatives
    assert set(found) == {("not", "nor")}
    rows[2]["wrong"] = 3
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="line 3: wrong is 3: wanted a text or several"):
        load_text_pairs(data)
    with pytest.raises(ValueError, match="docstring-pairs has no columns to choose"):
        load_text_pairs(dataclasses.replace(data, source="docstring-pairs"))
    with pytest.raises(KeyError, match="has no .other"):
        load_text_pairs(dataclasses.replace(data, negative="other"))


def test_pairs_that_share_a_text_have_equal_ids():
    matches = match_texts(["a", "b", "a", "c", "d"], ["1", "2", "3", "3", "c"])
    first, second, *others = matches.ids.tolist()
    assert others == [first, first, others[-1]] and len({first, second, others[-1]}) == 3
    with pytest.raises(ValueError, match="2 queries but 1 documents"):
        match_texts(["a", "b"], ["c"])


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("only one", "ragged rows", "line 3 has 1 columns, but the header 3"),
        ("\tdocument\tx", "empty querys", "line 3: the query is empty"),
        ("query\t  \tx", "empty documents", "line 3: the document is empty"),
        (f"query\t{'d' * 101}\tx", "too long documents", "line 3.*101 characters.*longest 100"),
    ],
)
def test_bad_rows_are_refused_or_skipped_and_counted(tmp_path, caplog, line, kind, message):
    path = tmp_path / "pairs.tsv"
    write_tsv(path, ROWS)
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(ValueError, match=message + ".*on_bad skip"):
        load_text_pairs(TextPairs(str(path), longest=100))
    with caplog.at_level(logging.WARNING, "jaxembed"):
        splits = load_text_pairs(TextPairs(str(path), longest=100, on_bad="skip"))
    assert splits.skipped == {kind: 1} and f"1 {kind} skipped, first: {path}" in caplog.text
    write_tsv(path, ROWS)
    whole = load_text_pairs(TextPairs(str(path)))
    assert splits.train.fingerprint() == whole.train.fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("x.tsv", b"", ValueError, "is empty"),
        ("x.tsv", b"a\tb\n1\t2\n", KeyError, r"no column 'query'.*\['a', 'b'\]"),
        ("x.tsv", b"query\tdocument\n\xff\t2\n", ValueError, "not UTF-8"),
        ("x.csv", b'query,document\n"a,b\n', ValueError, "after line 0.*mend it"),
        ("x.jsonl", b'{"query": \n', ValueError, "line 1 is no JSON"),
        ("x.jsonl", b"[1]\n", ValueError, "line 1 is no JSON object"),
        ("x.jsonl", b'{"query": 1, "document": "b"}\n', ValueError, "query is 1: wanted a text"),
        ("x.jsonl", b'{"query": "a", "document": "b"}\n', ValueError, "pairs to train on"),
        ("x.parquet", b"PAR1", ValueError, "no Parquet file, or damaged"),
        ("x.xlsx", b"", ValueError, "no table that is known"),
    ],
)
def test_tables_that_cannot_be_read_are_explained(tmp_path, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        load_text_pairs(TextPairs(str(tmp_path / name)))


def test_wrong_options_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="Did you mean 'docstring-pairs'"):
        load_text_pairs(TextPairs("docstring-pair"))
    with pytest.raises(ValueError, match="1 or more characters"):
        TextPairs(longest=0)


def test_parquet_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
        load_text_pairs(TextPairs(str(tmp_path / "x.parquet")))


def test_trecqa_questions_are_asked_within_their_own_sentences(tmp_path):
    rows = {
        "train": ["q1,1,right", "q1,0,wrong", "q1,0,worse", "q2,0,never"],
        "dev": ["q3,1,a", "q3,0,b"],
        "test": ["q4,0,c", "q4,1,d", "q4,1,e", "q5,1,only right", "q6,0,only wrong"],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["qtext,label,atext", *lines]) + "\n")
    splits = load_text_pairs(TextPairs(str(tmp_path)))
    assert (splits.train.queries, splits.train.documents) == (("q1",), ("right",))
    assert splits.train.negatives == (("wrong", "worse"),)
    asked = splits.tests["test"]
    assert asked.queries == ("q4",) and asked.candidates == ("c", "d", "e")
    assert asked.relevant.tolist() == [[1, 2]] and asked.pools.tolist() == [[0, 1, 2]]


def test_cranfield_queries_are_numbered_by_their_order(tmp_path):
    documents = "".join(
        f".I {n}\n.T\ntitle {n} .\n.A\nsomebody\n.B\n\n.W\n{text}"
        for n, text in {1: "title 1 .\nwords of 1\n", 2: "", 3: "title 3 .\nof\n3\n"}.items()
    )
    (tmp_path / "cran.all.1400").write_text(documents)
    (tmp_path / "cran.qry").write_text(".I 001\n.W\nfirst\n.I 004\n.W\nsecond\nquery\n")
    (tmp_path / "cranqrel").write_text("1 1 2 \n1 3 4\n2 3 1\n2 1 -1\n")
    with pytest.raises(ValueError, match="document 2: the document is empty"):
        load_text_pairs(TextPairs(str(tmp_path)))
    splits = load_text_pairs(TextPairs(str(tmp_path), on_bad="skip"))
    assert splits.skipped == {"empty documents": 1}
    assert splits.train.queries == ("title 1 .", "title 3 .")
    assert splits.train.documents == ("words of 1", "of 3")
    asked = splits.tests["test"]
    assert asked.queries == ("first", "second query")
    assert asked.candidates == ("title 1 . words of 1", "title 3 . of 3")
    assert asked.relevant.tolist() == [[0, 1], [1, -1]]
    assert asked.gains.tolist() == [[3, 1], [4, 0]]
    (tmp_path / "cranqrel").write_text("1 1 2\n1 9 1\n1 1 x\n2 3 1\n")
    splits = load_text_pairs(TextPairs(str(tmp_path), on_bad="skip"))
    assert splits.skipped["judgements of no document"] == 1
    assert splits.skipped["unreadable judgements"] == 1


def test_tfds_features_are_named(monkeypatch):
    opened = [{"question": q.encode(), "answer": d.encode()} for q, d in ROWS]
    monkeypatch.setattr(text_pairs_module, "open_tfds", lambda name: opened)
    splits = load_text_pairs(TextPairs("tfds:qa", query="question", document="answer"))
    assert len(splits.train) == sum(split_of(query) == "train" for query, _ in ROWS)
    with pytest.raises(KeyError, match=r"no 'query': it has \['answer', 'question'\]"):
        load_text_pairs(TextPairs("tfds:qa"))


SOURCE = '''
def dump(obj, fp: IO, *, skip=False, cls=JSONEncoder, **kw) -> None:
    """Serialize the object to a file. More is said here.

    And here.
    """
    def inner():
        """This cannot be called from outside."""

class Counter(dict):
    """A class is no function."""
    def most_common(self, n=None):
        """List the elements and their counts,
        from the most common on
        """
    @staticmethod
    def fresh(a, b=2): "Make a fresh one."
    @classmethod
    async def of(cls, /, x): "Make one of others."
    def __len__(self): "Count all the elements."
    def again(self): "Make a fresh one."
    def shout(self): "Too short."
    def code(self): "code(x) makes a code of it."

if True:
    def hidden(): """Stands under a condition."""
'''


def test_docstring_pairs_are_what_functions_do_and_how_they_are_called(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def (")
    monkeypatch.setattr(docstrings, "_package_folder", lambda name: tmp_path)
    assert list(docstrings.read_docstring_pairs(["numpy"])) == [
        ("Serialize the object to a file.", "dump(obj, fp, *, skip=False, cls=..., **kw)"),
        (
            "List the elements and their counts, from the most common on",
            "Counter.most_common(n=None)",
        ),
        ("Make a fresh one.", "Counter.fresh(a, b=2)"),
        ("Make one of others.", "Counter.of(x)"),
        ("Stands under a condition.", "hidden()"),
    ]
    with pytest.raises(KeyError, match="not packages to read"):
        list(docstrings.read_docstring_pairs(["nothing"]))


def test_docstring_pairs_are_split_by_the_names_of_functions(monkeypatch):
    pairs = list(docstrings.read_docstring_pairs(["networkx", "optax"]))
    monkeypatch.setattr(docstrings, "read_docstring_pairs", lambda: iter(pairs))
    splits = load_text_pairs(TextPairs())
    bare = {
        part: {text.partition("(")[0].rpartition(".")[2] for text in texts}
        for part, texts in (
            ("train", splits.train.documents),
            ("test", splits.tests["test"].candidates),
        )
    }
    assert bare["train"] and bare["test"] and not bare["train"] & bare["test"]
    assert len(splits.train) + sum(map(len, splits.tests.values())) == len(pairs) > 1000
    assert len(set(splits.train.ids.tolist())) == len(splits.train)
