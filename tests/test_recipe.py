import dataclasses
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxembed.data import (
    HistorySet,
    ImageCaptions,
    ImageSet,
    MaskedWords,
    PairSet,
    PieceCorpus,
    TextCorpus,
    TextPairs,
)
from jaxembed.models import (
    AE,
    CBOW,
    VAE,
    Bert,
    Contrastive,
    DualEncoder,
    Reconstruction,
    SentenceBert,
    Seq2Seq,
    SkipGram,
    TokenCrossEntropy,
    TransformerSeq2Seq,
    TwoViews,
    VariationalBound,
    ViewEncoder,
)
from jaxembed.models.word2vec import RowSGD, WindowPairs
from jaxembed.nn import BagOfWords, ResNet, TextTransformer, Views, VisionTransformer
from jaxembed.recipe import (
    TYPES,
    CodeEvaluation,
    MaskedEvaluation,
    MeshShape,
    RankingEvaluation,
    Recipe,
    RetrievalEvaluation,
    TranslationEvaluation,
    WordEvaluation,
    fields_of,
)
from jaxembed.train import Adam

SMALL = Recipe(SkipGram(vocab_size=0, dim=8), TextCorpus("text.txt"))
# Every type of the table with no field at its default.
FULL = [
    Recipe(
        model=SkipGram(7, 12, "hierarchical-softmax"),
        data=TextCorpus("tfds:name:train[:10%]", 2, 900, "tokenizer.json", True),
        loss=WindowPairs(3, 0.0, 7, -0.5),
        optim=RowSGD(0.5, 0.25, 2.0, 512, 8, 48, 4),
        evaluation=WordEvaluation("questions.txt", ("one.tsv", "тwo.tsv"), 500),
        epochs=9,
        seed=2**32 - 1,
        mesh=MeshShape(2, 4),
    ),
    Recipe(
        model=AE((2, 2), 3, (5,), "bernoulli", "conv", "tanh", 2, (2, 3), "bfloat16"),
        data=ImageSet("folder", 0.5, "static", 28, 3, "skip"),
        loss=Reconstruction("masking", 0.25, 0.5),
        optim=Adam(0.5, "linear", 0.25, 64, 2, 0.125, 1.5, 0.75, 0.5),
        evaluation=CodeEvaluation(7, 8, 9),
        epochs=9,
        seed=0,
        mesh=MeshShape(2, 4),
    ),
    Recipe(
        model=VAE(
            (9,), 3, (5,), "multinomial", "conv", "tanh", 2, (2,), "bfloat16", "vamp", 6, "l2", 0.5
        ),
        data=HistorySet("folder"),
        loss=VariationalBound("elbo", 0.5, 0.25, 0.125, 4),
        evaluation=RankingEvaluation(5),
    ),
    Recipe(
        model=VAE((4, 4)),
        data=ImageSet("digits"),
        loss=VariationalBound("iwae", samples=5, gradient="doubly-reparameterized"),
    ),
    Recipe(
        model=Seq2Seq(3, 4, 5, 6, 2, "lstm", False, "dot", 0.5, True),
        data=PairSet(
            "f", ("a", "b"), "dev", "words", "words", True, 2, 9, True, 7, "v.bin", "w.bin"
        ),
        loss=TokenCrossEntropy(0.25),
        optim=Adam(),
        evaluation=TranslationEvaluation("error-rates", 3, "length^0.5", 7),
    ),
    Recipe(TransformerSeq2Seq(0, 0, activation="gelu", shared=True), PairSet("cmudict")),
    Recipe(CBOW(0, 3, "softmax"), TextCorpus("docstrings", max_vocab=None)),
    Recipe(
        model=Bert(9, 8, 2, 16, 1, 7, 1, 2, "gelu-tanh", 0.2, 0.3, 1e-5, False, True, True),
        data=PieceCorpus("text.txt", "bytes", 900, False, 8, 0.25),
        loss=MaskedWords(0.2, 0.7, 0.2, True, False),
        evaluation=MaskedEvaluation(7),
    ),
    Recipe(
        model=DualEncoder(
            VisionTransformer((4, 4, 1), 2, 8, 1, 16, 2, "silu", "mean", False, True, 0.1, 1e-5),
            TextTransformer(9, 8, 1, 16, 2, 7, "silu", True, "mean", 6, 0.1, 1e-6),
            6,
            False,
            10.0,
            -10.0,
        ),
        data=ImageCaptions("f", ("a",), 0.5, 9, 3, ("de", "en"), "i", "c", 99, "skip"),
        loss=Contrastive("sigmoid", 2, 8, 4, (2, 6), "bfloat16", Views(1, 0.5, 0.4, 0.25, 0.125)),
        evaluation=RetrievalEvaluation(9),
    ),
    Recipe(DualEncoder(BagOfWords(9, 8, 7)), TextPairs("f.tsv", "q", "d", "n", 99, "skip")),
    Recipe(DualEncoder(ResNet((1, 1), 4, False, "small", "flat"), BagOfWords(9)), ImageCaptions()),
    Recipe(DualEncoder(SentenceBert(Bert(9, 8), "max", 6)), TextPairs("f"), start="folder"),
    Recipe(
        model=ViewEncoder((4, 4), (8,), 3, 2, "tanh", "bfloat16"),
        data=ImageSet("digits"),
        loss=TwoViews(0.5, 0.25, 2, 0.0),
    ),
]


