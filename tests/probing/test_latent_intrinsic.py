"""Mask distributions against enumeration; the latent-variable probe against a dense one and the Gaussian one."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import GaussianProbe, LatentIntrinsicProbe
from probing._masks import Coins, FixedSize

THETA = torch.tensor([0.5, -1.0, 2.0, 0.0, -0.3], dtype=torch.float64)


def subsets(d, sizes):
    for size in sizes:
        for members in combinations(range(d), size):
            yield torch.zeros(d, dtype=torch.float64).index_fill(0, torch.tensor(members, dtype=torch.long), 1.0)


def _entropy_gradient(every, sizes, coins):
    """Of the enumerated distribution: one softmax over all subsets, or one per size."""
    theta = THETA.clone().requires_grad_()
    scores, size = every @ theta, every.sum(1)
    blocks = [scores] if coins else [scores[size == k] for k in sizes]
    entropy = sum(-(block.softmax(0) * block.log_softmax(0)).sum() for block in blocks) / len(blocks)
    return torch.autograd.grad(entropy, theta)[0]


@pytest.mark.parametrize("family, sizes", [
    (Coins, range(6)), (FixedSize, range(1, 6)), (lambda theta: FixedSize(theta, 2), [2]),
    (lambda theta: FixedSize(theta, 5), [5]),
])
def test_masks_have_the_probabilities_entropy_and_samples_of_an_enumeration(family, sizes):
    theta = THETA.clone().requires_grad_()
    q, every = family(theta), torch.stack(list(subsets(5, sizes)))
    log_p = q.log_prob(every).detach()
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(q.entropy().detach(), -(log_p.exp() * log_p).sum())
    wanted = _entropy_gradient(every, sizes, family is Coins)
    torch.testing.assert_close(torch.autograd.grad(q.entropy(), theta)[0], wanted)
    drawn = q.sample(40_000, torch.Generator().manual_seed(0))
    assert set(drawn.sum(1).int().tolist()) == set(sizes)
    torch.testing.assert_close(drawn.mean(0), log_p.exp() @ every, atol=0.01, rtol=0)
    pair = (drawn[:, 0] * drawn[:, 2]).mean()
    torch.testing.assert_close(pair, log_p.exp() @ (every[:, 0] * every[:, 2]), atol=0.01, rtol=0)


def test_equal_weights_make_every_subset_of_a_size_equally_likely():
    q = FixedSize(torch.full((6,), 0.7, requires_grad=True), 3)
    torch.testing.assert_close(q.log_prob(torch.eye(6)[:3].sum(0)[None]).detach(), -torch.tensor([20.0]).log())
    torch.testing.assert_close(q.entropy().detach(), torch.tensor(20.0).log(), atol=1e-5, rtol=0)


def world(n=2000, d=12, n_classes=3, seed=0):
    """Two dimensions carry the class, 7 more than 3; scales and offsets differ."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = rng.normal(size=(n, d))
    X[:, 7] += 2.5 * np.array([0, 1, 2])[y]
    X[:, 3] += 2.0 * np.array([0, 2, 0])[y]
    return X * np.exp(rng.normal(size=d)) + 4, y


@pytest.fixture(scope="module", params=[("coins", None), ("fixed_size", None), ("coins", 32)], ids=str)
def fitted(request):
    masks, hidden = request.param
    X, y = world()
    probe = LatentIntrinsicProbe(masks, hidden=hidden, n_steps=300, n_masks=3).fit(X[:1000], y[:1000])
    return probe, X[1000:], y[1000:]


@parametrize_with_checks([LatentIntrinsicProbe(n_steps=60, n_masks=2, lr=0.05)])
def test_latent_intrinsic_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_on_the_full_mask_it_is_within_two_points_of_a_dense_probe(fitted):
    probe, X, y = fitted
    train = world()
    mean, std = train[0][:1000].mean(0), train[0][:1000].std(0)
    dense = LogisticRegression().fit((train[0][:1000] - mean) / std, train[1][:1000])
    assert probe.score(X, y) > dense.score((X - mean) / std, y) - 0.02


def test_it_scores_any_subset_as_if_the_rest_were_masked(fitted):
    probe, X, y = fitted
    for C in ([7], [3, 7], [0, 1, 2]):
        hidden = np.full(X.shape, probe.mean_)
        hidden[:, C] = X[:, C]
        np.testing.assert_allclose(probe.predict_proba(X, C), probe.predict_proba(hidden), atol=1e-10)
    assert -0.15 < probe.mutual_information(X, y, [0, 1, 2]) < 0.02  # below 0: fitted to noise
    assert probe.mutual_information(X, y, [7]) > 0.3
    assert probe.mutual_information(X, y, [3, 7]) > probe.mutual_information(X, y, [7]) + 0.1


def test_greedy_selection_is_the_slow_one_and_finds_the_planted_dimensions(fitted):
    probe, X, y = fitted
    table, chosen = probe.select(X, y, 4), []
    for step in range(4):
        scores = {j: probe.mutual_information(X, y, [*chosen, j]) for j in range(12) if j not in chosen}
        chosen.append(max(scores, key=lambda j: scores[j]))
        assert table["mutual_information"][step] == pytest.approx(scores[chosen[-1]], abs=1e-9)
    assert list(table["dim"]) == chosen and set(chosen[:2]) == {3, 7}


def test_it_finds_what_the_gaussian_probe_finds(fitted):
    """On Gaussian classes no probe knows more; one set of weights for all subsets knows somewhat less."""
    probe, X, y = fitted
    gaussian = GaussianProbe().fit(*(a[:1000] for a in world()))
    assert 0.7 < probe.mutual_information(X, y) / gaussian.mutual_information(X, y) < 1.02
    assert set(gaussian.select(X, y, 2)["dim"]) == set(probe.select(X, y, 2)["dim"])


def test_masks_prefer_what_carries_the_label(fitted):
    probe, _, _ = fitted
    assert set(np.argsort(-probe.theta_)[:2]) == {3, 7}
    assert probe.inclusion_[[3, 7]].min() > np.median(probe.inclusion_)


def test_only_a_linear_head_has_directions():
    X, y = world(n=400, n_classes=2)
    probe = LatentIntrinsicProbe(n_steps=60).fit(X, y)
    np.testing.assert_allclose(np.diff(probe.decision_function(X)), np.diff(X @ probe.read_[0]), atol=1e-8)
    assert probe.direction() @ (X[y == 1].mean(0) - X[y == 0].mean(0)) > 0
    assert not hasattr(LatentIntrinsicProbe(n_steps=2, hidden=4).fit(X, y), "read_")


def test_shuffled_labels_are_at_chance_and_equal_seeds_give_equal_probes():
    X, y = world()
    shuffled = np.random.default_rng(0).permutation(y)
    one, other = (LatentIntrinsicProbe(n_steps=80).fit(X[:1000], shuffled[:1000]) for _ in range(2))
    assert (one.layers_[0] == other.layers_[0]).all() and (one.theta_ == other.theta_).all()
    assert one.score(X[1000:], shuffled[1000:]) == pytest.approx(1 / 3, abs=0.05)
    with pytest.raises(ValueError, match="'coins' or 'fixed_size'"):
        LatentIntrinsicProbe("poisson").fit(X, y)
