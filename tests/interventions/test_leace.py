"""LEACE leaves no linear trace of a label and moves rows least; the package of its authors gives the same map."""

import concept_erasure
import numpy as np
import pytest
import torch
from concept_erasure.shrinkage import optimal_linear_shrinkage
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from interventions import LEACE, Eraser, OracleLEACE
from probing import Moments, Site, Subspace
from probing._design import one_hot


def classes(n=600, d=16, k=3, gap=0.6, seed=0):
    """Rows of correlated dimensions, an offset, and k classes of uneven size."""
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(k), np.arange(k), rng.choice(k, n - 2 * k, p=np.arange(1, k + 1) / (k * (k + 1) / 2))]
    X = (rng.normal(size=(n, d)) + gap * rng.normal(size=(k, d))[y]) @ rng.normal(size=(d, d)) + 5 * rng.normal(size=d)
    return X, y


def spread(X, y):
    """Largest distance of a class mean from the mean of all, in units of the rows' standard deviation."""
    return max(np.abs(X[y == k].mean(0) - X.mean(0)).max() for k in np.unique(y)) / X.std()


def indicators(y):
    return one_hot(y[:, None], int(y.max()) + 1)


def least_squares(X, y):
    """Weights of the least-squares predictor of the class from standardised rows."""
    Z = (X - X.mean(0)) / X.std()
    return np.linalg.lstsq(Z, indicators(y) - indicators(y).mean(0), 1e-8)[0]


def theirs(X, y, **options):
    X, z = torch.from_numpy(X), torch.from_numpy(indicators(y))
    return concept_erasure.LeaceFitter.fit(X, z, **options).eraser


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0, "auto", 0.3]), st.sampled_from(["leace", "orth"]),
       st.sampled_from([1.0, 1e-3, 1e-6]))
def test_no_linear_trace_is_left_on_the_fitting_rows(seed, k, shrinkage, method, gap):
    X, y = classes(k=k, gap=gap, seed=seed)
    eraser = LEACE.fit(X, y, shrinkage=shrinkage, method=method)
    erased = eraser.transform(X)
    assert eraser.rank == k - 1 == torch.linalg.matrix_rank(torch.eye(16) - eraser.P, atol=1e-8)
    assert spread(erased, y) < 1e-9  # the card asks for 1e-6; weak labels go as well as strong ones
    assert np.abs(least_squares(erased, y)).max() < 1e-6
    np.testing.assert_allclose(eraser.transform(erased), erased, atol=1e-9 * np.abs(X).max())
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=1e-10 * np.abs(X).max())
    assert erased.var(0).sum() <= X.var(0).sum() * (1 + 1e-12)  # what the package's trace constraint asks for
    moved = torch.from_numpy(erased - X)
    torch.testing.assert_close(eraser.removed.project(moved), moved, rtol=0, atol=1e-9 * float(np.abs(X).max()))


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_no_eraser_moves_rows_less(seed, k):
    """Against the orthogonal one, and against every affine map of the same guarantee: those that add to P(x - mu)
    something linear in it (Belrose et al., theorem 4.2)."""
    X, y = classes(k=k, seed=seed)
    rng = np.random.default_rng(seed)
    eraser = LEACE.fit(X, y, shrinkage=0)
    erased = eraser.transform(X)
    mse = ((erased - X) ** 2).mean()
    orth = LEACE.fit(X, y, method="orth").transform(X)
    assert mse <= ((orth - X) ** 2).mean() * (1 + 1e-9)
    other = erased + (erased - X.mean(0)) @ rng.normal(size=(16, 16)) * 1e-2
    assert spread(other, y) < 1e-9 and mse < ((other - X) ** 2).mean()
    M = rng.normal(size=(16, 16))  # and in any quadratic norm
    assert (((erased - X) @ M) ** 2).mean() <= (((orth - X) @ M) ** 2).mean() * (1 + 1e-9)


def test_two_classes_give_the_pair_of_difference_and_lda_direction():
    X, y = classes(k=2)
    m = X[y == 1].mean(0) - X[y == 0].mean(0)
    w = np.linalg.solve(np.cov(X.T), m)
    want = np.eye(16) - np.outer(m, w) / (w @ m)
    np.testing.assert_allclose(LEACE.fit(X, y, shrinkage=0).P.numpy(), want, atol=1e-9)
    np.testing.assert_allclose(LEACE.fit(X, y.astype(bool), shrinkage=0).P.numpy(), want, atol=1e-9)
    assert LEACE.fit(X, y, method="orth").removed.angles(Subspace.spanned_by(torch.from_numpy(m)[None])).max() < 1e-4


