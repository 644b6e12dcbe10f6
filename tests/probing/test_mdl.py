import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probing import LogisticProbe, online_code, online_code_lengths
from probing._mdl import FRACTIONS, next_bits


def labelled(n=2000, d_model=8, n_classes=3, n_targets=2, per_group=5, seed=0):
    rng = np.random.default_rng(seed)
    Y = rng.integers(n_classes, size=(n, n_targets))
    return rng.normal(size=(n, d_model)), Y, np.arange(n) // per_group


def value(table, metric, subset="all"):
    return table.query("metric == @metric and subset == @subset")["value"].item()


def test_a_uniform_coder_pays_n_log2_k_bits():
    X, Y, groups = labelled()
    table = online_code(X, Y, groups, DummyClassifier(strategy="uniform"), fractions=FRACTIONS[5:])
    assert value(table, "codelength") == pytest.approx(Y.size * np.log2(3), rel=1e-12)
    assert value(table, "compression", "target=1") == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(online_code_lengths(X, Y, groups, fractions=[1.0]), np.log2(3))  # nothing to learn from


def test_random_labels_do_not_compress():
    X, Y, groups = labelled(n=20_000)
    assert 0.95 <= value(online_code(X, Y, groups), "compression") <= 1.0


def test_a_perfect_feature_compresses_the_more_the_more_there_is():
    compression = []
    for n in (300, 3_000, 12_000):
        _, Y, groups = labelled(n=n, n_targets=1)
        table = online_code(np.eye(3)[Y[:, 0]], Y, groups, n_orders=1)
        compression.append(value(table, "compression"))
    assert compression[0] > 2 and compression[1] > 3 * compression[0] and compression[2] > 2 * compression[1]


def test_lengths_are_those_of_a_loop_of_scikit_learn_over_blocks():
    X, Y, _ = labelled(n=400, n_targets=1)
    Y[:, 0] = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    bits = online_code_lengths(X, Y, np.arange(400), LogisticProbe(tol=1e-6), fractions=[0.1, 0.3, 1.0], n_orders=2,
                               seed=7)
    for order in range(2):
        rows = np.argsort(np.random.default_rng([7, order]).permutation(400))
        loop = np.full(400, np.log2(3))
        for start, end in ((40, 120), (120, 400)):
            oracle = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9, max_iter=5000))
            new = rows[start:end]
            p = oracle.fit(X[rows[:start]], Y[rows[:start], 0]).predict_proba(X[new])
            loop[new] = -np.log2((start * p[np.arange(len(new)), Y[new, 0]] + 1) / (start + 3))
        np.testing.assert_allclose(bits[order, :, 0], loop, rtol=1e-3, atol=1e-4)


def test_a_group_is_never_learned_from_and_paid_for_at_once():
    """Labels and activations belong to the group: any label that follows one of its own group would be free."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 10)
    X, Y = rng.normal(size=(200, 64))[groups], rng.integers(2, size=(200, 1))[groups]
    bits = online_code_lengths(X, Y, groups, GaussianNB(), n_orders=3)
    assert bits.mean() > 1


def test_the_order_is_the_same_for_all_representations_and_another_for_another_seed():
    X, Y, groups = labelled(n=600)
    first, again, other = (online_code_lengths(x, Y, groups, fractions=[0.3, 1.0], seed=seed) == np.log2(3)
                           for x, seed in ((X, 0), (X**2, 0), (X, 1)))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()


def test_targets_in_one_fit_equal_targets_one_by_one():
    X, Y, groups = labelled(n=400)
    Y[:, 1] = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    single = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-9, max_iter=5000))
    lengths = [online_code_lengths(X, Y, groups, probe, fractions=[0.1, 0.4, 1.0], n_orders=1).mean(1)
               for probe in (LogisticProbe(tol=1e-6), single)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)
    assert lengths[0][0, 1] < 0.8 < 1.5 < lengths[0][0, 0]


def test_scikit_learn_classifiers_of_many_targets_will_do():
    X, Y, groups = labelled(n=400)
    lengths = [online_code_lengths(X, Y[:, columns], groups, KNeighborsClassifier(), fractions=[0.1, 0.4, 1.0])
               for columns in ([0, 1], [0], [1])]
    np.testing.assert_allclose(lengths[0], np.concatenate(lengths[1:], 2))
    forest = RandomForestClassifier(3, random_state=0)  # has a length, and none before it is fitted
    assert np.isfinite(online_code_lengths(X, Y, groups, forest, fractions=[0.4, 1.0])).all()


def test_a_class_that_comes_late_is_dear_but_not_endless():
    X, codes = np.random.default_rng(0).normal(size=(30, 4)), np.repeat([[0], [1]], 15, 0)
    bits = next_bits(LogisticProbe(), X, codes, X[:2], np.full((2, 1), 2), 3)
    np.testing.assert_allclose(bits, np.log2(33))
    np.testing.assert_allclose(next_bits(None, X[:15], codes[:15], X[:1], np.zeros((1, 1), int), 3), np.log2(18 / 16))
    np.testing.assert_allclose(next_bits(LogisticProbe(), X[:15], codes[:15], X[:1], np.zeros((1, 1), int), 3),
                               np.log2(18 / 16))  # a single class leaves nothing to fit


def test_probabilities_that_p_sums_over_are_one():
    X, Y, _ = labelled(n=60, n_targets=1)
    bits = [next_bits(LogisticProbe(), X, Y, X[:9], np.full((9, 1), k), 3) for k in range(3)]
    np.testing.assert_allclose((2.0 ** -np.array(bits)).sum(0), 1, rtol=1e-6)


def test_rows_carry_their_interval_and_their_names():
    X, Y, groups = labelled(n=300)
    table = online_code(X, Y, groups, targets=["c4", "d3"], fractions=[0.2, 1.0])
    assert table["subset"].tolist() == 2 * ["all", "target=c4", "target=d3"]
    assert ((table["ci_low"] <= table["value"]) & (table["value"] <= table["ci_high"])).all()
    assert set(table["n_groups"]) == {60}
    pd.testing.assert_frame_equal(table, online_code(X, Y, groups, targets=["c4", "d3"], fractions=[0.2, 1.0]))
    with pytest.raises(ValueError, match="2 targets need as many names"):
        online_code(X, Y, groups, targets=["c4"])


def test_what_cannot_be_coded_says_what_to_do():
    X, Y, groups = labelled(n=50)
    with pytest.raises(ValueError, match="increase from above 0 to 1"):
        online_code(X, Y, groups, fractions=FRACTIONS[:-1])
    with pytest.raises(ValueError, match="at least 2 groups and 2 classes, there are 1 and 3"):
        online_code(X, Y, np.zeros(50))
