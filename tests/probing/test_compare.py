import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from probing import LogisticProbe, Subspace, compare_subspaces, random_angles, row_space


def angle(a, b, **kwargs):
    table = compare_subspaces({"a": [a], "b": [b]}, **kwargs)
    return table[table["control"].isna()]["value"].item()


@pytest.mark.parametrize("rank, degrees, n_draws", [(3, 86.9, 1000), (45, 78.0, 10)])
def test_random_subspaces_of_768_dimensions_are_far_from_right_angles_on_average(rank, degrees, n_draws):
    """The scale reference: 86.9 degrees at rank 3 (one draw; over 3000 draws the mean is 87.06, the standard deviation
    0.73) and 78.0 at rank 45 (0.22)."""
    assert random_angles(768, rank, n_draws=n_draws).mean() == pytest.approx(degrees, abs=0.25)
    A, B = np.random.default_rng(0).normal(size=(2, rank, 768))
    assert angle(A, B, centre=False, n_draws=2) == pytest.approx(degrees, abs=2.5)


def test_the_random_band_holds_for_unequal_ranks():
    rng = np.random.default_rng(0)
    loop = [np.rad2deg(subspace_angles(rng.normal(size=(20, 3)), rng.normal(size=(20, 7)))).mean() for _ in range(400)]
    drawn = random_angles(20, 7, 3, n_draws=400)
    assert drawn.mean() == pytest.approx(np.mean(loop), abs=4 * np.std(loop) / 400**0.5)
    np.testing.assert_allclose(random_angles(8, 8, n_draws=3), 0, atol=1e-5)  # the whole space


def test_no_change_of_basis_within_a_subspace_moves_it_and_the_angle_is_symmetric():
    rng = np.random.default_rng(0)
    theta, other, A = rng.normal(size=(5, 64)), rng.normal(size=(5, 64)), rng.normal(size=(5, 5))
    assert angle(theta, A @ theta, centre=False) == pytest.approx(0, abs=1e-5)
    assert angle(theta, other) == pytest.approx(angle(other, theta))
    assert angle(theta, other, centre=False) == pytest.approx(np.rad2deg(subspace_angles(theta.T, other.T)).mean())


def test_what_softmax_does_not_see_is_taken_off():
    rng = np.random.default_rng(0)
    theta, shift = rng.normal(size=(4, 32)), 10 * rng.normal(size=32)
    assert row_space(theta).rank == 3 and row_space(theta, centre=False).rank == 4 and row_space(theta[:1]).rank == 1
    assert angle(theta, theta + shift) < 1e-5 < 1 < angle(theta, theta + shift, centre=False)


def test_seeds_of_one_probe_are_nearer_than_two_tasks_and_those_nearer_than_chance():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(2, 3, 40))
    means[1, :2] = means[0, :2]  # two tasks that share one of two dimensions

    def probes(task):
        for seed in range(3):
            rng, y = np.random.default_rng([seed, task]), np.arange(1500) % 3
            yield LogisticProbe().fit(means[task][y] + rng.normal(size=(1500, 40)), y).coef_[0]

    table = compare_subspaces({"one": list(probes(0)), "two": list(probes(1))})
    band = table.set_index(table["control"].fillna("none")).query("not (a == 'two' and b == 'two')")
    assert list(band.index) == ["seed", "none", "random_subspace"] and set(band["rank_a"]) == {2}
    assert band.loc["seed", "ci_high"] < band.loc["none", "ci_low"]
    assert band.loc["none", "ci_high"] < band.loc["random_subspace", "ci_low"]
    assert table["n"].tolist() == [3, 9, 100, 3]


def test_subspaces_are_taken_as_they_are_and_widths_must_agree():
    x, y = Subspace.spanned_by(torch.eye(5)[:1]), Subspace.spanned_by(torch.tensor([[1.0, 1, 0, 0, 0]]))
    assert angle(x, y) == pytest.approx(45, abs=1e-4)
    with pytest.raises(ValueError, match="one d_model"):
        angle(np.eye(3), np.eye(4))
