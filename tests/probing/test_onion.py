import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import OnionProbe


@parametrize_with_checks([OnionProbe()])
def test_onion_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def onion(gamma, n=2000, n_tokens=8, d=32, noise=0.0, seed=0):
    """Sequences written into one vector, the token of position t at scale gamma_t."""
    rng = np.random.default_rng(seed)
    E = rng.normal(size=(n_tokens, d))
    tokens = rng.integers(0, n_tokens, (n, len(gamma)))
    h = np.einsum("t,ntd->nd", gamma, E[tokens]) + rng.normal(size=d)
    return h + noise * rng.normal(size=h.shape), tokens, E - E.mean(0)


def test_a_linear_probe_reads_the_outermost_layer_and_the_onion_probe_four():
    X, tokens, _ = onion(10.0 ** -np.arange(5), noise=1e-5)
    train, test = slice(0, 1000), slice(1000, None)
    read = (OnionProbe().fit(X[train], tokens[train]).predict(X[test]) == tokens[test]).mean(0)
    assert (read[:4] > 0.99).all()
    scale = X[train].std()
    linear = [LogisticRegression(C=1e4, max_iter=2000).fit(X[train] / scale, tokens[train, t]).score(
        X[test] / scale, tokens[test, t]) for t in range(3)]
    assert linear[0] > 0.99 and max(linear[1:]) < 0.5


def test_without_noise_the_model_is_found_exactly():
    gamma = np.array([0.3, -1.0, 0.05, 0.004])  # in any order, of any sign
    X, tokens, E = onion(gamma)
    probe = OnionProbe().fit(X, tokens)
    np.testing.assert_allclose(probe.gamma_, gamma / -1.0, rtol=1e-8)
    np.testing.assert_allclose(probe.embedding_, -E, atol=1e-8)
    assert probe.r2_ == pytest.approx(1, abs=1e-12) and probe.score(X, tokens) == 1.0


def test_the_fit_is_stationary_and_no_worse_than_the_truth():
    gamma = np.array([1.0, 0.5, 0.2])
    X, tokens, E = onion(gamma, n=400, noise=0.5)
    probe = OnionProbe(tol=0, max_iter=2000).fit(X, tokens)

    def unexplained(gamma, E):
        layers = np.einsum("t,ntd->nd", gamma, E[tokens])
        return ((X - X.mean(0) - layers + layers.mean(0)) ** 2).sum() / ((X - X.mean(0)) ** 2).sum()

    best = unexplained(probe.gamma_, probe.embedding_)
    assert best == pytest.approx(1 - probe.r2_, rel=1e-8) and best < unexplained(gamma, E)
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = 1e-4 * rng.normal(size=3), 1e-4 * rng.normal(size=E.shape)
        slope = (unexplained(probe.gamma_ + step[0], probe.embedding_ + step[1])
                 - unexplained(probe.gamma_ - step[0], probe.embedding_ - step[1]))
        assert abs(slope) < 1e-8


def test_replacing_a_token_changes_that_reading_and_no_other():
    X, tokens, E = onion(10.0 ** -np.arange(4), noise=1e-5)
    probe = OnionProbe().fit(X, tokens)
    for t in range(4):
        new = (tokens[:, t] + 3) % 8
        expected = tokens.copy()
        expected[:, t] = new
        np.testing.assert_array_equal(probe.predict(X + probe.replacement(t, tokens[:, t], new)), expected)
    np.testing.assert_allclose(probe.replacement(1, 2, 5), 0.1 * (E[5] - E[2]), atol=1e-4)
    with pytest.raises(ValueError, match=r"tokens \[8\] were not seen"):
        probe.replacement(0, 1, 8)


def test_a_beam_repairs_choices_that_show_to_be_wrong_only_further_in():
    X, tokens, _ = onion(0.7 ** np.arange(3), noise=0.01)
    scores = [OnionProbe(beam=k).fit(X, tokens).score(X[:300], tokens[:300]) for k in (1, 4, 512)]
    assert scores[0] < 0.95 < scores[1] and scores[2] == 1.0  # 8^3 sequences: nothing is ever dropped


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_neither_the_basis_nor_the_names_of_tokens_nor_the_order_of_positions_matters(seed):
    X, tokens, _ = onion(np.array([1.0, 0.2, 0.04]), n=300, d=8, n_tokens=4, noise=0.02, seed=seed)
    rng = np.random.default_rng(seed)
    probe = OnionProbe().fit(X, tokens)
    Q, names, order = np.linalg.qr(rng.normal(size=(8, 8)))[0], rng.permutation(4), rng.permutation(3)
    other = OnionProbe().fit(X @ Q + 3, names[tokens][:, order])
    np.testing.assert_allclose(other.gamma_, probe.gamma_[order], atol=1e-5)
    assert (other.predict(X @ Q + 3) == names[probe.predict(X)][:, order]).mean() > 0.999


def test_shuffled_tokens_are_read_at_chance():
    X, tokens, _ = onion(10.0 ** -np.arange(3), noise=1e-4)
    shuffled = np.random.default_rng(0).permutation(tokens)
    probe = OnionProbe().fit(X[:1000], shuffled[:1000])
    assert probe.score(X[1000:], shuffled[1000:]) == pytest.approx(1 / 8, abs=0.03)
    assert probe.r2_ < 0.1
