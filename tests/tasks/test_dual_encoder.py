"""Dual encoders as runs: what they learn, embedding by tower, meshes and checkpoints."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxembed import run as run_module
from jaxembed.cli import main
from jaxembed.data import ImageCaptions, TextPairs
from jaxembed.models import Contrastive, DualEncoder
from jaxembed.nn import BagOfWords, TextTransformer, VisionTransformer
from jaxembed.recipe import Recipe, RetrievalEvaluation
from jaxembed.run import find_task, plot_run, reproduce, train_recipe
from jaxembed.train import Adam, make_mesh, train

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


def test_meshes_and_resumed_runs_have_one_loss_curve(pairs, tmp_path):
    """50 steps on one device, on 8 by data and on 2 x 4 fully sharded; then 8 -> 2 -> 1."""
    recipe = pair_recipe(pairs)
    task = find_task(recipe)
    prepared = task.prepare(recipe, tmp_path, None)
    recipe = recipe.with_sizes(prepared.resolved)

    def run(data, model, steps, folder=None):
        mesh = make_mesh(data, model, jax.devices()[: data * model])
        made, losses, cut = task.training(recipe, prepared, mesh), {}, []

        def note(entry, state):
            losses[entry.step] = entry.values["loss"]
            leaves = jax.tree.leaves((state.params, state.opt_state))
            cut.append(sum(not leaf.sharding.is_fully_replicated for leaf in leaves))
            assert state.params["log_scale"] <= np.log(100.0) + 1e-6

        train(
            made.step_fn,
            made.start(),
            made.batches,
            steps=steps,
            mesh=mesh,
            checkpoint_dir=folder,
            log_every=1,
            on_log=note,
        )
        return losses, cut[-1]

    whole, _ = run(1, 1, 50)
    assert len(whole) == 50 and whole[50] < whole[1]
    by_data, _ = run(8, 1, 20, tmp_path / "checkpoint")
    sharded, cut = run(2, 4, 50)
    assert cut > 20  # most parameters and both of Adam's means
    np.testing.assert_allclose(list(sharded.values()), list(whole.values()), rtol=1e-5)
    for devices, steps in ((2, 35), (1, 50)):
        more, _ = run(devices, 1, steps, tmp_path / "checkpoint")
        by_data |= more
    assert list(by_data) == list(range(1, 51))
    np.testing.assert_allclose(list(by_data.values()), list(whole.values()), rtol=1e-5)
    shutil.rmtree(tmp_path / "checkpoint")


def test_towers_that_do_not_fit_the_data_are_refused(pairs, pictures, tmp_path):
    with pytest.raises(ValueError, match="two text towers"):
        wrong = Recipe(picture_recipe(pictures).model, TextPairs(str(pairs)))
        find_task(wrong).prepare(wrong, tmp_path, None)
    with pytest.raises(ValueError, match="an image tower and a text tower"):
        wrong = Recipe(pair_recipe(pairs).model, ImageCaptions(str(pictures)))
        find_task(wrong).prepare(wrong, tmp_path, None)
