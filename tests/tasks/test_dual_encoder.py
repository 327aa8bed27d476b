"""Dual encoders as runs: what they learn, embedding by tower, meshes and checkpoints."""

import collections
import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_hosts
from PIL import Image

from jaxembed import run as run_module
from jaxembed.cli import main
from jaxembed.convert.sentence_transformers import save_sentence_transformer
from jaxembed.data import (
    ImageCaptions,
    ImageSet,
    TextPairs,
    load_text_pairs,
    load_tokenizer,
    match_texts,
)
from jaxembed.encoder import load_encoder
from jaxembed.models import AE, Contrastive, DualEncoder
from jaxembed.nn import BagOfWords, ResNet, TextTransformer, VisionTransformer
from jaxembed.recipe import MeshShape, Recipe, RetrievalEvaluation
from jaxembed.run import find_task, load_run, plot_run, reproduce, train_recipe
from jaxembed.tasks import dual_encoder
from jaxembed.tasks.dual_encoder import encode_side, encode_test, load_tests
from jaxembed.tasks.encoding import pad_texts
from jaxembed.tasks.pair_rows import known_negatives
from jaxembed.tasks.pretrained import load_pretrained
from jaxembed.train import Adam, Interrupted, make_mesh, train

COLORS = {"black": 0, "dark": 70, "grey": 130, "light": 190, "white": 250}
PLACES = ("top", "middle", "bottom")


