"""Probes over positions: padding says nothing, the position that says it is found, the controls are at chance."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import estimator_checks, get_tags

from probing import AttentionProbe, pool
from probing._attention import _held_out


def world(n=800, T=10, d=12, n_classes=2, seed=0, strength=3.0):
    """One random real position carries a marker and, along another direction, the class; the rest is noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    lengths = rng.integers(3, T + 1, n)
    where = rng.integers(0, lengths)
    X = rng.normal(size=(n, T, d)).astype(np.float32)
    code = np.eye(n_classes)[y] if n_classes > 2 else 2.0 * y[:, None] - 1
    X[np.arange(n), where, : code.shape[1]] += strength * code
    X[np.arange(n), where, -1] += 8  # the marker
    return 2 * X + 5, y, np.arange(T) < lengths[:, None], where


@pytest.fixture(scope="module")
def fitted():
    X, y, mask, where = world(n=1500)
    return AttentionProbe().fit(X[:1000], y[:1000], mask[:1000]), X[1000:], y[1000:], mask[1000:], where[1000:]


def test_attention_finds_the_position_that_the_mean_dilutes(fitted):
    probe, X, y, mask, where = fitted
    assert probe.score(X, y, mask) > 0.9
    train = [a[:1000] for a in world(n=1500)]
    pooled = LogisticRegression().fit(pool(train[0], train[2], "mean"), train[1])
    assert pooled.score(pool(X, mask, "mean"), y) < probe.score(X, y, mask) - 0.05
    looked = probe.attention(X, mask)
    np.testing.assert_allclose(looked.sum(2), 1)
    assert (looked[:, 0].argmax(1) == where).mean() > 0.9 and (looked[:, 0][~mask] == 0).all()


