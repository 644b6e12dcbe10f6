import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing._design import one_hot
from probing._encoding import EncodingProbe, class_means, encoding_patterns
from probing._lda import LDAProbe
from probing._moments import Moments


def correlated_labels(n=6000, rho=0.8, d=24, seed=0):
    """Two labels that mostly agree, each moving the activation along a pattern of its own."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 2, n)
    b = np.where(rng.random(n) < (1 + rho) / 2, a, 1 - a)
    u, v = np.eye(d)[0], np.eye(d)[1]
    return np.outer(a, u) + np.outer(b, v) + 0.3 * rng.normal(size=(n, d)), np.c_[a, b], u


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def test_partial_patterns_are_recovered_where_class_means_leak():
    X, Y, u = correlated_labels()
    patterns, means = encoding_patterns(X, Y, 2), class_means(X, Y, 2)
    assert cosine(patterns[0, 1] - patterns[0, 0], u) > 0.99
    marginal = means[0, 1] - means[0, 0]
    assert marginal[1] / marginal[0] == pytest.approx(0.8, abs=0.05)  # the leak is the correlation of the labels


def test_with_one_binary_label_the_pattern_is_the_difference_of_means():
    X, Y, _ = correlated_labels()
    pattern, means = (f(X, Y[:, :1], 2) for f in (encoding_patterns, class_means))
    np.testing.assert_allclose(pattern[0, 1] - pattern[0, 0], means[0, 1] - means[0, 0], atol=2e-3)


def test_a_nuisance_is_held_fixed():
    X, Y, u = correlated_labels()
    position = Y[:, 1]  # the second label, now as a position that shifts the activation too
    patterns = encoding_patterns(X, Y[:, :1], 2, nuisance=position)
    assert cosine(patterns[0, 1] - patterns[0, 0], u) > 0.99


def test_patterns_of_a_target_balance_by_class_frequency():
    X, Y, _ = correlated_labels()
    patterns = encoding_patterns(X, Y, 2)
    share = np.stack([1 - Y.mean(0), Y.mean(0)], axis=1)[..., None]
    np.testing.assert_allclose((share * patterns).sum(1), 0, atol=1e-9)


@parametrize_with_checks([EncodingProbe()])
def test_encoding_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def many_labels(n=8000, n_targets=6, n_classes=3, d=32, rho=0.8, seed=0):
    """Every label equals its neighbour with probability rho; each class has an orthogonal pattern of its own."""
    rng = np.random.default_rng(seed)
    Y = rng.integers(0, n_classes, (n, n_targets))
    for t in range(1, n_targets):
        same = rng.random(n) < rho
        Y[same, t] = Y[same, t - 1]
    patterns = np.linalg.qr(rng.normal(size=(d, d)))[0][: n_targets * n_classes].reshape(n_targets, n_classes, d)
    pos = rng.integers(0, 5, n)
    X = np.einsum("ntk,tkd->nd", Y[..., None] == np.arange(n_classes), patterns) + rng.normal(size=(5, d))[pos]
    return X + 0.3 * rng.normal(size=(n, d)), Y, pos, patterns


def test_planted_patterns_of_correlated_labels_are_the_write_directions():
    X, Y, pos, patterns = many_labels()
    probe, means = EncodingProbe().fit(X, Y, pos), class_means(X, Y, 3)
    leaks = []
    for t in range(Y.shape[1]):
        planted = patterns[t, 2] - patterns[t, 0]
        assert cosine(probe.direction(2, 0, target=t), planted) > 0.99
        leaks.append(cosine(means[t, 2] - means[t, 0], planted))
    assert max(leaks) < 0.9  # the marginal means mix in the neighbours


def test_moments_give_the_same_patterns_and_hold_the_same_fixed():
    X, Y, pos, _ = many_labels(1000)
    names = [f"board/{t}={k}" for t in range(6) for k in range(3)] + [f"pos={p}" for p in range(5)]
    moments = Moments(names, ("train/0", "train/1"))
    design = np.c_[one_hot(Y, 3), pos[:, None] == np.arange(5)]
    for rows in np.array_split(np.arange(1000), 4):
        moments.update(X[rows], design[rows], rows % 2)
    for nuisance in (None, pos):
        rows = EncodingProbe().fit(X, Y, nuisance)
        road = EncodingProbe().fit_moments(moments, "board", held=[] if nuisance is None else ["pos"])
        np.testing.assert_allclose(rows.patterns_, encoding_patterns(X, Y, 3, nuisance), atol=1e-10)
        for name in ("patterns_", "write_", "read_", "coef_", "intercept_"):
            np.testing.assert_allclose(getattr(road, name), getattr(rows, name), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(road.predict(X), rows.predict(X))


def test_of_one_binary_label_the_readers_are_those_of_lda():
    X, Y, _ = correlated_labels()
    probe, lda = EncodingProbe(ridge=1e-12, shrinkage=0).fit(X, Y[:, 0]), LDAProbe(0).fit(X, Y[:, 0])
    assert cosine(probe.read_[0], lda.read_[0]) > 1 - 1e-10
    np.testing.assert_allclose(probe.write_, lda.write_, rtol=1e-8)
    np.testing.assert_allclose(probe.decision_function(X), lda.decision_function(X), rtol=1e-6, atol=1e-6)


def test_readers_predict_the_labels_they_write():
    X, Y, pos, _ = many_labels()
    assert (EncodingProbe().fit(X, Y, pos).predict(X) == Y).mean() > 0.9