def without_figures(recipe, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_try_to_plot", lambda folder: None)
        return train_recipe(recipe, folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Stripes of five shades at three places, each several times, with captions."""
    folder, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    lines = ["image,caption"]
    for number in range(120):
        color, place = list(COLORS)[number % 5], number // 5 % 3
        picture = random.integers(90, 110, (9, 8), np.uint8)[:, :, None].repeat(3, 2)
        picture[3 * place : 3 * place + 3] = COLORS[color]
        Image.fromarray(picture[:8]).save(folder / f"{number:03}.png")
        lines.append(f"{number:03}.png,a {color} stripe at the {PLACES[place]}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def picture_recipe(source):
    return Recipe(
        DualEncoder(
            VisionTransformer(patch=4, width=16, layers=1, hidden=16, heads=2, pool="mean"),
            BagOfWords(64, 16, 12),
            projection=8,
            start_scale=20.0,
        ),
        ImageCaptions(str(source), held_out_share=0.2),
        optim=Adam(lr=0.02, batch_size=32),
        evaluation=RetrievalEvaluation(k=3),
        epochs=16,
    )


@pytest.fixture(scope="module")
def seen(pictures, tmp_path_factory):
    return without_figures(picture_recipe(pictures), tmp_path_factory.mktemp("seen") / "run")


def test_captions_of_unseen_pictures_are_found(seen):
    """Of 15 captions, chance finds 1 in 15."""
    assert seen.results["recall@1/test"].value > 0.6
    assert seen.results["recall@1/test/back"].value > 0.6
    assert all(is_equal for *_, is_equal in reproduce(seen.path))
    assert seen.recipe.from_json(seen.recipe.to_json()) == seen.recipe
    assert seen.model.query.image == (8, 8, 1) and seen.model.doc.vocab <= 64


def test_each_tower_embeds_by_itself(seen, pictures, tmp_path, capsys):
    captions = sorted({f"a {c} stripe at the {p}" for c in COLORS for p in PLACES})
    (tmp_path / "captions.txt").write_text("\n".join(captions) + "\n")
    for tower, source in (("doc", tmp_path / "captions.txt"), ("query", pictures)):
        words = ["embed", seen.path, "--input", source, "--tower", tower]
        assert main([*map(str, words), "--out", str(tmp_path / f"{tower}.npy")]) == 0
    docs, queries = np.load(tmp_path / "doc.npy"), np.load(tmp_path / "query.npy")
    assert docs.shape == (15, 8) and queries.shape == (120, 8)
    np.testing.assert_allclose(np.linalg.norm(docs, axis=1), 1.0, rtol=1e-5)
    found = [captions[place] for place in np.argmax(queries @ docs.T, axis=1)]
    colors = [list(COLORS)[number % 5] for number in range(120)]
    assert np.mean([color in text for color, text in zip(colors, found, strict=True)]) > 0.8
    with pytest.raises(ValueError, match="choose query or doc"):
        seen.embed(pictures, tower="both")


def test_pictures_are_classified_by_the_names_of_classes(seen, pictures, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("\n".join(COLORS) + "\n")
    words = ["classify", seen.path, "--input", pictures, "--classes", tmp_path / "classes.txt"]
    for place in PLACES:
        words += ["--template", f"a {{}} stripe at the {place}"]
    assert main([*map(str, words), "-k", "2"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(120)]
    right = [row[1] == list(COLORS)[number % 5] for number, row in enumerate(rows)]
    assert np.mean(right) > 0.5 and all(row[1] != row[2] for row in rows)
    assert main([*map(str, words[:5]), str(tmp_path / "none.txt")]) == 2


def test_an_exported_tower_gives_the_runs_vectors(seen, pictures, tmp_path, capsys):
    for tower in ("query", "doc"):
        words = ["export", seen.path, "--tower", tower, "--out", tmp_path / tower]
        assert main(list(map(str, words))) == 0
    query, doc = (
        jax.export.deserialize(bytearray((tmp_path / tower).read_bytes()))
        for tower in ("query", "doc")
    )
    test = load_tests(seen.path)["test"]
    wanted = encode_test(seen.model, seen.params, seen.path, test)
    np.testing.assert_allclose(query.call(test.queries), wanted[0], atol=1e-6)
    tokenizer = load_tokenizer(seen.path / "tokenizer.json")
    ids, lengths, _ = pad_texts(tokenizer, test.candidates, 12)
    ids = np.pad(ids, ((0, 0), (0, 12 - ids.shape[1])))
    np.testing.assert_allclose(doc.call(ids, lengths), wanted[1], atol=1e-6)
    for flags, message in ((["--length", "3"], "reads images"), (["--tower", "doc"], "1 to 12")):
        words = ["export", seen.path, "--out", tmp_path / "x", "--length", "13", *flags]
        assert main(list(map(str, words))) == 2
        assert message in capsys.readouterr().err


def test_a_softmax_over_all_captions_learns_them(pictures, tmp_path):
    """And a convolutional tower that tells where things are, with its export."""
    recipe = picture_recipe(pictures)
    loss = Contrastive("candidates")
    model = recipe.model.clone(query=ResNet((1,), 8, False, "medium", "flat", True))
    recipe = dataclasses.replace(recipe, loss=loss, model=model, epochs=20)
    run = without_figures(recipe, tmp_path / "run")
    assert run.results["recall@1/test"].value > 0.6
    assert run.resolved["candidates"] == 15
    test = load_tests(run.path)["test"]
    dual_encoder.export(run, "query", tmp_path / "tower")
    exported = jax.export.deserialize(bytearray((tmp_path / "tower").read_bytes()))
    wanted = encode_test(run.model, run.params, run.path, test)[0]
    np.testing.assert_allclose(exported.call(test.queries), wanted, atol=1e-5)
    assert all(is_equal for *_, is_equal in reproduce(run.path))


def test_figures_show_what_is_learned(seen):
    names = {path.stem for path in plot_run(seen.path)}
    assert names == {"similarity", "retrieved", "retrieved-back", "map", "loss"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Numbers in two languages of one's own."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    rows = [random.integers(0, 6, 3) for _ in range(48)]
    lines = [
        " ".join(f"x{n}" for n in row) + "\t" + " ".join(f"y{n}" for n in row[::-1]) for row in rows
    ]
    for name, part in (("train", lines[:40]), ("test", lines[40:])):
        (folder / f"{name}.tsv").write_text("query\tdocument\n" + "\n".join(part) + "\n")
    return folder


def pair_recipe(source):
    tower = TextTransformer(64, 8, 1, 16, 2, max_length=16, pool="mean", dropout=0.1)
    return Recipe(
        DualEncoder(tower, projection=8, start_scale=80.0),
        TextPairs(str(source)),
        Contrastive(chunk_size=4),
        Adam(lr=0.003, batch_size=8),
        epochs=10,
    )


def test_meshes_have_one_loss_curve(pairs, tmp_path):
    """50 steps on one device, on 8 by data and on 2 x 4 fully sharded."""
    recipe = pair_recipe(pairs)
    task = find_task(recipe)
    prepared = task.prepare(recipe, tmp_path, None)
    recipe = recipe.with_sizes(prepared.resolved)

    def run(data, model):
        mesh = make_mesh(data, model, jax.devices()[: data * model])
        made, losses, cut = task.training(recipe, prepared, mesh), [], []

        def note(entry, state):
            losses.append(entry.values["loss"])
            leaves = jax.tree.leaves((state.params, state.opt_state))
            cut.append(sum(not leaf.sharding.is_fully_replicated for leaf in leaves))
            assert state.params["log_scale"] <= np.log(100.0) + 1e-6

        start = made.start()
        train(made.step_fn, start, made.batches, steps=50, mesh=mesh, log_every=1, on_log=note)
        return losses, cut[-1]

    whole, _ = run(1, 1)
    by_data, _ = run(8, 1)
    sharded, cut = run(2, 4)
    assert len(whole) == 50 and whole[-1] < whole[0]
    assert cut > 20  # most parameters and both of Adam's means
    for losses in (by_data, sharded):
        np.testing.assert_allclose(losses, whole, rtol=1e-5)


def losses_of(run):
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["value"] for line in lines if line["name"] == "loss"}


def test_devices_and_processes_change_nothing_but_rounding(pairs, tmp_path, stop_at):
    """A run that starts on 8 devices and goes on over 2, then 1; and one in two processes."""
    model = DualEncoder(BagOfWords(64, 8, 16), projection=8)
    recipe = dataclasses.replace(pair_recipe(pairs), model=model, epochs=3)
    whole = losses_of(without_figures(recipe, tmp_path / "whole"))
    for devices, stop in ((8, 4), (2, 9), (1, None)):
        stop_at(stop)
        over = dataclasses.replace(recipe, mesh=MeshShape(devices))
        with contextlib.nullcontext() if stop is None else pytest.raises(Interrupted):
            without_figures(over, tmp_path / "moved")
    moved = load_run(tmp_path / "moved")
    assert moved.recipe == recipe  # its mesh is the last one
    moved = losses_of(moved)
    over = dataclasses.replace(recipe, mesh=MeshShape(2))
    shared = losses_of(two_hosts.train(over, tmp_path))
    for losses in (moved, shared):
        assert list(losses) == list(whole) == list(range(1, 16))
        np.testing.assert_allclose(list(losses.values()), list(whole.values()), rtol=1e-5)


def test_documents_encoded_once_answer_queries(pairs, tmp_path, capsys):
    """As searching their vectors does; the same command resumes."""
    run = without_figures(dataclasses.replace(pair_recipe(pairs), epochs=2), tmp_path / "run")
    lines = (pairs / "train.tsv").read_text().splitlines()[1:]
    for place, name in enumerate(("queries", "docs")):
        texts = [line.split("\t")[place] for line in lines]
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n")

    def call(*words):
        code = main(list(map(str, words)))
        return code, capsys.readouterr()

    made = tmp_path / "made"
    words = ["candidates", run.path, "--input", tmp_path / "docs.txt", "--out", made]
    code, shown = call(*words, "--shard-size", 16)
    assert code == 0 and shown.out.startswith("40 of 40 vectors")
    (made / "vectors.00001.npy").unlink()
    code, shown = call("answer", run.path, made, "--input", tmp_path / "queries.txt")
    assert code == 2 and "lacks 1 of 3 files" in shown.err
    assert call(*words, "--shard-size", 16)[1].out.startswith("16 of 40 vectors")
    other = without_figures(dataclasses.replace(run.recipe, epochs=1), tmp_path / "other")
    code, shown = call("answer", other.path, made, "--input", tmp_path / "queries.txt")
    assert code == 2 and "encoded with other parameters" in shown.err
    code, shown = call("answer", run.path, made, "--input", tmp_path / "queries.txt", "-k", 3)
    queries, docs = (
        run.embed(tmp_path / f"{name}.txt", tower=tower)
        for name, tower in (("queries", "query"), ("docs", "doc"))
    )
    wanted = np.sort(queries @ docs.T, axis=1)[:, :-4:-1]
    found = [[one.split(":") for one in line.split("\t")[1:]] for line in shown.out.splitlines()]
    assert len(found) == 40
    scores = np.array([[float(score) for _, score in row] for row in found])
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    (tmp_path / "docs.txt").write_text("something else\n")
    code, shown = call(*words, "--shard-size", 16)
    assert code == 2 and "vectors of other candidates" in shown.err


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Questions with right and wrong sentences, as of TREC-QA."""
    folder = tmp_path_factory.mktemp("answers")
    header = "qtext,label,atext"
    for name, first in (("train", 0), ("dev", 5), ("test", 8)):
        rows = [
            f"what is x{q},{int(a < 2)},it is {'yz'[a < 2]}{q} said {a}"
            for q in range(first, first + 4)
            for a in range(2 + q % 4)
        ]
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_known_negatives_are_drawn_anew_in_every_epoch(answers, tmp_path):
    recipe = pair_recipe(answers)
    recipe = dataclasses.replace(recipe, loss=Contrastive("info-nce", hard_negatives=2), epochs=2)
    source, again = (find_task(recipe).prepare(recipe, tmp_path, None).data for _ in range(2))
    train = load_text_pairs(recipe.data).train
    texts = list(dict.fromkeys(text for wrong in train.negatives for text in wrong))
    tokens = {
        tuple(ids[:length].tolist()): text
        for ids, length, text in zip(source.ids, source.lengths, texts, strict=True)
    }
    drawn = collections.defaultdict(set)
    for epoch in range(8):
        for row in range(len(train)):
            one, same = source.of_epoch(epoch)[row], again.of_epoch(epoch)[row]
            np.testing.assert_array_equal(one["negative_ids"], same["negative_ids"])
            assert one["negative_lengths"].shape == (2,)
            for ids, length in zip(one["negative_ids"], one["negative_lengths"], strict=True):
                drawn[row].add(tokens[tuple(ids[:length].tolist())])
    assert {len(wrong) for wrong in train.negatives} == {0, 1, 2, 3}
    for row, wrong in enumerate(train.negatives):
        assert drawn[row] == set(wrong) if wrong else 2 < len(drawn[row])
    run = without_figures(recipe, tmp_path / "run")
    assert run.resolved["negatives"] == len(texts)
    assert len(losses_of(run)) == 2 * -(-len(train) // 8)  # as without negatives


def test_a_right_answer_is_never_drawn_as_a_wrong_one():
    matches = match_texts(
        ["a", "b", "c", "a"], ["1", "2", "3", "4"], [("2", "4", "5"), (), ("3",), ("1",)]
    )
    texts = ["2", "4", "5", "3", "1"]
    found = known_negatives(matches, texts)
    assert found == [["2", "5"], ["4", "5", "3", "1"], ["2", "4", "5", "1"], ["2", "5", "3"]]
    with pytest.raises(ValueError, match="known to be wrong answer 'a': give hard_negatives 0"):
        known_negatives(match_texts(["a"], ["1"], [("1",)]), ["1"])


def test_hard_negatives_that_are_not_there_are_refused(pairs, tmp_path):
    recipe = dataclasses.replace(pair_recipe(pairs), loss=Contrastive(hard_negatives=1))
    with pytest.raises(ValueError, match="no documents that are known to be wrong: give 0"):
        find_task(recipe).prepare(recipe, tmp_path, None)


def test_texts_of_all_lengths_compile_a_few_programs(pairs, tmp_path):
    """And are encoded as each alone is."""
    recipe = dataclasses.replace(pair_recipe(pairs), epochs=1)
    recipe = recipe.override({"model.query.max_length": "64"})
    prepared = find_task(recipe).prepare(recipe, tmp_path, None)
    (tmp_path / "tokenizer.json").write_bytes(prepared.files["tokenizer.json"])
    model = recipe.with_sizes(prepared.resolved).model
    tokens = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    params = model.init(jax.random.key(0), tokens, tokens)["params"]
    texts = ["x1 " * (1 + number % 31) for number in range(600)]
    before = dual_encoder._encode._cache_size()
    found = encode_side(model, params, tmp_path, "query", texts)
    assert 1 < dual_encoder._encode._cache_size() - before <= 8
    for row in (0, 17, 599):
        alone = encode_side(model, params, tmp_path, "query", texts[row : row + 1])
        np.testing.assert_allclose(found[row], alone[0], atol=1e-5)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder of sentence-transformers."""
    encoder = load_encoder("checkpoints/bert-tiny-docstrings")
    folder = tmp_path_factory.mktemp("pretrained") / "bert"
    model = encoder.model.clone(pooler=False)
    save_sentence_transformer(folder, model, encoder.params, encoder.tokenizer)
    return str(folder)


def test_a_pretrained_encoder_is_where_training_begins(pretrained, answers, tmp_path):
    """Before the first step the towers' vectors are the encoder's; each has its own copy."""
    tower = load_pretrained(pretrained, max_length=24).tower
    recipe = dataclasses.replace(
        pair_recipe(answers),
        model=DualEncoder(tower, tower),
        loss=Contrastive("info-nce", hard_negatives=1),
        optim=Adam(lr=1e-4, batch_size=8),
        epochs=1,
        start=pretrained,
    )
    assert recipe.from_json(recipe.to_json()) == recipe
    prepared = find_task(recipe).prepare(recipe, tmp_path, None)
    sized, mesh = recipe.with_sizes(prepared.resolved), make_mesh(1, 1, jax.devices()[:1])
    state = find_task(recipe).training(sized, prepared, mesh).start()
    (tmp_path / "tokenizer.json").write_bytes(prepared.files["tokenizer.json"])
    texts = ["the length of a list", "sum", "Returns the larger of two numbers."]
    wanted = load_encoder(pretrained).encode(texts, normalize=True)
    assert set(state.params) == {"query", "doc", "log_scale"}
    for side in ("query", "doc"):
        found = encode_side(sized.model, state.params, tmp_path, side, texts)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    run = without_figures(recipe, tmp_path / "run")
    assert all(is_equal for *_, is_equal in reproduce(run.path))


def test_beside_an_image_tower_the_texts_alone_begin_there(pretrained, pictures, tmp_path):
    found = load_pretrained(pretrained, max_length=24)
    recipe = picture_recipe(pictures)
    model = recipe.model.clone(doc=found.tower)
    recipe = dataclasses.replace(recipe, model=model, start=pretrained)
    prepared = find_task(recipe).prepare(recipe, tmp_path, None)
    sized, mesh = recipe.with_sizes(prepared.resolved), make_mesh(1, 1, jax.devices()[:1])
    params = find_task(recipe).training(sized, prepared, mesh).start().params
    assert "bert" not in params["query"]
    jax.tree.map(np.testing.assert_array_equal, params["doc"]["bert"], found.params)


def test_what_cannot_be_started_from_is_refused(pretrained, answers, tmp_path):
    tower = load_pretrained(pretrained).tower
    recipe = dataclasses.replace(pair_recipe(answers), model=DualEncoder(tower), start=pretrained)
    fingerprint = find_task(recipe).prepare(recipe, tmp_path, None).resolved["fingerprint"]
    bert = tower.bert
    for changes, message in (
        ({"model": DualEncoder(BagOfWords(64, 8))}, "no tower of the model is a SentenceBert"),
        ({"model": DualEncoder(tower.clone(pool="max"))}, "query.pool: 'max' and 'mean'"),
        ({"model": DualEncoder(tower.clone(max_length=33))}, "max_length: 33 and 1 to 32"),
        ({"model": DualEncoder(tower.clone(bert=bert.clone(layers=1)))}, "bert.layers: 1 and"),
        ({"start": f"{tmp_path}/none"}, "no folder|none"),
    ):
        wrong = dataclasses.replace(recipe, **changes)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            find_task(wrong).prepare(wrong, tmp_path, None)
    with pytest.raises(ValueError, match="max_length is 40: .* reads 1 to 32 tokens"):
        load_pretrained(pretrained, max_length=40)
    with pytest.raises(ValueError, match="but AE begins at random"):
        Recipe(AE(shape=(8, 8), latent=2), ImageSet("digits"), start=pretrained)
    dropped = tower.clone(bert=bert.clone(dropout=0.3))
    assert find_task(recipe).prepare(
        dataclasses.replace(recipe, model=DualEncoder(dropped)), tmp_path, None
    )
    other = tmp_path / "other"
    encoder = load_encoder(pretrained)
    params = jax.tree.map(lambda leaf: leaf + 1, encoder.params)
    save_sentence_transformer(other, encoder.model.clone(pooler=False), params, encoder.tokenizer)
    recipe = dataclasses.replace(recipe, start=str(other))
    again = find_task(recipe).prepare(recipe, tmp_path, None)
    assert again.resolved["fingerprint"] != fingerprint


def test_towers_that_do_not_fit_the_data_are_refused(pairs, pictures, tmp_path):
    with pytest.raises(ValueError, match="two text towers"):
        wrong = Recipe(picture_recipe(pictures).model, TextPairs(str(pairs)))
        find_task(wrong).prepare(wrong, tmp_path, None)
    with pytest.raises(ValueError, match="an image tower and a text tower"):
        wrong = Recipe(pair_recipe(pairs).model, ImageCaptions(str(pictures)))
        find_task(wrong).prepare(wrong, tmp_path, None)
