import json
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from jaxembed import run as run_module
from jaxembed.cli import main
from jaxembed.data import ImageSet
from jaxembed.models import AE, VAE, Reconstruction, VariationalBound
from jaxembed.recipe import CodeEvaluation, MeshShape, Recipe
from jaxembed.run import load_run, plot_run, reproduce, ship_run, train_recipe
from jaxembed.tasks import autoencoder
from jaxembed.train import Adam, Interrupted

EPOCHS = 6


def make_recipe(source, **changes):
    values = {
        "model": VAE(shape=(), latent=2, hidden=(8,)),
        "data": ImageSet(str(source), binarization="dynamic"),
        "loss": VariationalBound(warmup=0.5),
        "optim": Adam(lr=0.01, schedule="cosine", batch_size=16),
        "evaluation": CodeEvaluation(samples=8, most=16),
        "epochs": EPOCHS,
    }
    return Recipe(**values | changes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Pictures of a bar across or down, in folders by class."""
    folder = tmp_path_factory.mktemp("bars")
    generator = np.random.default_rng(0)
    for number in range(80):
        picture = generator.integers(0, 40, (5, 5), np.uint8)
        is_down, place = number % 2, generator.integers(5)
        picture[(slice(None), place) if is_down else place] += 200
        path = folder / ("down" if is_down else "across") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    return train_recipe(make_recipe(source), tmp_path_factory.mktemp("vae") / "run")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch):
    """Drawn for `finished` alone: they take longer than the runs."""
    monkeypatch.setattr(run_module, "_try_to_plot", lambda folder: None)


def losses(run):
    lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
    return [line["value"] for line in lines if line["name"] == "loss"]


def leaves(run):
    return {str(path): leaf for path, leaf in run_module.jax.tree.leaves_with_path(run.params)}


def test_run_has_what_the_design_lists(finished):
    figures = {file.stem for file in (finished.path / "figures").iterdir()}
    assert figures == {
        "codes", "divergence", "loss", "reconstructions", "samples", "terms", "walk"
    }  # fmt: skip
    assert {file.name for file in (finished.path / "eval").iterdir()} == {"train.npz", "test.npz"}
    assert finished.model.shape == (5, 5) and finished.recipe.model.shape == ()
    wanted = {"elbo", "log_likelihood", "squared_error", "squared_error/pca-2", "active_units"}
    assert finished.results.keys() >= wanted | {"knn", "knn/pca-2", "linear_probe"}
    assert len(losses(finished)) == EPOCHS


def test_vectors_are_the_codes_of_what_was_held_out(finished):
    _, test = autoencoder.load_examples(finished.path)
    mean, _ = finished.model.apply({"params": finished.params}, test.pixels, method="encode")
    assert finished.vectors.keys[0] == f"0:{test.classes[test.labels[0]]}"
    np.testing.assert_allclose(finished.vectors.matrix, mean, rtol=1e-5, atol=1e-6)


def test_a_shipped_run_reproduces(finished, tmp_path):
    shipped = ship_run(finished.path, tmp_path / "shipped")
    assert all(agrees for *_, agrees in reproduce(shipped))
    assert all(agrees for *_, agrees in reproduce(finished.path, retrain=True))


def test_other_images_are_noticed_on_retraining(finished, source, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    shutil.copytree(source, tmp_path / "bars")
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    recipe["recipe"]["data"]["source"] = str(tmp_path / "bars")
    (tmp_path / "run/recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "bars/down/01.png").unlink()
    with pytest.raises(run_module.CorpusChangedError, match="count 64 then, 63 now"):
        reproduce(tmp_path / "run", retrain=True)


def test_stopping_and_resuming_equals_straight_through(finished, source, tmp_path, monkeypatch):
    def log_and_stop(folder, entry, state, log=run_module._log):
        log(folder, entry, state)
        if entry.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    recipe = finished.recipe
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_log", log_and_stop)
        with pytest.raises(Interrupted):
            train_recipe(recipe, tmp_path / "run")
    run = train_recipe(recipe, tmp_path / "run")
    assert losses(run) == losses(finished)
    for name, leaf in leaves(run).items():
        np.testing.assert_array_equal(leaf, leaves(finished)[name])
    assert run.results == finished.results


def test_eight_devices_have_the_loss_curve_of_one(finished, source, tmp_path):
    run = train_recipe(make_recipe(source, mesh=MeshShape(data=8)), tmp_path / "run")
    np.testing.assert_allclose(losses(run), losses(finished), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_images_too_many_for_the_device_are_streamed(source, tmp_path, monkeypatch, devices):
    monkeypatch.setattr(autoencoder, "HELD_ON_DEVICE", 0)
    recipe = make_recipe(source, mesh=MeshShape(data=devices), epochs=2)
    run = train_recipe(recipe, tmp_path / "run")
    assert load_run(run.path).results["elbo"].count == 16
    steps = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert steps == 2 * -(-64 // 16)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "model": AE(shape=(), latent=2, hidden=(4,), architecture="conv"),
            "loss": Reconstruction("gaussian", 0.3, 0.1),
        },
        {
            "model": VAE(shape=(), latent=2, hidden=(4,), prior="vamp", pseudo_inputs=3),
            "loss": VariationalBound("iwae", samples=3),
        },
    ],
    ids=["AE", "IWAE with VampPrior"],
)
def test_other_models_train_and_reproduce(source, tmp_path, changes):
    data = ImageSet(str(source), binarization="threshold")
    recipe = make_recipe(source, data=data, epochs=1, **changes)
    run = train_recipe(recipe, tmp_path / "run")
    assert all(agrees for *_, agrees in reproduce(run.path))
    names = {file.stem for file in plot_run(run.path)}
    assert names >= {"codes", "loss", "reconstructions"}
    assert ("samples" in names) == isinstance(run.model, VAE)


def test_vectors_and_samples_by_command(finished, source, tmp_path, capsys):
    out = str(tmp_path / "codes.npy")
    assert main(["embed", str(finished.path), "--input", str(source), "--out", out]) == 0
    assert "80 vectors of 2 numbers" in capsys.readouterr().out
    one = str(source / "across/00.png")
    assert main(["embed", str(finished.path), "--input", one, "--out", out + ".npy"]) == 0
    np.testing.assert_allclose(np.load(out + ".npy"), np.load(out)[:1], rtol=1e-5)
    samples = str(tmp_path / "samples.npy")
    assert main(["sample", str(finished.path), "--n", "3", "--out", samples]) == 0
    drawn = np.load(samples)
    assert drawn.shape == (3, 5, 5) and (0 < drawn).all() and (drawn < 1).all()
    assert main(["sample", str(finished.path), "--out", str(tmp_path / "s.png")]) == 0
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["embed", "RUN", "--input", "nowhere", "--out", "x.npy"], "no file or folder nowhere"),
        (["embed", "RUN", "--input", "OTHER", "--out", "x.npy"], r"shape (4, 4), but"),
        (["embed", "RUN", "--input", "OTHER", "--out", "x.txt"], "must end in .npy"),
        (["sample", "RUN", "--n", "0", "--out", "x.npy"], "ask for 1 or more"),
        (["sample", "RUN", "--out", "x.jpg"], "must end in .npy or .png"),
    ],
)
def test_wrong_commands_say_why(finished, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    np.save("other.npy", np.zeros((3, 4, 4), np.float32))
    places = {"RUN": str(finished.path), "OTHER": "other.npy"}
    assert main([places.get(word, word) for word in words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": VAE(shape=(4, 4), hidden=(8,))}, r"model\.shape is \(4, 4\), but .*\(5, 5\)"),
        ({"model": VAE(shape=(), likelihood="categorical")}, "images have none"),
        ({"data": ImageSet("digits")}, r"digits has values such as 0\..*'bernoulli' gives no"),
        ({"model": VAE(shape=(), latent=0)}, "latent is 0, hidden"),
        ({"model": VAE(shape=(), hidden=(8, 0))}, r"hidden \(8, 0\): give positive"),
        ({"optim": Adam(batch_size=12), "mesh": MeshShape(8)}, "batch_size 12 does not divide"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(source, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_recipe(make_recipe(source, **changes), tmp_path / "run")
    assert not (tmp_path / "run/recipe.json").exists()


def test_vectors_of_any_range_need_a_likelihood_that_has_it(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 6)))
    data = ImageSet(str(tmp_path / "x.npy"))
    with pytest.raises(ValueError, match="values from -.*is of values from 0 to 1"):
        train_recipe(make_recipe("", data=data, epochs=1), tmp_path / "run")
    model = VAE(shape=(), latent=2, hidden=(8,), likelihood="gaussian")
    recipe = make_recipe("", data=data, model=model, epochs=1)
    run = train_recipe(recipe, tmp_path / "other")
    assert run.vectors.dim == 2 and "knn" not in run.results
    with pytest.raises(ValueError, match="no pictures"):
        from jaxembed.cli import _draw_pictures

        _draw_pictures(run.sample(run_module.jax.random.key(0), 2))


def test_an_autoencoder_generates_nothing(source, tmp_path):
    model = AE(shape=(), latent=2, hidden=(4,))
    data = ImageSet(str(source))
    recipe = make_recipe(source, model=model, loss=Reconstruction(), data=data, epochs=1)
    run = train_recipe(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match="no distribution of codes"):
        run.sample(run_module.jax.random.key(0), 1)
