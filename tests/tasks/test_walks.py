"""Walks over a ring of words: how they are drawn, what the best reader of them knows, what is asked."""

from itertools import permutations

import numpy as np
import pytest

from tasks import _walks as world


def test_walks_step_as_often_as_their_table_says():
    made = world.walks(400, 60, 1)
    counts = np.zeros((world.NODES, world.NODES))
    np.add.at(counts, (made.nodes[:, :-1], made.nodes[:, 1:]), 1)
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), world.steps(), atol=0.03)
    np.testing.assert_allclose(world.steps().sum(1), 1)
    assert (np.take_along_axis(made.ring, made.nodes, 1) == made.words).all()
    usual = (made.ring == np.arange(world.NODES)).all(1).mean()
    assert usual == pytest.approx(world.USUAL, abs=0.07)
    assert (world.walks(400, 60, 1).words == made.words).all() and (world.walks(400, 60, 2).words != made.words).any()


def test_every_node_is_next_to_two_and_the_last_to_the_first():
    near = world.neighbours(7)
    assert (near == near.T).all() and (near.sum(0) == 2).all() and near[6, 0] == near[2, 3] == 1


def test_chances_of_the_next_word_are_those_of_the_next_node():
    made = world.walks(3, 5, 0)
    chances = world.next_words(made)
    for walk in range(3):
        for pos in range(5):
            for node in range(world.NODES):
                assert chances[walk, pos, made.ring[walk, node]] == world.steps()[made.nodes[walk, pos], node]


def test_the_best_reader_weighs_every_order_of_the_words():
    nodes, usual, words = 5, 0.3, np.array([[0, 1, 1, 4, 2], [3, 0, 2, 0, 4]])
    orders = list(permutations(range(nodes)))
    step = world.steps(nodes)
    for walk, got in zip(words, world.posterior_prediction(words, usual, nodes), strict=True):
        total, mean = 0.0, np.zeros(nodes)
        for order in orders:
            node = {word: i for i, word in enumerate(order)}
            weight = (1 - usual) / len(orders) + usual * (order == tuple(range(nodes)))
            for a, b in zip(walk, walk[1:], strict=False):
                weight *= step[node[a], node[b]]
            total += weight
            mean += weight * np.array([step[node[walk[-1]], node[word]] for word in range(nodes)])
        np.testing.assert_allclose(got, mean / total, rtol=1e-5)


def test_the_more_of_a_walk_is_read_the_better_it_is_known():
    made = world.walks(8, 96, 5, usual=0.0)
    exact, lost = world.next_words(made), []
    for n in (8, 32, 96):
        best = world.posterior_prediction(made.words[:, :n])
        lost.append((exact[:, n - 1] * np.log(exact[:, n - 1] / best)).sum(1).mean())
    assert lost[0] > lost[1] > lost[2] and lost[2] < 0.01


def test_every_word_is_asked_after_every_cut():
    made = world.walks(4, 10, 0)
    asked = world.asked(made, (0, 3, 10))
    assert len(asked) == 4 * 3 * world.NODES and asked.tokens.shape[1] == 11
    for row in (0, 37, len(asked) - 1):
        at = asked.examples.iloc[row]
        assert asked.tokens[row, :at["length"]].tolist() == made.words[at["walk"], :at["length"]].tolist()
        assert asked.tokens[row, at["pos"]] == made.ring[at["walk"], at["node/ring"]]
        assert asked.lengths[row] == at["length"] + 1
    with pytest.raises(ValueError, match="cannot be cut after 0 to 11"):
        world.asked(made, (0, 11))
