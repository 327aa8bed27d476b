import numpy as np
import pytest
from PIL import Image

from jaxembed import run as run_module
from jaxembed.cli import main
from jaxembed.data import ImageSet
from jaxembed.models import TwoViews, ViewEncoder
from jaxembed.recipe import CodeEvaluation, Recipe
from jaxembed.run import load_run, plot_run, reproduce, train_recipe
from jaxembed.train import Adam


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Pictures of a bar across or down, in folders by class."""
    folder = tmp_path_factory.mktemp("bars")
    generator = np.random.default_rng(0)
    for number in range(60):
        picture = generator.integers(0, 40, (6, 6), np.uint8)
        is_down, place = number % 2, generator.integers(6)
        picture[(slice(None), place) if is_down else place] += 200
        path = folder / ("down" if is_down else "across") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    recipe = Recipe(
        ViewEncoder(channels=(4,), dim=6, projection=4),
        ImageSet(str(source)),
        TwoViews(smallest_crop=0.8),
        Adam(lr=0.02, batch_size=16),
        CodeEvaluation(most=12),
        epochs=8,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_try_to_plot", lambda folder: None)
        return train_recipe(recipe, tmp_path_factory.mktemp("views") / "run")


def test_probes_stand_beside_those_of_no_training_and_pca(finished):
    names = {
        f"{probe}{code}"
        for probe in ("linear_probe", "knn")
        for code in ("", "/untrained", "/pca-6")
    }
    assert set(finished.results) == names
    assert all(0 <= one.value <= 1 and one.count == 12 for one in finished.results.values())


def test_training_lowers_the_loss_and_is_reproduced(finished):
    log = run_module.read_metrics(finished.path)["loss"]["value"]
    assert log[-1] < log[0]
    assert all(is_equal for *_, is_equal in reproduce(finished.path))
    again = load_run(finished.path)
    assert again.model.shape == (6, 6)


def test_embed_writes_a_code_for_each_picture(finished, source, tmp_path):
    out = tmp_path / "codes.npy"
    assert main(["embed", str(finished.path), "--input", str(source), "--out", str(out)]) == 0
    codes = np.load(out)
    assert codes.shape == (60, 6) and np.isfinite(codes).all()
    one = source / "across" / "00.png"
    np.testing.assert_allclose(finished.embed(one)[0], codes[0], rtol=1e-4, atol=1e-5)


def test_figures_are_drawn(finished):
    assert {path.name for path in plot_run(finished.path)} == {"map.png", "loss.png"}


def test_vectors_are_no_images(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 4), np.float32))
    recipe = Recipe(ViewEncoder(), ImageSet(str(tmp_path / "x.npy")))
    with pytest.raises(ValueError, match="holds vectors: views are made of images"):
        train_recipe(recipe, tmp_path / "run")
    recipe = Recipe(ViewEncoder(shape=(3, 3)), ImageSet("digits"))
    with pytest.raises(ValueError, match=r"model.shape is \(3, 3\)"):
        train_recipe(recipe, tmp_path / "run")
