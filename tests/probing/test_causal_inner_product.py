import numpy as np
import pytest
import torch

from probing import (
    CausalInnerProduct,
    causal_inner_product,
    concept_cosines,
    concept_direction,
    load_model,
    project_pairs,
    unembedding,
)


def world(n_words=60, d_model=24, seed=0):
    """Words of three facts that vary freely (dims 0 to 2: each word in all 8 forms), seen through a skew basis."""
    rng = np.random.default_rng(seed)
    forms = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(8, 3)
    Z = np.repeat(rng.normal(size=(n_words, 1, d_model)), 8, 1)
    Z[:, :, :3] = 2 * forms + 0.1 * rng.normal(size=(n_words, 8, 3))
    A = rng.normal(size=(d_model, d_model)) * np.geomspace(3, 0.1, d_model)
    token = np.arange(n_words * 8).reshape(n_words, 2, 2, 2)
    concepts = {f"fact{i}": np.stack([token.take(k, 1 + i).ravel() for k in (0, 1)], 1) for i in range(3)}
    return Z.reshape(-1, d_model) @ A.T, concepts


def test_the_product_is_the_same_in_every_basis():
    gamma, _ = world()
    rng = np.random.default_rng(1)
    A = rng.normal(size=(24, 24))
    a, b = gamma[:50], rng.normal(size=(50, 24))
    here, there = causal_inner_product(gamma, floor=0), causal_inner_product(gamma @ A.T, floor=0)
    np.testing.assert_allclose(there.inner(a @ A.T, b @ A.T), here.inner(a, b), rtol=1e-8, atol=1e-8)
    plain = CausalInnerProduct.euclidean(24)
    assert not np.allclose(plain.inner(a @ A.T, b @ A.T), plain.inner(a, b), rtol=0.1)


def test_whitening_gives_unit_covariance_keeps_logits_and_states_the_product():
    gamma, _ = world()
    space, states = causal_inner_product(gamma), np.random.default_rng(2).normal(size=(7, 24))
    g, centred = space.whiten(gamma), space.whiten(gamma, centre=True)
    np.testing.assert_allclose(centred.T @ centred / len(g), np.eye(24), atol=1e-8)
    np.testing.assert_allclose(space.whiten_states(states) @ g.T, states @ gamma.T, atol=1e-8)
    np.testing.assert_allclose(g[:7] @ g[9], space.inner(gamma[:7], gamma[9]), rtol=1e-8)
    v = np.random.default_rng(3).normal(size=24)
    np.testing.assert_allclose(space.whiten_states(states + space.state_direction(v)) - space.whiten_states(states),
                               np.tile(v, (7, 1)), atol=1e-8)


def test_covariance_is_that_of_numpy_whatever_the_offset_and_the_blocks(monkeypatch):
    monkeypatch.setattr("probing._causal_inner_product._ROWS", 100)
    gamma = (world()[0] + 300).astype(np.float32)
    space = causal_inner_product(gamma)
    np.testing.assert_allclose(space.vectors * space.values @ space.vectors.T,
                               np.cov(gamma.T.astype(np.float64), bias=True), atol=1e-9 * space.values[-1])


def test_directions_without_variance_are_floored_and_counted():
    gamma, concepts = world()
    flat = np.c_[gamma, np.ones((len(gamma), 2))]
    with pytest.warns(UserWarning, match="2 of 26 eigenvalues"):
        space = causal_inner_product(flat)
    assert space.n_floored == 2 and space.values[0] == pytest.approx(1e-6 * space.values[-1])
    states = np.random.default_rng(2).normal(size=(5, 26))
    np.testing.assert_allclose(space.whiten_states(states) @ space.whiten(flat).T, states @ flat.T, atol=1e-6)


def test_facts_that_vary_freely_are_orthogonal_here_and_not_in_the_plain_product():
    gamma, concepts = world()
    cosine = {name: concept_cosines(space, gamma, concepts).query("concept < other")["cosine"].abs().max()
              for name, space in (("causal", causal_inner_product(gamma)),
                                  ("plain", CausalInnerProduct.euclidean(24)))}
    assert cosine["causal"] < 0.05 < 0.25 < cosine["plain"]


def test_steering_a_concept_moves_its_logits_and_no_other():
    """The intervention of the paper: alpha moves log P(queen)/P(king) but not log P(King)/P(king)."""
    gamma, concepts = world()
    space = causal_inner_product(gamma)
    step = 0.4 * space.state_direction(concept_direction(space, gamma, concepts["fact0"]))
    moved = {name: ((gamma[pairs[:, 1]] - gamma[pairs[:, 0]]) @ step).mean() for name, pairs in concepts.items()}
    assert moved["fact0"] > 0.5 and abs(moved["fact1"]) + abs(moved["fact2"]) < 0.05 * moved["fact0"]


def test_left_out_pairs_beat_random_pairs_and_random_concepts_do_not():
    gamma, concepts = world()
    rng = np.random.default_rng(4)
    concepts["nothing"] = rng.permutation(len(gamma)).reshape(-1, 2)
    table = project_pairs(causal_inner_product(gamma), gamma, concepts, n_random=20_000).groupby("concept")["beats"]
    assert table.min()[["fact0", "fact1", "fact2"]].min() > 0.7 and table.median()["fact0"] > 0.85
    assert table.mean()["nothing"] == pytest.approx(0.5, abs=0.06)  # uniform: 4 / sqrt(12 * 240)


def test_projections_are_those_of_a_loop_that_leaves_each_pair_out():
    gamma, concepts = world(n_words=3)
    with pytest.warns(UserWarning, match="eigenvalues"):  # 24 tokens span 23 dimensions
        space = causal_inner_product(gamma)
    pairs = concepts["fact1"]
    loop = [space.whiten(gamma[b] - gamma[a]) @ concept_direction(space, gamma, np.delete(pairs, i, 0))
            for i, (a, b) in enumerate(pairs)]
    np.testing.assert_allclose(project_pairs(space, gamma, {"x": pairs}, 100)["projection"], loop, rtol=1e-6)


def test_one_pair_or_cancelling_pairs_give_no_concept():
    gamma, concepts = world()
    space = causal_inner_product(gamma)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        project_pairs(space, gamma, {"x": concepts["fact0"][:1]})
    with pytest.raises(ValueError, match="cancel out"):
        concept_direction(space, gamma, np.array([[0, 1], [1, 0]]))


def test_a_model_gives_the_rows_its_logits_are_read_with(gpt2_dir):
    model = load_model(gpt2_dir)
    gamma, states = unembedding(model), torch.randn(2, 5, 32)
    torch.testing.assert_close(model.unembed(states), states @ torch.from_numpy(gamma).T)
    space = causal_inner_product(model)
    np.testing.assert_allclose(space.whiten_states(states.double().numpy()) @ space.whiten(gamma).T,
                               states.numpy() @ gamma.T, atol=1e-5)