def text_of(recipe):
    return json.dumps(recipe.to_json())


def changed(path, value, recipe=SMALL):
    """The recipe's JSON with one place changed."""
    content = recipe.to_json()
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    place[last] = value
    return content


def within(value):
    """A dataclass, and all those in its fields."""
    if dataclasses.is_dataclass(value):
        yield value
        for name in fields_of(value):
            yield from within(getattr(value, name))


@pytest.mark.parametrize("recipe", [SMALL, *FULL])
def test_recipe_goes_to_json_and_back(recipe):
    again = Recipe.from_json(json.loads(text_of(recipe)))
    assert again == recipe
    assert text_of(again) == text_of(recipe)


def test_full_recipes_cover_the_table_and_every_field():
    seen = {type(value).__name__ for recipe in (SMALL, *FULL) for value in within(recipe)}
    assert seen == TYPES.keys()
    whole = [FULL[0], FULL[1]]
    parts = [getattr(recipe, name) for recipe in whole for name in fields_of(recipe)]
    parts += [FULL[2].model, FULL[2].data, FULL[2].evaluation]
    for value in [*whole, *parts]:
        if type(value) in TYPES.values():
            defaults = {field.name: field.default for field in dataclasses.fields(value)}
            same = [name for name in fields_of(value) if getattr(value, name) == defaults[name]]
            # Only dual encoders have a start, as one above.
            assert same == (["start"] if isinstance(value, Recipe) else []), value


