"""Similarity metrics against their formulas written out, their invariances, and what chance gives."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from probing.formation import _neighbours as neighbours
from probing.formation import (
    cka,
    cknna,
    compare_layers,
    cycle_knn,
    debiased_cka,
    mutual_knn,
    nearest,
    prepare,
    procrustes,
    rsa,
    svcca,
)

ALL = (mutual_knn, cycle_knn, cknna, cka, debiased_cka, svcca, procrustes, rsa)


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def hsic(K, L):
    """HSIC_1, as in the card, of any two matrices."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    return (np.trace(K @ L) + one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * one @ K @ L @ one) / (n * (n - 3))


def related(n=150, seed=0):
    common = draw(n, 4, seed)
    return (np.hstack([common, draw(n, 8, seed + 1)]) @ draw(12, 20, seed + 2),
            np.hstack([common, draw(n, 7, seed + 3)]) @ draw(11, 14, seed + 4))


@pytest.mark.parametrize("metric", ALL, ids=lambda f: f.__name__)
def test_one_for_rotated_and_scaled_copies_and_symmetric(metric):
    A, B = related()
    Q = ortho_group.rvs(A.shape[1], random_state=0)
    if metric in (cka, debiased_cka, svcca, procrustes):
        A = A - A.mean(0)  # neighbours and distances by cosine ask where the origin is; these do not
        assert metric(A, 3 * A @ Q + 1) == pytest.approx(1)
    if metric is not rsa:
        assert metric(A, 3 * A @ Q) == pytest.approx(1, abs=1e-5)
    else:  # Pearson's correlation of two rows changes with the axes
        assert rsa(A, 3 * A @ Q, "cosine") == pytest.approx(1) == rsa(A, 3 * A + 1)
    if metric is not cycle_knn:
        assert metric(A, B) == pytest.approx(metric(B, A), abs=1e-3 if metric is cknna else 1e-5)
    assert metric(A, B) < 0.95


def test_neighbour_metrics_are_their_dense_definitions():
    A, B = related()
    n, k = len(A), 6
    masks, cosines = [], []
    for X in (A, B):
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        C = X @ X.T
        order = np.argsort(-(C - 9 * np.eye(n)), axis=1)[:, :k]
        mask = np.zeros((n, n))
        np.put_along_axis(mask, order, 1, axis=1)
        masks.append(mask)
        cosines.append(C)
    assert mutual_knn(A, B, k) == pytest.approx((masks[0] * masks[1]).sum() / n / k)
    assert cycle_knn(A, B, k) == pytest.approx((np.diag(masks[1] @ masks[0]) > 0).mean())
    both = masks[0] * masks[1]
    own = [hsic(m * c, m * c) for m, c in zip(masks, cosines, strict=True)]
    expected = hsic(both * cosines[0], both * cosines[1]) / np.sqrt(own[0] * own[1])
    assert cknna(A, B, k) == pytest.approx(expected, rel=1e-5)


def test_another_order_of_the_rows_only_renames_neighbours():
    A, B = related()
    order = np.random.default_rng(0).permutation(len(A))
    a, b, moved = nearest(A), nearest(B), nearest(B[order])
    assert (np.sort(b.reordered(order).row) == np.sort(moved.row)).all()
    for compare in (neighbours.mutual, neighbours.cycle, neighbours.kernel):
        assert compare(a, b, order) == pytest.approx(compare(a, moved))


def test_blocks_change_nothing(monkeypatch):
    A, B = related()
    whole = nearest(A), mutual_knn(A, B), cknna(A, B)
    monkeypatch.setattr(neighbours, "_CELLS", 2000)
    assert (nearest(A).row == whole[0].row).all()
    assert (mutual_knn(A, B), cknna(A, B)) == pytest.approx(whole[1:])


def test_cka_is_its_formula_on_kernel_matrices():
    A, B = related()
    K, L = A @ A.T, B @ B.T
    assert debiased_cka(A, B) == pytest.approx(hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)))
    H = np.eye(len(A)) - 1 / len(A)
    trace = [np.trace(X @ H @ Y @ H) for X, Y in ((K, L), (K, K), (L, L))]
    assert cka(A, B) == pytest.approx(trace[0] / np.sqrt(trace[1] * trace[2]))
    assert debiased_cka(A + 100, B) == pytest.approx(debiased_cka(A, B))


def test_linear_algebra_metrics_agree_with_scipy():
    A, B = related()
    a, b = (X - X.mean(0) for X in (A, B))
    u, v = (np.linalg.svd(X)[0][:, :5] for X in (a, b))
    assert svcca(A, B, 5) == pytest.approx(np.cos(subspace_angles(u, v)).mean())
    a, b = (np.pad(X / np.linalg.norm(X), ((0, 0), (0, 20 - X.shape[1]))) for X in (a, b))
    assert procrustes(A, B) == pytest.approx(orthogonal_procrustes(a, b)[1])
    R = orthogonal_procrustes(a, b)[0]
    assert ((a @ R - b) ** 2).sum() == pytest.approx(2 - 2 * procrustes(A, B))


