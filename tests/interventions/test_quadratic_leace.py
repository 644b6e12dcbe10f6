"""Quadratic erasure gives all classes one mean and one covariance, as concept-erasure does, and keeps the mean."""

import concept_erasure
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from interventions import LEACE, LastToken, QuadraticLEACE
from probing import Moments, Site


def classes(k=3, n=900, d=8, seed=0, even=False):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k if even else np.r_[np.arange(n // 2) % k, rng.integers(0, k, n - n // 2)]
    forms = rng.normal(size=(k, d, d)) + 2 * np.eye(d)
    return np.einsum("nd,nde->ne", rng.normal(size=(n, d)), forms[y]) + rng.normal(size=(k, d))[y] + 4, y


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_classes_have_one_mean_and_one_covariance_after_it(seed, k):
    X, y = classes(k, seed=seed)
    erased = QuadraticLEACE.fit(X, y, shrinkage=0).transform(X, y)
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=1e-10)
    first = np.cov(erased[y == 0].T)
    for c in range(k):
        np.testing.assert_allclose(erased[y == c].mean(0), X.mean(0), atol=1e-10)
        np.testing.assert_allclose(np.cov(erased[y == c].T), first, atol=1e-8 * np.abs(first).max())


@pytest.mark.parametrize("k", [2, 3])
def test_the_map_is_that_of_concept_erasure(k):
    X, y = classes(k, even=True)  # even classes: theirs moves the mean to the unweighted mean of the classes
    theirs = concept_erasure.QuadraticEraser.fit(torch.from_numpy(X), torch.from_numpy(y), shrinkage=False)
    ours = QuadraticLEACE.fit(X, y, shrinkage=0)
    torch.testing.assert_close(ours.maps, theirs.ot_maps, rtol=0, atol=1e-6)
    want = theirs(torch.from_numpy(X), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(ours.transform(X, y), want, atol=1e-5)


def test_a_quadratic_classifier_reads_what_leace_leaves_and_nothing_here():
    X, y = classes(2, n=2000, d=6)
    noise = 0.1 * np.random.default_rng(0).normal(size=X.shape)  # rows that LEACE has been at have no full rank

    def score(rows):
        return QuadraticDiscriminantAnalysis().fit(rows[::2], y[::2]).score(rows[1::2], y[1::2])

    share = max(np.mean(y), 1 - np.mean(y))
    assert score(LEACE.fit(X, y).transform(X) + noise) > share + 0.1
    assert score(QuadraticLEACE.fit(X, y).transform(X, y)) < share + 0.06


def test_moments_of_the_classes_and_an_edit_of_cases_are_the_same_map(gpt2, cases):
    X, y = classes()
    moments = Moments((), ("a", "b", "c")).update(X, fold=y)
    ours, want = QuadraticLEACE.from_moments(moments), QuadraticLEACE.fit(X, y)
    np.testing.assert_allclose(ours.transform(X, np.array(["a", "b", "c"])[y]), want.transform(X, y), atol=1e-9)
    run, site = LastToken.of(gpt2, cases), Site("resid_post", 1)
    acts = run.logits(read=[site])[1][site]
    codes = np.arange(len(acts)) % 2
    eraser = QuadraticLEACE.fit(acts, codes)
    moved = run.logits({site: eraser.edit(codes)}, read=[site])[1][site]
    torch.testing.assert_close(moved, eraser.transform(acts, codes), rtol=1e-4, atol=1e-4)


def test_bad_input_is_told():
    X, y = classes()
    with pytest.raises(ValueError, match="at least 2 classes"):
        QuadraticLEACE.fit(X, np.zeros(len(X), int))
    with pytest.raises(ValueError, match=r"classes \[9\] were not among"):
        QuadraticLEACE.fit(X, y).transform(X[:2], [0, 9])
    with pytest.raises(ValueError, match="classes of 3 rows, X has 2"):
        QuadraticLEACE.fit(X, y).transform(X[:2], [0, 1, 0])
    with pytest.raises(ValueError, match="0 to 1"):
        QuadraticLEACE.fit(X, y, shrinkage=-1)
