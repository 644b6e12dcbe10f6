"""Units that are sums of others need as many as they are made of; strangers need none and say nothing."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.metrics import r2_score

from probing.formation import sparse_partners
from tasks import split_by_group


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_permuted_copy_needs_one_unit_each_and_finds_it():
    A, order = draw(400, 10), np.random.default_rng(1).permutation(10)
    found = sparse_partners(A, (2 - 3 * A)[:, order], n_null=1)
    assert (found["needed"] == 1).all() and [order[p[0]] for p in found["partners"]] == list(range(10))
    np.testing.assert_allclose(found["r2"], 1, atol=1e-6)
    np.testing.assert_allclose(found["one_r2"], 1)
    assert (found["n"] == 120).all() and (found["r2"] > found["null_high"]).all()


def test_a_sum_of_two_needs_exactly_two_and_of_four_four():
    B = draw(600, 20)
    A = np.c_[B[:, 3] + B[:, 7], B[:, [1, 2, 9, 11]] @ [1, -1, 0.5, 1], B[:, 0] + 0.5 * draw(600, 1, 1)[:, 0]]
    found = sparse_partners(A + 5, 100 * B, n_null=0)
    assert list(found["partners"]) == [[3, 7], [1, 2, 9, 11], [0]] and list(found["needed"]) == [2, 4, 1]
    np.testing.assert_allclose(found["r2"][:2], 1, atol=1e-6)
    assert found["one_r2"][0] == pytest.approx(0.5, abs=0.1) and found["r2"][2] == pytest.approx(0.8, abs=0.06)
    assert found["null"].isna().all()


def test_strangers_say_no_more_than_rows_in_random_order():
    found = sparse_partners(draw(500, 24), draw(500, 30, 1), n_null=5)
    assert (found["r2"] > found["null_high"]).mean() <= 0.25
    assert found["r2"].mean() == pytest.approx(found["null"].mean(), abs=0.03)


def test_it_is_the_lasso_of_scikit_learn_with_least_squares_on_what_it_chose():
    common = draw(300, 5)
    A, B = (np.maximum(common @ draw(5, d, s) + draw(300, d, s + 1), 0) for d, s in ((6, 2), (15, 4)))
    group, path = np.arange(300) // 3, (0.5, 0.2, 0.1, 0.05, 0.02)
    found = sparse_partners(A, B, group, penalties=path, share=0.9, n_null=0)
    split = split_by_group(group, 0, validation=0.2, test=0.3)
    train, validation, test = (split == part for part in ("train", "validation", "test"))
    b = (B - B[train].mean(0)) / B[train].std(0)
    for unit, row in found.iterrows():
        y = (A[:, unit] - A[train, unit].mean()) / A[train, unit].std()
        tried = [(0, r2_score(y[validation], 0 * y[validation]), 0.0, [])]
        for penalty in path:
            on = np.flatnonzero(Lasso(penalty, fit_intercept=False, tol=1e-8).fit(b[train], y[train]).coef_)
            if len(on):
                line = LinearRegression(fit_intercept=False).fit(b[train][:, on], y[train])
                tried.append((len(on), *(r2_score(y[part], line.predict(b[part][:, on]))
                                         for part in (validation, test)), on.tolist()))
        best = max(tried, key=lambda t: t[1])
        few = next(t for t in tried if t[1] - tried[0][1] >= 0.9 * (best[1] - tried[0][1]))
        assert (row["needed"], row["partners"], row["best_units"]) == (few[0], few[3], best[0])
        assert (row["r2"], row["best_r2"]) == pytest.approx((few[2], best[2]), abs=1e-5)
    assert (found["needed"] < found["best_units"]).any() and (found["n"] == test.sum()).all()


def test_units_that_never_vary_are_missing_and_never_chosen():
    A, B = draw(200, 3), draw(200, 4, 1)
    A[:, 1], B[:, 0] = 0.1, 7.0
    B[:, 2] = A[:, 0]
    B[:, 3] = A[:, 0]
    found = sparse_partners(A, B, n_null=1)
    assert np.isnan(found["r2"][1]) and found["needed"].isna().tolist() == [False, True, False]
    assert not any(0 in partners for partners in found["partners"])
    assert set(found["partners"][0]) <= {2, 3} and found["r2"][0] == pytest.approx(1)  # two that are equal


def test_what_cannot_be_predicted_is_refused():
    A = draw(30, 3)
    with pytest.raises(ValueError, match="30 and 31 rows"):
        sparse_partners(A, draw(31, 3))
    with pytest.raises(ValueError, match="29 groups for 30 rows"):
        sparse_partners(A, A, np.arange(29))
    with pytest.raises(ValueError, match="between 0 and 1"):
        sparse_partners(A, A, penalties=(0.1, 0.0))
    with pytest.raises(ValueError, match="share must be"):
        sparse_partners(A, A, share=0.0)