def test_rsa_is_spearmans_correlation_of_distances_and_clipping_keeps_what_lies_between():
    A, B = related()
    for name in ("correlation", "cosine"):
        expected = spearmanr(pdist(A, name), pdist(B, name))[0]
        assert rsa(A, B, name) == pytest.approx(expected, abs=1e-5)
        assert rsa(A, B, name, (0.0, 1.0)) == pytest.approx(expected, abs=1e-5)
    d = [np.clip((x - np.quantile(x, 0.2)) / (np.quantile(x, 0.6) - np.quantile(x, 0.2)), 0, 1)
         for x in (pdist(A, "correlation"), pdist(B, "correlation"))]
    assert rsa(A, B, clip=(0.2, 0.6)) == pytest.approx(spearmanr(*d)[0], abs=1e-5)


def test_independent_spaces_score_what_chance_gives():
    """The card's figures: mutual k-NN 0.0096 beside k/(n-1) = 0.0100 at n = 1000; biased CKA 0.84 and 0.34 at 512
    dimensions and n = 100 and 1000, unbiased 0.010 and 0.0003."""
    found = {metric: [] for metric in (mutual_knn, debiased_cka, rsa)}
    for seed in range(8):
        A, B = draw(300, 32, 40 + seed), draw(300, 24, 80 + seed)
        for metric, values in found.items():
            values.append(metric(A, B))
    for metric, expected in ((mutual_knn, 10 / 299), (debiased_cka, 0), (rsa, 0)):
        error = np.std(found[metric], ddof=1) / 8**0.5
        assert abs(np.mean(found[metric]) - expected) < 3.5 * error, metric
    assert cknna(A, B) == pytest.approx(10 / 299, abs=0.01)  # not 0: shared by chance is shared
    for n, biased in ((100, 0.84), (1000, 0.34)):
        A, B = draw(n, 512), draw(n, 512, 1)
        assert cka(A, B) == pytest.approx(biased, abs=0.01)
        assert abs(debiased_cka(A, B)) < 0.05


def test_prepared_rows_have_unit_length_and_no_giants():
    X = draw(200, 30)
    X[:, 3] *= 1000
    made = prepare(X)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    clamped = X.clip(-np.quantile(np.abs(X), 0.95), np.quantile(np.abs(X), 0.95))
    np.testing.assert_allclose(made, clamped / np.linalg.norm(clamped, axis=1, keepdims=True))


def test_the_best_of_many_layer_pairs_is_held_against_the_best_of_as_many_by_chance():
    A, B = related(120)
    metrics = ("mutual_knn", "cycle_knn", "cknna", "debiased_cka", "svcca", "procrustes", "rsa")
    one = {"0": draw(120, 10, 5), "1": A}
    table = compare_layers(one, {"0": draw(120, 10, 6), "1": B}, metrics, n_null=20, k=5)
    best = table[table["control"] == "best_of_pairs"].set_index("metric")
    null = table[table["control"] == "best_of_pairs_null"].set_index("metric")
    assert set(best.index) == set(metrics) and (best[["layer_a", "layer_b"]] == "1").all(axis=None)
    assert (best["value"] > null["ci_high"]).all() and (best["p_value"] < 0.1).all()
    pairs = table[table["control"].isna()]
    assert len(pairs) == 4 * len(metrics)
    assert best["value"].to_dict() == pairs.groupby("metric")["value"].max().to_dict()
    alone = compare_layers(one, {str(i): draw(120, 10, 20 + i) for i in range(4)}, ("mutual_knn",), n_null=99, k=5)
    assert alone["p_value"].dropna().item() > 0.02
    assert alone["value"][alone["control"] == "best_of_pairs_null"].item() > 5 / 119  # a maximum is above the mean


def test_the_null_of_one_pair_is_the_metric_on_permuted_rows():
    A, B = related(60)
    table = compare_layers({"a": A}, {"b": B}, ("debiased_cka", "procrustes", "svcca", "rsa"), n_null=20, clamp=None,
                           seed=3)
    rng = np.random.default_rng(3)
    orders = [rng.permutation(60) for _ in range(20)]
    for metric in (debiased_cka, procrustes, svcca, rsa):
        null = table[(table["metric"] == metric.__name__) & (table["control"] == "best_of_pairs_null")]
        assert null["value"].item() == pytest.approx(np.mean([metric(A, B[o]) for o in orders]), abs=1e-5)


@pytest.mark.parametrize("metric", ALL, ids=lambda f: f.__name__)
def test_rows_that_are_not_paired_are_refused(metric):
    with pytest.raises(ValueError, match="30 and 31 rows"):
        metric(draw(30, 12), draw(31, 12))
    broken = draw(30, 12)
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match="second space"):
        metric(draw(30, 12), broken)


def test_what_else_cannot_be_compared_is_refused():
    A = draw(8, 4)
    with pytest.raises(ValueError, match="at least 12 rows"):
        mutual_knn(A, A)
    with pytest.raises(ValueError, match="lower the rank"):
        svcca(A, A)
    with pytest.raises(ValueError, match="row 2 is zero"):
        nearest(np.where(np.arange(30)[:, None] == 2, 0, draw(30, 4)), 3)
    with pytest.raises(ValueError, match="unknown metric 'knn'"):
        compare_layers({"a": A}, {"b": A}, ("knn",))
    with pytest.raises(ValueError, match="20 draws"):
        compare_layers({"a": A}, {"b": A}, n_null=3)
    with pytest.raises(ValueError, match="do not fit"):
        rsa(np.ones((20_001, 1)), np.ones((20_001, 1)))