def test_removing_the_lda_direction_erases_nothing_and_the_difference_all():
    """R^2 of the label by least squares after either projection: the choice of direction is the whole question."""
    X, y = classes(n=2000, d=40, k=2, gap=2.0)
    m = X[y == 1].mean(0) - X[y == 0].mean(0)
    r2 = {}
    for name, direction in (("none", None), ("lda", np.linalg.solve(np.cov(X.T), m)), ("difference", m)):
        erased = X
        if direction is not None:
            span = Subspace.spanned_by(torch.from_numpy(direction)[None])
            erased = Eraser.onto(span, X.mean(0)).transform(X)
        Z, t = erased - erased.mean(0), y - y.mean()
        r2[name] = 1 - ((t - Z @ np.linalg.lstsq(Z, t, 1e-10)[0]) ** 2).mean() / t.var()
    assert r2["none"] > 0.95 and r2["lda"] > 0.9 * r2["none"] and abs(r2["difference"]) < 1e-10


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("shrinkage", [False, True])
def test_the_map_is_that_of_concept_erasure(k, shrinkage):
    X, y = classes(k=k)
    cov, n = torch.from_numpy(np.cov(X.T, bias=True)), torch.tensor(len(X))
    shrunk = optimal_linear_shrinkage(cov, n)
    ours = 1 - float(shrunk[0, 1] / cov[0, 1]) if shrinkage else 0  # the intensity of theirs
    want = theirs(X, y, shrinkage=shrinkage, svd_tol=1e-6, constrain_cov_trace=True)
    eraser = LEACE.fit(X, y, shrinkage=ours)
    torch.testing.assert_close(eraser.P, want.P, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.from_numpy(eraser.transform(X)), want(torch.from_numpy(X)), rtol=0, atol=1e-8)
    orth = theirs(X, y, method="orth", svd_tol=1e-6)
    torch.testing.assert_close(LEACE.fit(X, y, method="orth").P, orth.P, rtol=0, atol=1e-9)


def test_logistic_regression_finds_nothing_either():
    """What the package's own test asserts: coefficients below 4e-9 on centred float64 rows."""
    X, y = classes(k=2, n=1000)
    erased = LEACE.fit(X, y).transform(X)
    fitted = LogisticRegression(C=np.inf, tol=1e-12).fit((erased - erased.mean(0)) / erased.std(), y)
    assert np.abs(fitted.coef_).max() < 4e-9


def test_weak_labels_are_erased_where_an_absolute_tolerance_leaves_them():
    X, y = classes(n=4000, k=2, gap=0.0)
    X = OracleLEACE.fit(X, y).transform(X, y)  # else chance alone correlates them by more than 0.01
    X[:, 0] += 2e-3 * X.std() * y
    assert spread(X, y) > 1e-4
    left = theirs(X, y, shrinkage=False)(torch.from_numpy(X)).numpy()
    assert spread(left, y) > 1e-4 and spread(LEACE.fit(X, y).transform(X), y) < 1e-9
    small = LEACE.fit(X, 1e-6 * y[:, None], shrinkage=0)  # a quantity in other units is the same label
    torch.testing.assert_close(small.P, LEACE.fit(X, y, shrinkage=0).P, rtol=0, atol=1e-8)


def test_out_of_sample_the_guarantee_is_approximate():
    """Fitted on 1000 of 2000 rows, three classes in 64 dimensions, least squares probed on the other rows: near the
    majority, where the rows before are read almost without fault."""
    X, y = classes(n=3000, d=64, k=3, gap=0.3, seed=1)
    fit, train, test = slice(0, 1000), slice(1000, 2000), slice(2000, 3000)
    eraser = LEACE.fit(X[fit], y[fit])
    share = np.bincount(y[test]).max() / 1000

    def reread(rows):
        return LogisticRegression(max_iter=2000).fit(rows[train] / rows.std(), y[train]).score(rows[test] / rows.std(),
                                                                                               y[test])

    assert reread(X) > share + 0.25
    assert reread(eraser.transform(X)) < share + 0.05


