import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import StructuralProbe, node_pairs


@parametrize_with_checks([StructuralProbe(rank=1)])
def test_structural_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def forest(n_trees=24, n_nodes=6, d=8, noise=0.0, seed=0):
    """Pairs of nodes of random trees: a step along an edge of a kind is a step along the direction of that kind, each
    kind at most once on any path, so squared distances are tree distances; the other dimensions are noise."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    X, y, tree = [], [], []
    for t in range(n_trees):
        H, D = np.zeros((n_nodes, d)), np.zeros((n_nodes, n_nodes))
        kinds = rng.permutation(n_nodes - 1)
        for node in range(1, n_nodes):
            parent = rng.integers(node)
            H[node] = H[parent]
            H[node, kinds[node - 1]] += rng.choice([-1, 1])
            D[node, :node] = D[:node, node] = D[parent, :node] + 1
        H[:, n_nodes - 1 :] = rng.normal(size=(n_nodes, d - n_nodes + 1))
        delta, distance = node_pairs(H @ mix + noise * rng.normal(size=(n_nodes, d)), D)
        X, y, tree = [*X, delta], [*y, distance], [*tree, np.full(len(distance), t)]
    return np.concatenate(X), np.concatenate(y), np.concatenate(tree), mix


def test_distances_in_trees_never_seen_are_read_exactly():
    X, y, tree, mix = forest()
    probe = StructuralProbe(tol=1e-7).fit(X[tree < 16], y[tree < 16])
    assert probe.score(X[tree >= 16], y[tree >= 16]) > 0.9999
    inverse = np.linalg.inv(mix)[:, :5]  # rows back to edges, the distractors dropped
    np.testing.assert_allclose(probe.B_.T @ probe.B_, inverse @ inverse.T, atol=1e-3)


def test_the_metric_is_that_of_least_squares_on_all_products():
    X, y, _, _ = forest(d=6, noise=0.05)
    i, j = np.triu_indices(6)
    products = X[:, i] * X[:, j] * np.where(i == j, 1, 2)
    M = np.zeros((6, 6))
    M[i, j] = M[j, i] = np.linalg.lstsq(products, y, rcond=None)[0]
    assert np.linalg.eigvalsh(M)[0] > 0  # so the cone of squares does not bind, and the optima are one
    probe = StructuralProbe().fit(X, y)
    np.testing.assert_allclose(probe.B_.T @ probe.B_, M, atol=1e-4 * np.abs(M).max())


def test_more_rows_fit_no_worse_and_the_rank_of_the_world_is_enough():
    X, y, _, _ = forest()
    scores = [StructuralProbe(rank=r, tol=1e-4).fit(X, y).score(X, y) for r in (1, 3, 5, 8)]
    assert (np.diff(scores) > -1e-6).all() and scores[1] < 0.9
    assert scores[2] > 0.9999 and scores[3] > 0.9999
    assert StructuralProbe(rank=3, tol=1e-3).fit(X, y).subspace.rank == 3


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_neither_the_order_within_a_pair_nor_the_units_matter(seed):
    X, y, _, _ = forest(n_trees=6, n_nodes=5, d=5, noise=0.1, seed=seed)
    probe = StructuralProbe().fit(X, y)
    sign = np.random.default_rng(seed).choice([-1, 1], (len(X), 1))
    np.testing.assert_allclose(StructuralProbe().fit(sign * X, y).predict(X), probe.predict(X), rtol=1e-3, atol=1e-3)
    scaled = StructuralProbe().fit(X * np.arange(1, 6), 7 * y)
    np.testing.assert_allclose(scaled.predict(X * np.arange(1, 6)), 7 * probe.predict(X), rtol=1e-3, atol=1e-2)


def test_distances_of_other_trees_are_not_read():
    X, y, tree, _ = forest()
    strange = np.random.default_rng(0).permutation(y)
    probe = StructuralProbe(rank=4, tol=1e-4).fit(X[tree < 16], strange[tree < 16])
    assert probe.score(X[tree >= 16], strange[tree >= 16]) < 0.05


def test_pairs_out_of_reach_are_left_out():
    distance = np.array([[0, 1, np.inf], [1, 0, np.inf], [np.inf, np.inf, 0]])
    delta, y = node_pairs(np.eye(3), distance)
    np.testing.assert_array_equal(delta, [[1, -1, 0]])
    np.testing.assert_array_equal(y, [1])
    with pytest.raises(ValueError, match="rank is 4; X has 3"):
        StructuralProbe(rank=4).fit(np.eye(3), np.ones(3))


def test_stopping_early_is_said():
    X, y, _, _ = forest(n_trees=4)
    with pytest.warns(ConvergenceWarning, match="iterations with a gradient of"):
        StructuralProbe(max_iter=3).fit(X, y)
