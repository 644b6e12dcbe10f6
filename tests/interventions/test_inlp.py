"""INLP's projection is the intersection of null spaces; AlterRep puts every classifier on one side."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from interventions import INLP, LEACE, AlterRep
from probing import LDAProbe, LogisticProbe, MassMeanProbe


def classes(n=600, d=12, k=2, gap=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return (rng.normal(size=(n, d)) + gap * rng.normal(size=(k, d))[y]) @ rng.normal(size=(d, d)) + 3, y


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(2, 3), st.sampled_from([LogisticProbe, LDAProbe]))
def test_the_projection_is_the_sum_and_the_product_of_single_ones(seed, k, probe):
    X, y = classes(k=k, seed=seed)
    inlp = INLP.fit(X, y, n_iterations=4, min_accuracy=0.0, probe=probe)
    P, w = inlp.P, inlp.write
    assert inlp.rank == 4 * (k - 1)
    torch.testing.assert_close(P @ P, P, rtol=0, atol=1e-10)
    torch.testing.assert_close(w @ w.T, torch.eye(inlp.rank).double(), rtol=0, atol=1e-10)  # W_i.W_j = 0
    assert (w @ P).abs().max() < 1e-10  # W_i P = 0
    parts = [rows.T @ rows for rows in w.split(k - 1)]
    eye = torch.eye(len(P)).double()
    torch.testing.assert_close(P, eye - sum(parts), rtol=0, atol=1e-10)
    product = eye
    for part in parts:
        product = (eye - part) @ product
    torch.testing.assert_close(P, product, rtol=0, atol=1e-10)


def test_it_stops_at_the_majority_on_dev_and_takes_more_than_leace():
    """Accuracy falls slowly: a logistic classifier takes many dimensions where the difference of means takes one."""
    X, y = classes(n=3000, d=20, gap=0.8)
    fit, dev, test = (slice(i, None, 3) for i in range(3))
    inlp = INLP.fit(X[fit], y[fit], (X[dev], y[dev]), n_iterations=20)
    history = inlp.history
    assert history["removed"][:-1].all() and history["accuracy"][0] > 0.9
    assert len(history) == 20 or not history["removed"].iloc[-1]
    assert 2 < inlp.rank == history["removed"].sum()
    assert np.corrcoef(history.index, history["accuracy"])[0, 1] < -0.8
    erased = inlp.transform(X)
    assert LogisticRegression().fit(erased[fit], y[fit]).score(erased[test], y[test]) < 0.56
    one = INLP.fit(X[fit], y[fit], probe=MassMeanProbe)
    assert one.rank <= 2 and one.removed.angles(LEACE.fit(X[fit], y[fit]).removed)[0] < 1e-3


def test_means_stay_unless_the_map_is_linear():
    X, y = classes()
    np.testing.assert_allclose(INLP.fit(X, y, n_iterations=2).transform(X).mean(0), X.mean(0), atol=1e-9)
    linear = INLP.fit(X, y, n_iterations=2, affine=False)
    np.testing.assert_allclose(linear.transform(X), X @ linear.P.numpy().T, atol=1e-9)


def test_scikit_learn_classifiers_serve_too():
    X, y = classes()
    inlp = INLP.fit(X, y, n_iterations=2, probe=lambda: LogisticRegression(max_iter=1000))
    assert inlp.rank == 2 and inlp.classes == (0, 1)


@pytest.mark.parametrize("to", [0, 1])
def test_all_classifiers_predict_the_class_of_the_counterfactual(to):
    X, y = classes(gap=0.4)
    inlp = INLP.fit(X, y, n_iterations=5, min_accuracy=0.0)
    w, b = inlp.write.numpy(), inlp.offsets.numpy()
    assert ((X @ w[0] + b[0] > 0) == y).mean() > 0.6 and ((X @ w.T + b > 0) != to).any(0).all()
    moved = AlterRep(inlp, alpha=4.0).transform(X, to)
    assert (((moved @ w.T + b) > 0) == to).all()
    np.testing.assert_allclose(np.abs(moved @ w.T + b), 4 * np.abs(X @ w.T + b), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moved @ inlp.P.numpy().T, X @ inlp.P.numpy().T, atol=1e-9)  # the null space stays


def test_each_case_may_go_its_own_way():
    X, y = classes()
    alter = AlterRep(INLP.fit(X, y, n_iterations=3, min_accuracy=0.0))
    sides = torch.from_numpy(1 - y)
    for to in (0, 1):
        np.testing.assert_array_equal(alter.transform(X, sides)[y == 1 - to], alter.transform(X, to)[y == 1 - to])


def test_bad_input_is_told():
    X, y = classes(k=3)
    with pytest.raises(ValueError, match="3 classes and 2 directions"):
        AlterRep(INLP.fit(X, y, n_iterations=1))
    X, y = classes()
    inlp = INLP.fit(X, y, n_iterations=1)
    with pytest.raises(ValueError, match="above 0"):
        AlterRep(inlp, alpha=0.0)
    with pytest.raises(ValueError, match="to is 0 or 1"):
        AlterRep(inlp).edit(2)
    with pytest.raises(ValueError, match="one class for each of 600 rows"):
        INLP.fit(X, y[:5])
