import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from probing import mixture_index, separability_index
from probing._irreducibility import _fullest_strip


def clouds(n=4096, seed=0):
    """The four clouds of the paper's demonstration: Gaussian, circle, mixture with lines, lattice on skewed axes."""
    rng = np.random.default_rng(seed)
    angle, pick = rng.uniform(0, 2 * np.pi, n), rng.random((n, 1))
    line = rng.normal(size=(n, 1)) * [0.3, 1.0] + [1.0, 0.0]
    return {
        "gaussian": rng.normal(size=(n, 2)) @ [[2.0, 1.0], [0.0, 0.5]],
        "circle": np.c_[np.cos(angle), np.sin(angle)],
        "mixture": np.where(pick < 0.6, line, rng.normal(size=(n, 2))),
        "square": rng.uniform(-1, 1, (n, 2)) @ [[0.6, 0.8], [-0.8, 0.6]],
    }


def test_only_a_circle_is_neither_separable_nor_a_mixture():
    separable = {name: separability_index(x) for name, x in clouds().items()}
    mixed = {name: mixture_index(x) for name, x in clouds().items()}
    assert separable["gaussian"] < 0.05 and separable["square"] < 0.05 and separable["circle"] > 2
    assert mixed["mixture"] > 0.6
    assert mixed["gaussian"] == pytest.approx(2 * norm.cdf(0.1) - 1, abs=0.02)  # the best strip is fuller
    u = 0.9
    for _ in range(50):  # centre of the strip that reaches the rim: u + h = 1 with h = eps sqrt(1/2 + u^2)
        u = 1 - 0.1 * np.sqrt(0.5 + u**2)
    assert mixed["circle"] == pytest.approx(np.arccos(2 * u - 1) / np.pi, abs=0.02)


@given(seed=st.integers(0, 2**32 - 1), eps=st.floats(0.05, 0.5))
@settings(max_examples=25)
def test_the_strip_is_the_fullest_of_all_offsets(seed, eps):
    z = np.random.default_rng(seed).normal(size=40) ** 3
    z -= z.mean()
    offsets = np.linspace(1.5 * z.min(), 1.5 * z.max(), 20_001)
    brute = (np.abs(z[:, None] - offsets) <= eps * np.sqrt(np.mean(z**2) + offsets**2)).mean(0).max()
    assert _fullest_strip(z, eps) >= brute - 1e-12
    assert _fullest_strip(z, eps) <= brute + 1 / 40 + 1e-12  # the grid may miss a strip that fits to a hair


@pytest.mark.parametrize("index", [separability_index, mixture_index])
def test_neither_place_nor_size_nor_rotation_matters(index):
    x = clouds(n=1500)["mixture"]
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    assert index(3 * x @ turn + 7) == pytest.approx(index(x), abs=0.02)


def test_independent_coordinates_share_no_information_at_any_size():
    rng = np.random.default_rng(0)
    assert abs(np.mean([separability_index(rng.uniform(-1, 1, (500, 2)), bins=10) for _ in range(20)])) < 0.05
