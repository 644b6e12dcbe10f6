"""SPLINCE erases one label and keeps the covariance with another; it is the published formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import LEACE, SPLINCE
from probing import Moments


def entangled(seed=0, n=800, d=12, k=3):
    """A label of k classes to erase, and a task label that often agrees with it."""
    rng = np.random.default_rng(seed)
    z = np.r_[np.arange(k), rng.integers(0, k, n - k)]
    task = np.where(rng.random(n) < 0.6, z % 2, rng.integers(0, 2, n))
    means = rng.normal(size=(k, d))[z] + rng.normal(size=(2, d))[task]
    return (rng.normal(size=(n, d)) + means) @ rng.normal(size=(d, d)) + 3, z, task


def covariance(X, y):
    """Of rows with 0/1 columns of the classes."""
    onehot = np.eye(int(y.max()) + 1)[y]
    return (X - X.mean(0)).T @ (onehot - onehot.mean(0)) / len(X)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0, "auto", 0.5]))
def test_the_label_goes_the_task_stays_and_twice_is_once(seed, shrinkage):
    X, z, task = entangled(seed)
    X = X / X.std()
    eraser = SPLINCE.fit(X, z, task, shrinkage=shrinkage)
    erased = eraser.transform(X)
    assert np.abs(covariance(erased, z)).max() < 1e-8
    np.testing.assert_allclose(covariance(erased, task), covariance(X, task), rtol=0, atol=1e-8)
    np.testing.assert_allclose(eraser.transform(erased), erased, rtol=0, atol=1e-8)
    np.testing.assert_allclose(erased.mean(0), X.mean(0), atol=1e-9)
    assert eraser.rank == 2
    leace = LEACE.fit(X, z, shrinkage=shrinkage)
    assert eraser.removed.angles(leace.removed).max() < 1e-3
    if shrinkage == 0:  # keeping has its price, and LEACE keeps less
        kept = np.linalg.norm(covariance(leace.transform(X), task)) / np.linalg.norm(covariance(X, task))
        assert kept < 1 and ((erased - X) ** 2).mean() >= ((leace.transform(X) - X) ** 2).mean()


def test_it_is_the_published_formula():
    """P = W^+ V (U^T V)^-1 U^T W, U a basis of the complement of W Sigma_xz, V one of the span of W Sigma_xy and of
    the complement of both."""
    X, z, task = entangled()
    values, E = np.linalg.eigh(np.cov(X.T, bias=True))
    W, back = E / np.sqrt(values) @ E.T, E * np.sqrt(values) @ E.T

    def span(A):
        u, s, _ = np.linalg.svd(A)
        r = int((s > 1e-10).sum())
        return u[:, :r], u[:, r:]

    xz, xy = W @ covariance(X, z), W @ covariance(X, task)
    U = span(xz)[1]
    V = np.concatenate([span(xy)[0], span(np.concatenate([xz, xy], 1))[1]], 1)
    want = back @ V @ np.linalg.inv(U.T @ V) @ U.T @ W
    np.testing.assert_allclose(SPLINCE.fit(X, z, task, shrinkage=0).P.numpy(), want, atol=1e-9)


def test_where_the_labels_are_uncorrelated_it_is_leace():
    X, z, _ = entangled(n=801)
    rest = LEACE.fit(X, z, shrinkage=0).transform(X)
    task = rest[:, :1] + rest[:, 1:2]  # no covariance with z, also in white coordinates
    ours, want = SPLINCE.fit(X, z, task, shrinkage=0), LEACE.fit(X, z, shrinkage=0)
    torch.testing.assert_close(ours.P, want.P, rtol=0, atol=1e-8)


def test_moments_give_the_eraser_of_their_rows():
    X, z, task = entangled()
    columns = ["z/t=0", "z/t=1", "z/t=2", "y/t=0", "y/t=1"]
    labels = np.concatenate([np.eye(3)[z], np.eye(2)[task]], 1)
    moments = Moments(columns)
    for part in np.array_split(np.arange(len(X)), 5):
        moments.update(X[part], labels[part])
    torch.testing.assert_close(SPLINCE.from_moments(moments, "z", "y", folds=None).P, SPLINCE.fit(X, z, task).P,
                               rtol=0, atol=1e-8)


def test_a_label_cannot_be_erased_and_kept():
    X, z, _ = entangled()
    with pytest.raises(ValueError, match="1 of 2 dimensions .* also those of the label to be kept"):
        SPLINCE.fit(X, z, z == 0)