@given(
    lr=st.floats(1e-5, 1e30),
    sample=st.floats(0, 1),
    source=st.text(),
    pairs=st.lists(st.text(), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_value_survives_json(lr, sample, source, pairs, seed):
    recipe = dataclasses.replace(
        SMALL,
        data=TextCorpus(source),
        loss=WindowPairs(sample=sample),
        optim=RowSGD(lr=lr, final_lr=0.0),
        evaluation=WordEvaluation(pairs=tuple(pairs)),
        seed=seed,
    )
    assert Recipe.from_json(json.loads(text_of(recipe))) == recipe


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("model.type", "SkipGramm"), r"recipe\.model is of type 'SkipGramm'.*'SkipGram'"),
        (changed("type", "os.system"), r"recipe is of type 'os\.system'"),
        (changed("optim.type", None), r"recipe\.optim is of type None"),
        (changed("optim.type", ["RowSGD"]), r"recipe\.optim is of type \['RowSGD'\]"),
        (changed("optim.lrr", 1.0), r"recipe\.optim has a field 'lrr'.*'lr'"),
        (changed("epoch", 1), r"recipe has a field 'epoch'.*'epochs'"),
        (changed("model.parent", None), r"recipe\.model has a field 'parent'"),
        (changed("model.dim", "8"), r"recipe\.model\.dim is '8'; wanted int"),
        (changed("model.dim", True), r"recipe\.model\.dim is True; wanted int"),
        (changed("model.objective", "soft"), r"objective is 'soft'; wanted one of 'negative-"),
        (changed("data.lowercase", 0), r"data\.lowercase is 0; wanted bool"),
        (changed("data.source", 5), r"data\.source is 5; wanted str"),
        (changed("data.max_vocab", 1.5), r"data\.max_vocab is 1\.5; wanted int \| None"),
        (changed("evaluation.pairs", "a.tsv"), r"pairs is 'a\.tsv'; wanted tuple\[str, \.\.\.\]"),
        (changed("evaluation.pairs", ["a.tsv", 1]), r"pairs is 1; wanted str"),
        (changed("data", {"type": "RowSGD"}), "wanted TextCorpus"),
        (changed("model", None), r"recipe\.model is None; wanted"),
        (changed("epochs", 0), "epochs is 0"),
        (changed("seed", -1), "seed is -1"),
        (changed("mesh.data", 0), "a mesh of 0 x 1 devices"),
        (changed("evaluation.restrict_vocab", 0), "restrict_vocab is 0"),
        ({"type": "Recipe", "model": {"type": "CBOW", "vocab_size": 0}}, "incomplete.*'data'"),
        (
            changed("optim", {"type": "Adam"}),
            r"recipe\.optim is Adam\(.*wanted RowSGD",
        ),
        (
            changed("evaluation", {"type": "CodeEvaluation"}, FULL[2]),
            r"recipe\.evaluation is CodeEvaluation\(.*wanted RankingEvaluation",
        ),
        ({"type": "RowSGD"}, "describes a RowSGD; wanted a Recipe"),
        ([], "describes a list; wanted a Recipe"),
        ({}, "recipe is of type None"),
    ],
)
def test_wrong_json_says_what_came_and_what_is_near(content, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(content)


@pytest.mark.parametrize("name", ["antigravity", "this", "lib2to3.main", "os.system", "__main__"])
def test_reading_a_recipe_imports_nothing(name):
    for path in ("type", "model.type", "optim.type"):
        before = set(sys.modules)
        with pytest.raises(ValueError, match="is of type"):
            Recipe.from_json(changed(path, name))
        assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("optim.lr", "0.05", 0.05),
        ("optim.lr", "1", 1.0),
        ("optim.lr", "1e-3", 1e-3),
        ("epochs", "7", 7),
        ("model.dim", "32", 32),
        ("model.objective", "softmax", "softmax"),
        ("data.max_vocab", "50", 50),
        ("data.max_vocab", "none", None),
        ("data.max_vocab", "None", None),
        ("data.tokenizer", "null", None),
        ("data.tokenizer", "t.json", "t.json"),
        ("data.lowercase", "true", True),
        ("data.lowercase", "True", True),
        ("data.lowercase", "False", False),
        ("data.source", "007", "007"),
        ("data.source", "1e5", "1e5"),
        ("data.source", "true", "true"),
        ("evaluation.analogies", "12", "12"),
        ("evaluation.pairs", '["a", "b"]', ("a", "b")),
        ("evaluation.pairs", "[]", ()),
        ("mesh.model", "4", 4),
    ],
)
def test_override_reaches_a_field(path, text, value):
    recipe = SMALL.override({path: text})
    found = recipe
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)
    assert len(recipe.differences(SMALL)) == (recipe != SMALL) <= 1
    assert type(recipe.model) is SkipGram


