import numpy as np
import pytest

from probing import class_means, encoding_patterns


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