@pytest.mark.parametrize("pooling", ["attention", "max"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_padding_changes_nothing(pooling, n_classes):
    X, y, mask, _ = world(n=200, n_classes=n_classes)
    junk = np.where(mask[..., None], X, np.float32(1e6))
    longer = np.concatenate([junk, np.full_like(X[:, :4], np.nan)], 1)
    wider = np.concatenate([mask, np.zeros((200, 4), bool)], 1)
    one = AttentionProbe(pooling, epochs=15, heads=2).fit(X, y, mask)
    other = AttentionProbe(pooling, epochs=15, heads=2).fit(longer, y, wider)
    np.testing.assert_allclose(one.decision_function(X, mask), one.decision_function(longer, wider), atol=1e-8)
    np.testing.assert_allclose(one.coef_, other.coef_, atol=1e-3)
    for i in (0, 7):
        alone = one.decision_function(X[i : i + 1, mask[i]])
        np.testing.assert_allclose(alone[0], one.decision_function(X, mask)[i], atol=1e-8)
    for how in ("mean", "max", "last"):
        np.testing.assert_allclose(pool(X, mask, how), pool(longer, wider, how))


def test_pooling_by_hand():
    X = np.arange(24.0).reshape(2, 4, 3) * np.array([1, -1, 1])
    mask = np.array([[True, True, False, False], [False, True, False, True]])
    np.testing.assert_allclose(pool(X, mask, "mean"), [X[0, :2].mean(0), X[1, [1, 3]].mean(0)])
    np.testing.assert_allclose(pool(X, mask, "max"), [X[0, :2].max(0), X[1, [1, 3]].max(0)])
    np.testing.assert_allclose(pool(X, mask, "last"), [X[0, 1], X[1, 3]])
    np.testing.assert_allclose(pool(X, how="last"), X[:, -1])


def test_the_decision_is_the_formula_in_raw_space(fitted):
    probe, X, _, mask, _ = fitted
    z = X.astype(float) @ probe.query_[0] / np.sqrt(12)
    a = np.where(mask, np.exp(z - z.max()), 0)
    pooled = np.einsum("nt,ntd->nd", a / a.sum(1, keepdims=True), X)
    np.testing.assert_allclose(probe.pooled(X, mask)[:, 0], pooled, atol=1e-8)
    wanted = pooled @ probe.read_[0, 0] + np.diff(probe.intercept_)[0]
    np.testing.assert_allclose(probe.decision_function(X, mask), wanted, atol=1e-8)
    np.testing.assert_allclose(probe.predict_proba(X, mask)[:, 1], 1 / (1 + np.exp(-wanted)), atol=1e-12)
    assert probe.direction(pair="write").argmax() == 0 and probe.direction(pair="read")[0] > 0.9  # what the class moves


@pytest.mark.parametrize("n_classes", [2, 3])
def test_max_over_tokens_finds_a_concept_wherever_it_is(n_classes):
    X, y, mask, where = world(n=600, n_classes=n_classes, strength=6.0)
    probe = AttentionProbe("max").fit(X[:400], y[:400], mask[:400])
    assert probe.score(X[400:], y[400:], mask[400:]) > 0.9
    each = X[400:].astype(float) @ probe.coef_[:, 0].T
    wanted = np.where(mask[400:, :, None], each, -np.inf).max(1) + probe.intercept_
    np.testing.assert_allclose(probe.logits(X[400:], mask[400:]), wanted, atol=1e-8)
    assert (probe.attention(X[400:], mask[400:])[:, 0].argmax(1) == where[400:]).mean() > 0.8
    assert probe.read_.shape == probe.write_.shape == (1, 1 if n_classes == 2 else 3, 12)


def test_two_heads_read_two_positions():
    """The label needs two codes, at two differently marked positions, of opposite signs along one axis."""
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(1200, 8, 10)).astype(np.float32), rng.integers(0, 2, (1200, 2))
    at = np.argsort(rng.random((1200, 8)), 1)[:, :2]
    for i in range(2):
        X[np.arange(1200), at[:, i], i] += 6  # marker i
        X[np.arange(1200), at[:, i], 2] += (3 if i else -3) * (2 * codes[:, i] - 1)
    y = (codes.sum(1) == 2).astype(int)
    probe = AttentionProbe(heads=2).fit(X[:1000], y[:1000])
    assert probe.score(X[1000:], y[1000:]) > 0.9
    assert probe.read_.shape == probe.write_.shape == (2, 1, 10) and probe.read.rank == 2
    assert probe.attention(X).shape == (1200, 2, 8)


def test_shuffled_labels_are_at_chance():
    X, y, mask, _ = world()
    shuffled = np.random.default_rng(0).permutation(y)
    probe = AttentionProbe(epochs=40).fit(X[:500], shuffled[:500], mask[:500])
    assert probe.score(X[500:], shuffled[500:], mask[500:]) == pytest.approx(0.5, abs=0.09)


def test_groups_never_straddle_and_the_fit_is_deterministic():
    groups = np.repeat(np.arange(20), 7)
    for seed in range(10):
        held = _held_out(groups, 0.2, seed)
        assert held.sum() == 28 and not set(groups[held]) & set(groups[~held])
    X, y, mask, _ = world(n=140)
    one, other = (AttentionProbe(epochs=5).fit(X, y, mask, groups) for _ in range(2))
    assert (one.coef_ == other.coef_).all() and (one.query_ == other.query_).all()
    assert clone(AttentionProbe(heads=3)).heads == 3


def test_what_is_not_a_stream_is_refused():
    X, y, mask, _ = world(n=60)
    with pytest.raises(ValueError, match="no real position"):
        pool(X, np.zeros_like(mask))
    with pytest.raises(ValueError, match="one of mean, max, last"):
        pool(X, mask, "sum")
    with pytest.raises(ValueError, match="pass pool"):
        AttentionProbe("mean").fit(X, y, mask)
    with pytest.raises(ValueError, match="1 class"):
        AttentionProbe().fit(X, np.zeros(60, int), mask)
    with pytest.raises(ValueError, match="no validation group"):
        AttentionProbe().fit(X, y, mask, np.zeros(60, int))
    with pytest.raises(ValueError, match="non-finite"):
        AttentionProbe().fit(np.where(mask[..., None], np.nan, X), y, mask)
    with pytest.raises(ValueError, match="the same site"):
        AttentionProbe(epochs=1).fit(X, y, mask).predict(X[..., :5], mask)


@pytest.mark.parametrize("name", [
    "cloneable", "repr", "tags_renamed", "no_attributes_set_in_init", "parameters_default_constructible",
    "get_params_invariance", "set_params", "valid_tag_types", "mixin_order",
    "do_not_raise_errors_in_init_or_set_params"])
def test_it_passes_what_scikit_learn_checks_without_data(name):
    """Its checks with data are made for two-dimensional X, and skip an estimator whose tags say otherwise."""
    probe = AttentionProbe()
    tags = get_tags(probe).input_tags
    assert tags.three_d_array and not tags.two_d_array
    check = getattr(estimator_checks, f"check_{name}", None) or getattr(estimator_checks, f"check_estimator_{name}")
    check("AttentionProbe", probe)
