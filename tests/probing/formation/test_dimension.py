"""Known dimensions, and what must not move them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group

from probing.formation import _dimension as dimension
from probing.formation import gride, neighbour_distances, participation_ratio, two_nn, two_nn_by_scale
from probing.formation._neighbours import largest

RNG = np.random.default_rng(0)


def cube(d, n=2000, seed=0):
    return np.random.default_rng(seed).random((n, d))


def test_distances_are_exact_whatever_the_blocks(monkeypatch):
    X = cube(5, 300) + 1e4  # far from 0, where squares round
    expected = np.sort(cdist(X, X), axis=1)[:, 1:5]
    np.testing.assert_allclose(neighbour_distances(X, 4), expected, rtol=1e-9)
    monkeypatch.setattr(dimension, "_CELLS", 1000)
    np.testing.assert_allclose(neighbour_distances(X, 4), expected, rtol=1e-9)


def test_close_rows_far_from_their_mean_keep_their_neighbours():
    centres = 1000 * RNG.normal(size=(8, 6))
    X = np.repeat(centres, 30, 0) + 1e-4 * RNG.normal(size=(240, 6))  # float32 cannot tell rows of one centre apart
    whole = cdist(X, X)
    np.fill_diagonal(whole, np.inf)
    np.testing.assert_allclose(neighbour_distances(X, 3), np.sort(whole, 1)[:, :3], rtol=1e-6)
    far = 1e25 * RNG.normal(size=(40, 4))  # squares beyond float32
    whole = cdist(far, far)
    np.fill_diagonal(whole, np.inf)
    np.testing.assert_allclose(neighbour_distances(far, 2), np.sort(whole, 1)[:, :2], rtol=1e-9)


@pytest.mark.parametrize("columns", [40, 16 * 8 * 128, 20_003])
def test_the_largest_of_wide_rows_are_found_among_chunks(columns):
    values = torch.from_numpy(RNG.permutation(6 * columns).reshape(6, columns))
    values[0, :9] = values.max() + torch.arange(1, 10)  # all in one chunk
    values[1, -9:] = values.max() + torch.arange(1, 10)  # in the rest behind the last whole one
    found, expected = largest(values.double(), 8), values.double().topk(8, dim=1)
    assert (found[0] == expected.values).all() and (found[1] == expected.indices).all()



@pytest.mark.parametrize("d", [2, 3, 4, 5])
@pytest.mark.parametrize("method", ["likelihood", "fit"])
def test_small_dimensions_are_recovered_within_ten_percent(d, method):
    found = np.mean([two_nn(cube(d, seed=seed), method)[0] for seed in range(3)])
    assert found == pytest.approx(d, rel=0.1)


def test_large_ones_are_underestimated_as_on_the_card():
    """Uniform cubes of 2,000 rows: true 2, 5, 10, 20 came out as 1.95, 4.57, 8.05 and 15.6."""
    for d, card in ((2, 1.95), (5, 4.57), (10, 8.05), (20, 15.6)):
        assert two_nn(cube(d))[0] == pytest.approx(card, rel=0.06)


@pytest.mark.parametrize("d", [2, 5, 10])
def test_the_fit_is_that_of_scikit_dimension(d):
    """Which counts ratios from 0 to n - 1 of n, and ours from 1 of n + 1: half a percent at 1,000 rows."""
    skdim = pytest.importorskip("skdim", reason="scikit-dimension is not installed: pip install '.[oracles]'")
    X = cube(d, 1000)
    assert two_nn(X, "fit")[0] == pytest.approx(skdim.id.TwoNN().fit(X).dimension_, rel=5e-3)


def test_the_interval_contains_the_truth_where_the_estimate_is_unbiased():
    found = [two_nn(np.random.default_rng(seed).normal(size=(400, 2))) for seed in range(20)]
    assert sum(low <= 2 <= high for _, low, high in found) >= 16
    assert all(low < d < high for d, low, high in found)


def test_rotation_scale_and_zeros_change_nothing():
    X = cube(4, 500)
    turned = 7 * X @ ortho_group.rvs(4, random_state=0)
    padded = np.pad(turned, ((0, 0), (0, 6)))
    for estimate in (lambda A: two_nn(A)[0], lambda A: two_nn(A, "fit")[0], participation_ratio,
                     lambda A: gride(A, 16)["dimension"].to_numpy()):
        np.testing.assert_allclose(estimate(padded), estimate(X), rtol=1e-6)


def test_gride_at_its_smallest_scale_is_two_nn_and_larger_ones_agree_on_a_flat_space():
    X = cube(3, 1500)
    table = gride(X, 32)
    assert list(table["n"]) == [1, 2, 4, 8, 16]
    assert table["dimension"][0] == pytest.approx(two_nn(X)[0] * 1500 / 1499)
    assert table["dimension"].between(2.5, 3.2).all()
    assert (np.diff(table["distance"]) > 0).all() and (table["ci_low"] < table["dimension"]).all()


def test_gride_is_the_maximum_of_its_likelihood():
    rng = np.random.default_rng(0)
    log_mu = np.log(rng.beta(4, 4, 500)) / -3  # any positive numbers
    d, error = dimension._most_likely(log_mu, 4)

    def log_likelihood(d):
        return np.log(d) * len(log_mu) + (3 * np.log(np.expm1(d * log_mu)) - (7 * d + 1) * log_mu).sum()

    step = 1e-3
    assert log_likelihood(d) > max(log_likelihood(d - step), log_likelihood(d + step))
    bend = -(log_likelihood(d + step) - 2 * log_likelihood(d) + log_likelihood(d - step)) / step**2
    assert error == pytest.approx(bend**-0.5, rel=1e-3)


def test_noise_on_a_line_is_seen_at_small_scales_only():
    rng = np.random.default_rng(0)
    X = np.outer(np.linspace(0, 1, 2000), rng.normal(size=5)) + 1e-3 * rng.normal(size=(2000, 5))
    table = gride(X, 256)
    assert table["dimension"].iloc[0] > 2 > 1.3 > table["dimension"].iloc[-1]
    scales = two_nn_by_scale(X, 5)
    assert scales["dimension"].iloc[0] > scales["dimension"].iloc[-1]
    assert list(scales["n"]) == [2000, 1000, 500, 250, 125, 62]
    assert (np.diff(scales["distance"]) > 0).all()


def test_the_participation_ratio_counts_equal_directions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 6)) * [1, 1, 1, 0, 0, 0]
    assert participation_ratio(X) == pytest.approx(3, abs=0.01)


def test_rows_without_a_dimension_are_refused():
    X = cube(3, 100)
    with pytest.raises(ValueError, match="2 of 101 rows equal another"):
        two_nn(np.vstack([X, X[:1]]))
    with pytest.raises(ValueError, match="at least 20 rows"):
        two_nn(X[:10])
    with pytest.raises(ValueError, match="likelihood or fit"):
        two_nn(X, "mean")
    grid = np.stack(np.meshgrid(*3 * [np.arange(4.0)]), -1).reshape(-1, 3)
    with pytest.raises(ValueError, match="as on a grid"):
        two_nn(grid)
