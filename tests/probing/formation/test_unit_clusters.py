"""Copies make a cluster of their own, duplicates share one, and a rotation or a stranger makes none."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.cluster import SpectralClustering, SpectralCoclustering
from sklearn.metrics import adjusted_rand_score

from probing.formation import unit_clusters, unit_correlations


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def noisy_copies(times, seed=0, noise=0.4, n=600):
    """Five signals, each carried by so many units."""
    signals = np.repeat(draw(n, 5), times, axis=1)
    return signals + noise * draw(n, signals.shape[1], seed)


def labels_of(found, p, q):
    of = np.zeros(p + q, int)
    for k, row in found.iterrows():
        of[row["units_a"]], of[p + np.array(row["units_b"], int)] = k, k
    return of


def test_every_unit_of_a_permuted_copy_is_in_a_cluster_with_its_copy():
    A, order = np.maximum(draw(500, 40), 0), np.random.default_rng(1).permutation(40)
    found = unit_clusters(A, (1 - 2 * A)[:, order])
    assert len(found) == 40
    for a, b in zip(found["units_a"], found["units_b"], strict=True):
        assert a == [order[b[0]]] and len(b) == 1
    np.testing.assert_allclose(found["within"], 1)
    assert (found["coherence"] > found["null_high"]).all() and (found["p_value"] < 0.05).all()


def test_units_that_carry_one_signal_are_one_cluster_however_many_there_are_on_either_side():
    A, B = noisy_copies([1, 2, 3, 4, 2], 1), noisy_copies([3, 1, 2, 2, 4], 2)
    found = unit_clusters(A, B)
    assert len(found) == 5 and sorted(found["units_a"]) == [[0], [1, 2], [3, 4, 5], [6, 7, 8, 9], [10, 11]]
    by_a = dict(zip(map(len, found["units_a"]), found["units_b"], strict=True))
    assert by_a[1] == [0, 1, 2] and by_a[3] == [4, 5] and by_a[4] == [6, 7]
    size = unit_correlations(A, B) ** 2
    for _, row in found.iterrows():
        mine, theirs = np.isin(np.arange(12), row["units_a"]), np.isin(np.arange(12), row["units_b"])
        assert row["within"] == pytest.approx(size[np.ix_(mine, theirs)].mean())
        out = np.concatenate([size[np.ix_(mine, ~theirs)].ravel(), size[np.ix_(~mine, theirs)].ravel()])
        assert row["between"] == pytest.approx(out.mean())
        assert row["coherence"] == pytest.approx(row["within"] - row["between"])
    assert (found["p_value"] < 0.05).all()


def test_clusters_are_those_of_scikit_learn():
    A, B = noisy_copies([1, 2, 3, 4, 2], 1), noisy_copies([3, 1, 2, 2, 4], 2)
    ours = labels_of(unit_clusters(A, B, 5), 12, 12)
    graph = unit_correlations(A, B) ** 2
    pairs = SpectralCoclustering(5, random_state=0).fit(graph)
    assert adjusted_rand_score(ours, np.r_[pairs.row_labels_, pairs.column_labels_]) == 1
    joined = np.block([[np.zeros((12, 12)), graph], [graph.T, np.zeros((12, 12))]])
    whole = SpectralClustering(5, affinity="precomputed", assign_labels="cluster_qr", random_state=0).fit(joined)
    assert adjusted_rand_score(ours, whole.labels_) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_rotated_copy_and_a_stranger_have_no_groups_of_units(seed):
    A = draw(500, 12, seed)
    for B in (A @ ortho_group.rvs(12, random_state=seed), draw(500, 12, 9 + seed)):
        found = unit_clusters(A, B, 4, seed=seed)
        assert (found["p_value"].dropna() > 0.05).mean() >= 0.75
        assert sum(map(len, found["units_a"])) == 12 == sum(map(len, found["units_b"]))
        assert len(unit_clusters(A, B, seed=seed)) <= 3


def test_one_cluster_has_nothing_to_stand_out_from_and_constant_units_are_in_none():
    A, B = noisy_copies([1, 1, 2, 1, 1], 1), noisy_copies([1, 2, 1, 1, 1], 2)
    A[:, 0], B[:, 5] = 3.0, 0.0
    one = unit_clusters(A, B, 1)
    assert one["units_a"][0] == [1, 2, 3, 4, 5] and one["units_b"][0] == [0, 1, 2, 3, 4]
    assert one[["between", "coherence", "null", "p_value"]].isna().all(axis=None) and one["within"][0] > 0


def test_what_has_no_clusters_is_refused():
    A = draw(30, 4)
    with pytest.raises(ValueError, match="30 and 31 rows"):
        unit_clusters(A, draw(31, 4))
    with pytest.raises(ValueError, match="ask for at most 3"):
        unit_clusters(A, A[:, :3], 4)
    with pytest.raises(ValueError, match="0 and 4 units that vary"):
        unit_clusters(np.ones((30, 4)), A)
    with pytest.raises(ValueError, match="20 draws"):
        unit_clusters(A, A, n_null=3)
