import numpy as np
import pytest

from jaxembed.data import HistorySet, load_histories
from jaxembed.models import VAE, VariationalBound
from jaxembed.recipe import MeshShape, RankingEvaluation, Recipe
from jaxembed.run import reproduce, train_recipe
from jaxembed.tasks.recommender import indicators
from jaxembed.train import Adam

ITEMS, K = 20, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users of one taste like items 0 to 9, those of the other 10 to 19; some test none."""
    folder = tmp_path_factory.mktemp("histories")
    generator = np.random.default_rng(0)
    train, test = [], []
    for user in range(60):
        liked = generator.permutation(10)[:7] + 10 * (user % 2)
        train.append(" ".join(map(str, [user, *liked[:4]])))
        test.append(" ".join(map(str, [user, *(liked[4:] if user % 5 else [])])))
    (folder / "train.txt").write_text("\n".join(train))
    (folder / "test.txt").write_text("\n".join(test))
    return folder


def make_recipe(folder, **changes):
    model = VAE((), 4, (16,), "multinomial", activation="tanh", input_norm="l2", input_dropout=0.3)
    values = {
        "model": model,
        "data": HistorySet(str(folder)),
        "loss": VariationalBound(beta=0.2),
        "optim": Adam(lr=0.01, batch_size=24),
        "evaluation": RankingEvaluation(K),
        "epochs": 30,
    }
    return Recipe(**values | changes)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    return train_recipe(make_recipe(folder), tmp_path_factory.mktemp("mult") / "run")


def test_items_become_rows_of_ones():
    items = np.array([[2, 0, -1], [-1, -1, -1]], np.int32)
    np.testing.assert_array_equal(indicators(items, item_count=4), [[1, 0, 1, 0], [0, 0, 0, 0]])


def test_popularity_equals_counting_by_hand(finished, folder):
    train, test = load_histories(HistorySet(str(folder)))
    recalls, gains = [], []
    for user in range(60):
        if not len(test[user]):
            continue
        order = sorted(set(range(ITEMS)) - set(train[user]), key=lambda i: (-train.counts()[i], i))
        hits = [item in test[user] for item in order[:K]]
        recalls.append(sum(hits) / len(test[user]))
        ideal = sum(1 / np.log2(place + 2) for place in range(min(K, len(test[user]))))
        gains.append(sum(hit / np.log2(place + 2) for place, hit in enumerate(hits)) / ideal)
    results = finished.results
    assert results[f"recall@{K}/popularity"].value == pytest.approx(np.mean(recalls), abs=1e-6)
    assert results[f"ndcg@{K}/popularity"].value == pytest.approx(np.mean(gains), abs=1e-6)
    assert results[f"recall@{K}"].count == len(recalls) == 48


def test_tastes_are_learned(finished):
    """Who knows the taste finds 3 of the 6 items left of it: half of the 3 wanted."""
    results = finished.results
    assert results[f"recall@{K}"].value >= 0.4 > 1.3 * results[f"recall@{K}/popularity"].value


def test_vectors_of_items_show_the_tastes(finished):
    assert finished.vectors.keys == tuple(map(str, range(ITEMS)))
    for item in ("3", "17"):
        near = [int(key) // 10 for key, _ in finished.vectors.nearest(item, 5)]
        assert near.count(int(item) // 10) >= 4


def test_run_reproduces_on_any_mesh(finished, folder, tmp_path):
    assert all(agrees for *_, agrees in reproduce(finished.path))
    run = train_recipe(make_recipe(folder, mesh=MeshShape(data=8)), tmp_path / "run")
    for name, metric in finished.results.items():
        assert run.results[name].value == pytest.approx(metric.value, abs=0.02)


def test_other_likelihoods_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="histories are modelled by 'multinomial'"):
        train_recipe(make_recipe(folder, model=VAE(())), tmp_path / "run")
