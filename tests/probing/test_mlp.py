import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import LogisticProbe, MLPProbe
from probing._mlp import half_whitening


@parametrize_with_checks([MLPProbe(hidden=64)])
def test_mlp_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def xor(n=4000, d=16, seed=0):
    """Two planted linear features whose XOR is the label."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, 2))
    directions = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    return rng.normal(size=(n, d)) * 0.5 + (2 * bits - 1) @ directions * 3, bits.sum(1) % 2


def test_xor_of_two_linear_features_is_read_by_the_mlp_alone():
    X, y = xor()
    train, test = slice(0, None, 2), slice(1, None, 2)
    mlp = MLPProbe(hidden=32, batch_size=128)
    assert LogisticProbe().fit(X[train], y[train]).score(X[test], y[test]) == pytest.approx(0.5, abs=0.05)
    assert mlp.fit(X[train], y[train]).score(X[test], y[test]) > 0.95
    shuffled = np.random.default_rng(1).permutation(y[train])
    assert mlp.fit(X[train], shuffled).score(X[test], y[test]) == pytest.approx(0.5, abs=0.05)


def test_the_best_epoch_on_validation_is_kept():
    X, y = xor(n=600)
    noisy = np.where(np.random.default_rng(0).random(len(y)) < 0.3, 1 - y, y)
    probe = MLPProbe(hidden=256, epochs=60, batch_size=32, weight_decay=0.0, lr=0.01)
    last = probe.fit(X[:200], noisy[:200]).predict_proba(X[400:])
    kept = probe.fit(X[:200], noisy[:200], validation=(X[200:400], noisy[200:400])).predict_proba(X[400:])
    assert probe.n_epochs_ < 60
    loss = [-np.log(p[np.arange(200), noisy[400:]] + 1e-12).mean() for p in (last, kept)]
    assert loss[1] < loss[0]


def test_validation_with_unknown_labels_is_refused():
    X, y = xor(n=60)
    with pytest.raises(ValueError, match="labels other than those of training"):
        MLPProbe(hidden=8).fit(X, y, validation=(X, y + 1))


def test_targets_have_probabilities_of_their_own():
    X, y = xor(n=500)
    Y = np.c_[y, X[:, 0] > 0, X[:, 1] > 0].astype(int)
    probe = MLPProbe(hidden=32).fit(X, Y)
    assert probe.logits(X).shape == (500, 3, 2) and probe.predict(X).shape == (500, 3)
    np.testing.assert_array_equal(probe.predict_proba(X) > 0.5, probe.predict(X) == 1)


def test_the_inputs_of_the_fit_are_half_way_to_white():
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 5)) + 0.1 * rng.normal(size=(500, 5))) * [1, 1, 1, 1e3, 1]
    X = torch.from_numpy(np.c_[X, np.ones(500)]).float()  # a constant dimension is harmless
    came = np.cov(((X - X.mean(0)) @ half_whitening(X)).numpy(), rowvar=False, bias=True)
    v = np.append(np.linalg.eigvalsh(np.corrcoef(X[:, :5].numpy(), rowvar=False)), 0)
    np.testing.assert_allclose(came, np.diag(np.sort(v / (v + 1)) / (v / (v + 1)).mean()), atol=1e-4)
