"""Running moments equal the formulas on all rows at once, whatever the order, the parts and the offset."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.covariance import ledoit_wolf_shrinkage

from probing._moments import SUMS, Moments
from probing._scatter import Scatter

COLUMNS, FOLDS = ("c=0", "c=1", "v"), ("train/0", "train/1", "test")
FIELDS = ("n", "x_mean", "y_mean", "xx", "xy", "yy", "fourth")


def rows(n=120, d=5, offset=0.0, seed=0, dtype=np.float64):
    """Activations with correlated dimensions of very different size; a class, a number; folds of uneven size."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 10.0 ** np.arange(d) / 100 + offset
    c = rng.integers(0, 2, n)
    return X.astype(dtype), np.c_[c == 0, c == 1, 50 * rng.normal(size=n) + 1900], rng.choice(3, n, p=[0.6, 0.3, 0.1])


def moments(X, Y, fold, cuts=()):
    made = Moments(COLUMNS, FOLDS)
    for part in np.split(np.arange(len(X)), list(cuts)):
        made.update(X[part], Y[part], fold[part])
    return made


def assert_equal(came: Scatter, want: Scatter, rtol=1e-10):
    for name in FIELDS:
        a, b = np.asarray(getattr(came, name)), np.asarray(getattr(want, name))
        size = np.sqrt(np.outer(b.diagonal(), b.diagonal())) if name in ("xx", "yy") else np.abs(b).max(initial=0)
        assert (np.abs(a - b) <= rtol * size + 1e-300).all(), name


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 120), max_size=6), st.permutations(range(120)), st.randoms(use_true_random=False))
def test_any_order_and_partition_gives_the_all_at_once_formulas(cuts, order, shuffle):
    X, Y, fold = rows()
    order = np.array(order)
    parts = np.split(order, sorted(cuts))
    want = {name: Scatter.of(X[fold == i], Y[fold == i]) for i, name in enumerate(FOLDS)}
    one_by_one = moments(X[order], Y[order], fold[order], sorted(cuts))
    shuffle.shuffle(parts)
    merged = functools.reduce(Moments.merge, (moments(X[p], Y[p], fold[p]) for p in parts))
    for name in FOLDS:
        assert_equal(one_by_one.scatter(name), want[name])
        assert_equal(merged.scatter(name), want[name])


@pytest.mark.parametrize("without", FOLDS)
def test_leaving_a_fold_out_is_a_subtraction(without):
    X, Y, fold = rows(offset=1e3)
    made, left = moments(X, Y, fold, [50]), fold != FOLDS.index(without)
    assert_equal(made.scatter(without=without), Scatter.of(X[left], Y[left]))
    taken = made.scatter().without(made.scatter(without))
    for name in ("x_mean", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(taken, name), getattr(made.scatter(without=without), name), rtol=1e-8)


def test_a_fold_is_named_alone_or_by_its_split():
    X, Y, fold = rows()
    made = moments(X, Y, fold)
    assert_equal(made.scatter("train"), Scatter.of(X[fold < 2], Y[fold < 2]))
    assert made.which("train") == [0, 1] and made.which(["test", "train/1"]) == [1, 2]
    with pytest.raises(ValueError, match="no fold 'tra'; there are train/0"):
        made.scatter("tra")


def test_a_massive_dimension_does_not_swallow_its_variance():
    """Offsets 1e5 times the spread: sums of float32 products lose the covariance, ours keep ten digits."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(4096, 4)) @ rng.normal(size=(4, 4)) + [3e4, -1e5, 10, 0]).astype(np.float32)
    want = Scatter.of(X.astype(np.float64), np.zeros((len(X), 0)))
    ours = Moments()
    for batch in np.split(X, 8):
        ours.update(batch)
    assert_equal(ours.scatter(), want)
    x = X.sum(0)
    naive = X.T @ X - np.outer(x, x) / np.float32(len(X))
    assert np.abs(naive - want.xx).max() > 0.1 * want.xx.max()
    plain64 = X.astype(np.float64).T @ X.astype(np.float64) - np.outer(want.x_mean, want.x_mean) * len(X)
    assert np.abs(ours.scatter().xx - want.xx).max() < 1e-3 * np.abs(plain64 - want.xx).max()  # what the shift gains


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_activations_are_summed_as_the_numbers_they_are(dtype):
    x = torch.from_numpy(rows()[0] / 1e3).to(dtype)
    assert_equal(Moments().update(x[:40]).update(x[40:]).scatter(),
                 Scatter.of(x.double().numpy(), np.zeros((len(x), 0))))


def test_parts_merged_in_plan_order_give_the_same_bits_and_are_left_alone():
    X, Y, fold = rows(offset=100.0)
    parts = [moments(X[p], Y[p], fold[p]) for p in np.array_split(np.arange(len(X)), 4)]
    before = parts[0].xx.clone()
    once, again = (functools.reduce(Moments.merge, parts) for _ in range(2))
    pairs = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    assert all(torch.equal(getattr(once, name), getattr(again, name)) for name in SUMS)
    assert torch.equal(parts[0].xx, before)
    assert_equal(pairs.scatter(), once.scatter())
    empty = Moments(COLUMNS, FOLDS)
    assert_equal(empty.merge(once).merge(empty).scatter(), once.scatter(), 1e-14)


def test_counts_of_classes_are_exact():
    X, Y, fold = rows()
    count, means = moments(X, Y, fold, [10, 50]).scatter("train").select(np.array([0, 1])).class_means()
    for k in range(2):
        mine = (fold < 2) & (Y[:, k] == 1)
        assert count[k] == mine.sum()
        np.testing.assert_allclose(means[k], X[mine].mean(0) - X[fold < 2].mean(0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 60), (500, 10)])
def test_shrinkage_is_that_of_ledoit_and_wolf(shape):
    rng = np.random.default_rng(0)
    X = rng.standard_t(5, size=shape) @ rng.normal(size=(shape[1], shape[1])) + 50
    want = ledoit_wolf_shrinkage(X)
    assert 0.001 < want < 0.99
    assert Scatter.of(X, X[:, :0]).shrinkage == pytest.approx(want, rel=1e-9)
    assert Moments().update(X[:9] + 0).update(X[9:]).scatter().shrinkage == pytest.approx(want, rel=1e-9)


def test_saved_moments_come_back_bit_for_bit(tmp_path):
    made = moments(*rows())
    made.save(tmp_path / "m.safetensors")
    again = Moments.load(tmp_path / "m.safetensors")
    assert (again.columns, again.folds, repr(again)) == (made.columns, made.folds, repr(made))
    assert all(torch.equal(getattr(again, name), getattr(made, name)) for name in (*SUMS, "shift", "label_shift"))
    assert [f.name for f in tmp_path.iterdir()] == ["m.safetensors"]
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no moments"):
        Moments.load(tmp_path / "other.safetensors")


def test_what_does_not_fit_is_refused():
    X, Y, fold = rows()
    made = moments(X, Y, fold)
    with pytest.raises(ValueError, match="3 columns"):
        made.update(X, Y[:, :2], fold)
    with pytest.raises(ValueError, match="say which fold"):
        made.update(X, Y)
    with pytest.raises(ValueError, match="from 0 to 2"):
        made.update(X, Y, fold + 1)
    with pytest.raises(ValueError, match="width 4"):
        made.update(X[:, :4], Y, fold)
    with pytest.raises(ValueError, match="v and w"):
        made.merge(Moments(("c=0", "c=1", "w"), FOLDS))
    with pytest.raises(ValueError, match="no rows"):
        Moments().scatter()
