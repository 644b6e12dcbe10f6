"""Do states lie as a graph does: theorems on Dirichlet energy, the circle of a ring, nulls, and what is refused."""

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, spearmanr

from probing.formation import dirichlet_energy, graph_modes, map_directions, traced

RNG = np.random.default_rng(0)


def ring(n):
    line = np.roll(np.eye(n), 1, 1)
    return line + line.T


def test_over_all_names_of_the_nodes_the_mean_energy_is_one():
    graph = np.array([[0, 1, 0, 0, 2], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [2, 0, 0, 0, 0]], float)
    states = RNG.normal(size=(3, 5, 4))
    every = [dirichlet_energy(states, graph[np.ix_(order, order)]) for order in map(list, permutations(range(5)))]
    np.testing.assert_allclose(np.mean(every, 0), 1, atol=1e-12)


def test_energy_is_that_of_the_formula_and_a_trace_with_the_laplacian():
    graph, X = ring(7), RNG.normal(size=(7, 3))
    near = np.mean([((X[i] - X[j]) ** 2).sum() for i in range(7) for j in range(7) if graph[i, j]])
    every = np.mean([((X[i] - X[j]) ** 2).sum() for i in range(7) for j in range(7) if i != j])
    laplacian = np.diag(graph.sum(1)) - graph
    got = dirichlet_energy(X[None], graph)[0]
    assert got == pytest.approx(near / every) and got == pytest.approx(np.trace(X.T @ laplacian @ X) / 7 / every)


@pytest.mark.parametrize("n", [5, 10])
def test_a_circle_has_the_least_energy_that_a_ring_can_have(n):
    graph = ring(n)
    least = np.linalg.eigvalsh(np.diag(graph.sum(1)) - graph)[1] * (n - 1) / (2 * n)
    circle = np.stack([np.cos(2 * np.pi * np.arange(n) / n), np.sin(2 * np.pi * np.arange(n) / n)], 1)
    assert dirichlet_energy(circle[None], graph)[0] == pytest.approx(least)
    assert (dirichlet_energy(RNG.normal(size=(500, n, 2)), graph) >= least - 1e-12).all()
    modes = graph_modes(graph)
    np.testing.assert_allclose(modes.T @ modes, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(modes @ modes.T, circle @ circle.T * 2 / n, atol=1e-9)  # the same plane


def test_correlation_is_spearmans_and_nothing_depends_on_rotation_scale_or_place():
    graph, X = ring(8), RNG.normal(size=(4, 8, 6))
    found = traced(X, graph, n_null=5)
    steps = [min(j - i, 8 - j + i) for i in range(8) for j in range(i + 1, 8)]
    assert found["rsa"] == pytest.approx(np.mean([spearmanr(pdist(x), steps)[0] for x in X]))
    assert found["energy"] == pytest.approx(dirichlet_energy(X, graph).mean())
    moved = traced(3 * X @ ortho_group.rvs(6, random_state=0) + 5, graph, n_null=5)
    assert moved == pytest.approx(found)


def test_independent_states_lie_within_the_null_and_planted_ones_far_outside():
    graph, noise = ring(10), RNG.normal(size=(60, 10, 16))
    found = traced(noise, graph)
    for name, chance in (("energy", 1), ("rsa", 0)):
        assert found[f"{name}_low"] <= chance <= found[f"{name}_high"]
        assert found[f"{name}_null"] == pytest.approx(chance, abs=0.005)
    drawn = traced(noise + 9 * graph_modes(graph) @ RNG.normal(size=(60, 2, 16)), graph)
    assert drawn["energy_high"] < 0.5 < drawn["energy_null_low"]
    assert drawn["rsa_low"] > 0.6 > drawn["rsa_null_high"]
    assert drawn["n"] == 60 and np.isnan(traced(noise, graph, n_null=0)["energy_null"])


def test_directions_of_a_map_are_those_it_was_planted_in():
    graph = ring(10)
    plane = np.linalg.qr(RNG.normal(size=(12, 2)))[0]
    states = 7 + 4 * graph_modes(graph) @ plane.T
    np.testing.assert_allclose(map_directions(states, graph_modes(graph)) @ map_directions(
        states, graph_modes(graph)).T, plane @ plane.T, atol=1e-9)
    several = map_directions(np.stack([states, states[::-1]]), graph_modes(graph))
    assert several.shape == (2, 12, 2)


@pytest.mark.parametrize("graph, states, message", [
    (ring(6), np.ones((2, 6, 3)), "in context 0 the states of all nodes are equal"),
    (np.triu(ring(6)), RNG.normal(size=(2, 6, 3)), "not symmetric"),
    (ring(6) + np.eye(6), RNG.normal(size=(2, 6, 3)), "without loops"),
    (np.kron(np.eye(2), ring(3)), RNG.normal(size=(2, 6, 3)), "in parts"),
    (ring(5), RNG.normal(size=(2, 6, 3)), "states are of 6 nodes, the graph of 5 x 5"),
])
def test_what_cannot_be_measured_is_refused(graph, states, message):
    with pytest.raises(ValueError, match=message):
        traced(states, graph)


def test_modes_of_a_graph_are_fewer_than_its_nodes():
    with pytest.raises(ValueError, match="5 nodes has 1 to 4 modes, not 5"):
        graph_modes(ring(5), 5)
