"""What codes keep of the data: class labels, anomalies; beside PCA. Host side, scikit-learn."""

import numpy as np


def linear_probe_accuracy(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
) -> float:
    """Trains a logistic regression on codes, scaled to unit variance, and tests it.

    Args:
        train_codes: [n, dim].
        train_labels: [n], class numbers.
        test_codes: [m, dim].
        test_labels: [m].

    Returns:
        The share of test examples classified rightly.

    Raises:
        ValueError: If codes and labels do not fit.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check_codes(train_codes, train_labels, test_codes, test_labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(train_codes, train_labels)
    return float(np.mean(probe.predict(test_codes) == test_labels))


def knn_accuracy(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
    *,
    neighbours: int = 5,
) -> float:
    """Classifies each test code by the majority of its nearest training codes.

    Args:
        train_codes: [n, dim].
        train_labels: [n], class numbers.
        test_codes: [m, dim].
        test_labels: [m].
        neighbours: How many vote, by Euclidean distance.

    Returns:
        The share of test examples classified rightly.

    Raises:
        ValueError: If codes and labels do not fit, or there are fewer codes than neighbours.
    """
    from sklearn.neighbors import KNeighborsClassifier

    _check_codes(train_codes, train_labels, test_codes, test_labels)
    if not 1 <= neighbours <= len(train_codes):
        raise ValueError(f"{neighbours} neighbours among {len(train_codes)} codes.")
    classifier = KNeighborsClassifier(neighbours).fit(train_codes, train_labels)
    return float(np.mean(classifier.predict(test_codes) == test_labels))


def pca_codes(
    train: np.ndarray, test: np.ndarray, *, size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Codes of principal component analysis, to set a model's beside.

    Args:
        train: [n, dim], or examples of any shape, which are flattened.
        test: The same for the test examples.
        size: Length of a code.

    Returns:
        Codes of both, and the mean over the test examples of the squared reconstruction error,
        summed over the values of an example.

    Raises:
        ValueError: If `size` is larger than the data allow.
    """
    from sklearn.decomposition import PCA

    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    if not 1 <= size <= min(train.shape):
        raise ValueError(f"a PCA of size {size} of {train.shape[0]} x {train.shape[1]} values.")
    # The full decomposition: the randomised one would make the figure depend on a seed.
    pca = PCA(size, svd_solver="full").fit(train)
    codes = pca.transform(test)
    error = np.mean(np.sum((pca.inverse_transform(codes) - test) ** 2, axis=1))
    return pca.transform(train), codes, float(error)


def anomaly_auroc(scores: np.ndarray, is_anomaly: np.ndarray) -> float:
    """Says how well scores, such as reconstruction errors, set anomalies apart.

    Args:
        scores: [n], larger for what looks anomalous.
        is_anomaly: [n], bool.

    Returns:
        The area under the ROC curve: the chance that an anomaly scores above a normal example.

    Raises:
        ValueError: If lengths differ, or there are no anomalies or nothing else.
    """
    from sklearn.metrics import roc_auc_score

    is_anomaly = np.asarray(is_anomaly, bool)
    if np.shape(scores) != is_anomaly.shape or is_anomaly.all() or not is_anomaly.any():
        raise ValueError(
            f"{np.shape(scores)} scores, {is_anomaly.sum()} anomalies of {is_anomaly.shape}: give "
            "as many of both, with normal and anomalous examples."
        )
    return float(roc_auc_score(is_anomaly, np.asarray(scores)))


def _check_codes(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
) -> None:
    for name, codes, labels in (
        ("training", train_codes, train_labels),
        ("test", test_codes, test_labels),
    ):
        if np.ndim(codes) != 2 or np.ndim(labels) != 1 or len(codes) != len(labels):
            raise ValueError(
                f"{name} codes are {np.shape(codes)} and labels {np.shape(labels)}: give [n, dim] "
                "and [n]."
            )