def test_fields_that_hold_only_together_are_changed_together():
    changes = {"optim.lr": "1e-6", "optim.final_lr": "1e-7", "epochs": "2", "model.dim": "9"}
    for order in (changes, dict(reversed(changes.items()))):
        recipe = SMALL.override(order)
        assert (recipe.optim.lr, recipe.optim.final_lr) == (1e-6, 1e-7)
        assert (recipe.epochs, recipe.model.dim) == (2, 9)
    sizes = {"optim.damping": "50", "optim.positions": "512"}
    assert SMALL.override(sizes).optim == RowSGD(damping=50.0, positions=512)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optim.lrr", "1", r"no option --optim\.lrr\..*'optim\.lr'"),
        ("optm.lr", "1", r"no option --optm\.lr\..*'optim\.lr'"),
        ("epoch", "1", r"no option --epoch\..*'epochs'"),
        ("optim.lr.x", "1", r"no option --optim\.lr\.x"),
        ("model.parent", "1", r"no option --model\.parent"),
        ("model.name", "1", r"no option --model\.name"),
        ("optim", "1", r"--optim names a group.*--optim\.X"),
        ("optim.lr", "fast", r"--optim\.lr is 'fast'; wanted float"),
        ("optim.lr", "NaN", "lr is nan"),
        ("epochs", "1.5", r"--epochs is 1\.5; wanted int"),
        ("epochs", "none", "--epochs is None; wanted int"),
        ("data.lowercase", "yes", r"--data\.lowercase is 'yes'; wanted bool"),
        ("model.objective", "hs", r"--model\.objective is 'hs'; wanted one of 'negative"),
        ("evaluation.pairs", "a.tsv", r"--evaluation\.pairs is 'a\.tsv'; wanted tuple"),
        ("seed", str(2**32), r"seed is 4294967296; give a number from 0"),
    ],
)
def test_wrong_override_says_what_came_and_what_is_near(path, text, message):
    with pytest.raises(ValueError, match=message):
        SMALL.override({path: text})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 16_384}, "16384 positions.*diverged.*<= 8192"),
        ({"damping": math.inf}, "damping inf.*diverged.*damping <= 8"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": 0.01, "final_lr": 0.02}, r"final_lr is 0\.02"),
        ({"shared": 0}, "shared is 0"),
    ],
)
def test_unsafe_sizes_are_refused_with_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        RowSGD(**changes)


def test_differences_name_field_and_both_values():
    other = dataclasses.replace(
        SMALL, model=CBOW(0, 8), seed=2, evaluation=WordEvaluation("q.txt", ("a",))
    )
    assert SMALL.differences(SMALL) == []
    assert SMALL.differences(other) == [
        "evaluation.analogies: None and 'q.txt'",
        "evaluation.pairs: [] and ['a']",
        "model.type: 'SkipGram' and 'CBOW'",
        "seed: 1 and 2",
    ]


UNCHECKED = """
import pathlib
from jaxembed.data import TextCorpus
from jaxembed.models import SkipGram
from jaxembed.recipe import Recipe
good = {"model": SkipGram(0, 8), "data": TextCorpus("x")}
Recipe(**good)
for wrong in (
    {"data": TextCorpus(pathlib.Path("x"))},
    {"model": SkipGram(0, 8.0)},
    {"model": SkipGram(0, 8, "soft")},
    {"epochs": "5"},
):
    try:
        Recipe(**good | wrong)
    except ValueError as error:
        print(error)
"""


def test_wrong_types_are_refused_without_a_type_checker_too():
    done = subprocess.run([sys.executable, "-c", UNCHECKED], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 4
    assert lines[0] == "recipe.data.source is PosixPath('x'); wanted str."
    assert lines[1:] == [
        "recipe.model.dim is 8.0; wanted int.",
        "recipe.model.objective is 'soft'; wanted one of 'negative-sampling', "
        "'hierarchical-softmax', 'softmax'.",
        "recipe.epochs is '5'; wanted int.",
    ]