@pytest.mark.parametrize("folds", ["train", "test"])
def test_moments_give_the_eraser_of_their_rows(folds):
    X, y = classes(k=3)
    fold = np.arange(len(X)) % 3
    moments = Moments(["c/t=0", "c/t=1", "c/t=2", "v/a"], ["train/0", "train/1", "test"])
    labels = np.c_[indicators(y), X[:, 0]]
    for part in np.array_split(np.arange(len(X)), 7):
        moments.update(X[part], labels[part], fold[part])
    rows = fold < 2 if folds == "train" else fold == 2
    ours, want = LEACE.from_moments(moments, "c", folds), LEACE.fit(X[rows], y[rows])
    for name in ("P", "mean", "correlations"):
        torch.testing.assert_close(getattr(ours, name), getattr(want, name), rtol=0, atol=1e-9)
    assert ours.shrinkage == pytest.approx(want.shrinkage)
    torch.testing.assert_close(LEACE.from_moments(moments, "v", folds).P,
                               LEACE.fit(X[rows], X[rows, :1]).P, rtol=0, atol=1e-8)
    oracle = OracleLEACE.from_moments(moments, "c", folds)
    np.testing.assert_allclose(oracle.transform(X, y), OracleLEACE.fit(X[rows], y[rows]).transform(X, y), atol=1e-8)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_the_oracle_eraser_is_that_of_concept_erasure_and_moves_rows_less(seed, k):
    X, y = classes(k=k, seed=seed)
    oracle, Z = OracleLEACE.fit(X, y), indicators(y)
    erased = oracle.transform(X, y)
    assert spread(erased, y) < 1e-9 and oracle.rank == k - 1
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=1e-9)
    assert ((erased - X) ** 2).mean() <= ((LEACE.fit(X, y, shrinkage=0).transform(X) - X) ** 2).mean() * (1 + 1e-9)
    want = concept_erasure.OracleEraser.fit(torch.from_numpy(X), torch.from_numpy(Z), svd_tol=1e-9)
    np.testing.assert_allclose(erased, want(torch.from_numpy(X), torch.from_numpy(Z)).numpy(), atol=1e-8)
    assert oracle.removed.angles(LEACE.fit(X, y).removed).max() < 1e-3


def test_edits_are_the_maps_in_any_dtype(gpt2, cases):
    from interventions import LastToken

    run = LastToken.of(gpt2, cases)
    site = Site("resid_post", 1)
    X = run.logits(read=[site])[1][site]
    y = np.arange(len(X)) % 2
    eraser, oracle = LEACE.fit(X, y), OracleLEACE.fit(X, y)
    for edit, want in ((eraser.edit(), eraser.transform(X)), (oracle.edit(y), oracle.transform(X, y))):
        torch.testing.assert_close(run.logits({site: edit}, read=[site])[1][site], want, rtol=1e-5, atol=1e-5)
    half = eraser.transform(X.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), eraser.transform(X), rtol=0.05, atol=0.1)
    with pytest.raises(ValueError, match="16 wide"):
        run.logits({site: LEACE.fit(*classes()).edit()})


def test_a_label_that_is_nowhere_leaves_rows_as_they_are():
    X, y = classes(k=2)
    rows = np.concatenate([X, X])
    eraser = LEACE.fit(rows, np.arange(len(rows)) // len(X))
    assert eraser.rank == 0 == eraser.removed.rank
    np.testing.assert_array_equal(eraser.transform(rows), rows)


@pytest.mark.parametrize("rows, labels, message", [
    ((6, 3), [0, 1, 0, 1, 0], "5 rows, X has 6"),
    ((6, 3), np.zeros(6, int), "the same in all 6 rows"),
    ((6, 3), np.linspace(0, 1, 6), "classes or a quantity"),
    ((6, 3), np.arange(12).reshape(6, 2), "0/1 columns"),
    ((6, 3), np.full((6, 1), np.nan), "not finite"),
    ((1, 3), [0], "at least 2 rows"),
])
def test_bad_input_is_told(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        LEACE.fit(np.random.default_rng(0).normal(size=rows), labels)


def test_bad_options_are_told():
    X, y = classes(k=2)
    with pytest.raises(ValueError, match="'leace' or 'orth'"):
        LEACE.fit(X, y, method="svd")
    with pytest.raises(ValueError, match="0 to 1"):
        LEACE.fit(X, y, shrinkage=2)
    with pytest.raises(ValueError, match="not finite"):
        LEACE.fit(np.where(np.eye(*X.shape) > 0, np.nan, X), y)
    with pytest.raises(ValueError, match="did not see"):
        OracleLEACE.fit(X, y).shift([0, 1, 7])
    moments = Moments(["c/t=0", "c/t=1"]).update(X[:4], np.array([[1, 0], [0, 1], [0, 0], [1, 0]]))
    with pytest.raises(ValueError, match="rows without a label"):
        LEACE.from_moments(moments, "c", folds=None)
    with pytest.raises(KeyError, match="no numeric labels of 'd'"):
        LEACE.from_moments(moments, "d", folds=None)
    with pytest.raises(ValueError, match="identity"):
        Eraser(torch.ones(1, 4), torch.ones(1, 4), torch.zeros(4))
