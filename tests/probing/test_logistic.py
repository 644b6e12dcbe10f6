import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import LogisticProbe, fit_logistic
from probing._duality import certify
from probing._softmax import Stack, minimise
from probing._whitening import Standardised, Whitening


@parametrize_with_checks([LogisticProbe()])
def test_logistic_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def world(n=600, d=12, n_targets=4, n_classes=3, seed=0):
    """Badly conditioned inputs far from the origin, several labels of a linear-softmax world."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.exp(rng.normal(size=d))) + 5 * rng.normal(size=d)
    Z = StandardScaler().fit_transform(X)
    scores = (Z @ rng.normal(size=(d, n_targets * n_classes))).reshape(n, n_targets, n_classes)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(-1)


def tensors(X, Y):
    return torch.from_numpy(X), torch.from_numpy(Y)


def oracle(X, y, C=1.0, bias=True, weight=None):
    """scikit-learn's optimum in raw space, as contrasts to the first class: weights (class - 1, d), intercepts."""
    pipe = make_pipeline(StandardScaler(with_mean=bias), LogisticRegression(
        C=C, fit_intercept=bias, tol=1e-10, max_iter=3_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # lbfgs gives up at rounding, which is near enough
        pipe.fit(X, y, logisticregression__sample_weight=weight)
    scaler, fit = pipe
    W = fit.coef_ / scaler.scale_
    b = fit.intercept_ - (W @ scaler.mean_ if bias else 0)
    return (W, b) if len(W) == 1 else (W[1:] - W[0], b[1:] - b[0])


def contrasts(fit, column, classes):
    W, b = fit.coef[column, classes].numpy(), fit.intercept[column, classes].numpy()
    return W[1:] - W[0], b[1:] - b[0]


def objective(X, y, W, b, C):
    """scikit-learn's: C * sum of losses + half the squared weights, in units of the standardised inputs."""
    scores = X @ W.T + b
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return C * loss.sum() + 0.5 * ((W * X.std(0)) ** 2).sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("C, n_classes", [(1.0, 2), (100.0, 2), (1e-3, 3), (1.0, 3), (1.0, 5)])
def test_every_column_is_the_optimum_of_scikit_learn(C, n_classes, bias):
    X, Y = world(n_classes=n_classes, n_targets=3)
    fit = fit_logistic(*tensors(X, Y), C, bias=bias, tol=1e-10)
    assert (fit.gap <= 1e-10).all()
    for t in range(Y.shape[1]):
        W, b = oracle(X, Y[:, t], C, bias)
        ours, offset = contrasts(fit, t, range(n_classes))
        np.testing.assert_allclose(ours * X.std(0), W * X.std(0), atol=2e-4 * np.abs(W * X.std(0)).max())
        np.testing.assert_allclose(ours @ X.mean(0) + offset, W @ X.mean(0) + b, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-9])
def test_the_certificate_bounds_the_distance_to_the_optimum(tol, dtype):
    X, Y = tensors(*world())
    X = X.to(dtype)
    best, fit = fit_logistic(X, Y, tol=1e-12), fit_logistic(X, Y, tol=tol)
    for t in range(Y.shape[1]):
        f, optimum = (objective(X.double().numpy(), Y[:, t].numpy(), w.coef[t].numpy(), w.intercept[t].numpy(), 1.0)
                      for w in (fit, best))
        assert f / optimum - 1 <= float(fit.gap[t]) + 1e-11 <= tol + 1e-11


def test_targets_penalties_and_replicates_are_columns():
    X, Y = world()
    n, rng = len(X), np.random.default_rng(1)
    counts = np.stack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n)), rng.multinomial(n, np.full(n, 1 / n))], 1)
    target, C, replicate = np.array([0, 1, 2, 3, 0]), np.array([1.0, 0.1, 10.0, 1.0, 1.0]), np.array([0, 0, 1, 1, 2])
    fit = fit_logistic(*tensors(X, Y[:, target]), torch.from_numpy(C), weights=torch.from_numpy(counts),
                       replicate=torch.from_numpy(replicate), tol=1e-10)
    for column, t in enumerate(target):
        W, b = oracle(X, Y[:, t], C[column], weight=counts[:, replicate[column]])
        ours, offset = contrasts(fit, column, range(3))
        np.testing.assert_allclose(ours * X.std(0), W * X.std(0), atol=1e-3)


def test_columns_fitted_together_are_those_fitted_alone():
    X, Y = world(n_targets=3)
    together = LogisticProbe(tol=1e-9).fit(X, Y)
    for t in range(3):
        alone = LogisticProbe(tol=1e-9).fit(X, Y[:, t])
        np.testing.assert_allclose(together.predict_proba(X)[:, t], alone.predict_proba(X), atol=1e-4)


def test_a_column_has_the_classes_that_occur_in_it():
    X, Y = world()
    Y[:, 1] = np.where(Y[:, 1] == 1, 2, Y[:, 1])  # classes 0 and 2: scikit-learn's binary problem
    Y[:, 2] = 1
    fit = fit_logistic(*tensors(X, Y), tol=1e-10)
    W, b = oracle(X, Y[:, 1])
    ours, offset = contrasts(fit, 1, [0, 2])
    np.testing.assert_allclose(ours * X.std(0), W * X.std(0), atol=1e-4)
    assert fit.intercept[1, 1] == -torch.inf and fit.gap[2] == 0
    probe = LogisticProbe().fit(X, Y)
    assert (probe.predict_proba(X)[:, 2] == [0, 1, 0]).all()
    assert (probe.predict(X)[:, 1] != 1).all()
    assert np.isfinite(probe.read_).all() and np.isfinite(probe.write_).all()


def test_balanced_classes_weigh_the_same():
    X, Y = world()
    keep = (Y[:, 0] != 2) | (np.arange(len(X)) % 7 == 0)
    X, y = X[keep], Y[keep, 0]
    pipe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000))
    probe = LogisticProbe(class_weight="balanced", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), pipe.fit(X, y).predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("n, d", [(40, 90), (300, 30), (400, 130)])
def test_dependent_and_constant_dimensions_and_fewer_rows_than_dimensions(n, d):
    X, Y = world(n, d, n_targets=2)
    X = np.c_[X, np.full(n, 7.0), X[:, 0], X[:, 1] + X[:, 2]]
    fit = fit_logistic(*tensors(X, Y), tol=1e-9)
    assert (fit.gap <= 1e-9).all()
    np.testing.assert_allclose(fit.coef[..., d], 0, atol=1e-9)
    np.testing.assert_allclose(fit.coef[..., 0], fit.coef[..., d + 1], atol=1e-4)
    for t in range(2):
        W, _ = oracle(X, Y[:, t])
        np.testing.assert_allclose(contrasts(fit, t, range(3))[0] * X.std(0), W * X.std(0), atol=1e-3)


def test_a_separable_target_reaches_its_optimum():
    rng = np.random.default_rng(0)
    y = np.arange(2000) // 2 % 2
    X = rng.normal(size=(2000, 8)) + 12 * np.outer(y, np.eye(8)[0])
    probe = LogisticProbe(C=100.0, tol=1e-8).fit(X[::2], np.c_[y, rng.integers(0, 2, 2000)][::2])
    assert (probe.gap_ <= 1e-8).all()
    assert (probe.predict(X[1::2])[:, 0] == y[1::2]).mean() >= 0.99


def test_float32_rows_reach_what_float64_rows_do():
    X, Y = world()
    single = fit_logistic(torch.from_numpy(X).float(), torch.from_numpy(Y), tol=1e-10)
    double = fit_logistic(torch.from_numpy(X).float().double(), torch.from_numpy(Y), tol=1e-10)
    assert (single.gap <= 1e-10).all()
    np.testing.assert_allclose(single.coef.numpy() * X.std(0), double.coef.numpy() * X.std(0), atol=1e-4)


def test_a_path_starts_where_the_last_penalty_ended():
    X, Y = tensors(*world())
    cold = fit_logistic(X, Y, 1.0)
    warm = fit_logistic(X, Y, 1.0, start=cold)
    assert warm.n_passes < cold.n_passes / 3
    torch.testing.assert_close(warm.coef, cold.coef, atol=1e-3, rtol=1e-3)


def test_weights_live_in_raw_space_and_only_contrasts_matter():
    X, Y = world()
    probe = LogisticProbe().fit(X, Y)
    np.testing.assert_allclose(probe.logits(X), np.einsum("nd,tkd->ntk", X, probe.coef_) + probe.intercept_, atol=1e-8)
    shifted = LogisticProbe.from_weights(probe.coef_ + np.arange(12.0), probe.intercept_, probe.classes_)
    np.testing.assert_allclose(shifted.predict_proba(X), probe.predict_proba(X), atol=1e-10)


def test_reads_with_contrasts_of_weights_and_writes_with_differences_of_means():
    X, Y = world()
    probe = LogisticProbe().fit(X, Y)
    assert probe.read_.shape == probe.write_.shape == (4, 3, 12)
    np.testing.assert_allclose(probe.read_, probe.coef_ - probe.coef_.mean(1, keepdims=True), atol=1e-12)
    means = np.stack([X[Y[:, 1] == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(probe.write_[1], means - means.mean(0), atol=1e-10)
    v = probe.direction(2, 0, target=1)
    np.testing.assert_allclose(v, (means[2] - means[0]) / np.linalg.norm(means[2] - means[0]), atol=1e-10)
    two = LogisticProbe().fit(X, Y[:, 0] == 1)
    assert two.read_.shape == (1, 12) and two.read.rank == two.write.rank == 1
    np.testing.assert_allclose(X @ two.read_[0] + np.diff(two.intercept_[0]), two.decision_function(X), atol=1e-8)


def test_without_a_bias_a_zero_activation_says_nothing():
    X, Y = world()
    probe = LogisticProbe(bias=False).fit(X, Y)
    assert (probe.intercept_ == 0).all()
    np.testing.assert_allclose(probe.predict_proba(np.zeros((1, 12))), 1 / 3)


def test_midpoint_of_two_gaussians():
    rng = np.random.default_rng(0)
    y = np.arange(20_000) % 2
    x = rng.normal(size=20_000) + np.where(y, 5.0, 1.0)
    probe = LogisticProbe(C=1e6).fit(x[:, None], y)
    w, b = np.diff(probe.coef_[0, :, 0]), np.diff(probe.intercept_[0])
    assert -b / w == pytest.approx(3.0, rel=0.05)
    assert probe.score(x[:, None], y) == pytest.approx(0.977, abs=0.005)  # Phi(2)


def test_shuffled_labels_score_at_chance():
    X, Y = world(n=1200)
    shuffled = np.random.default_rng(1).permutation(Y)
    assert LogisticProbe().fit(X[::2], shuffled[::2, 0]).score(X[1::2], Y[1::2, 0]) < 0.45


def test_an_unfinished_fit_says_so_and_names_the_columns():
    X, Y = world()
    with pytest.warns(ConvergenceWarning, match=r"4 of 4 columns .* \(columns \[0, 1, 2, 3\]\); raise max_iter"):
        LogisticProbe(tol=1e-9, max_iter=3).fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="1 class"):
        LogisticProbe().fit(np.eye(4), np.zeros(4, int))


@pytest.mark.parametrize("wrong, message", [
    (dict(C=0.0), "C must be positive"),
    (dict(n_classes=2), "class codes 0 .. 1"),
    (dict(weights=torch.ones(600, 2)), "say with replicate"),
    (dict(weights=-torch.ones(600, 1)), "not negative"),
])
def test_arguments_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        fit_logistic(*tensors(*world()), **wrong)


def test_a_bias_that_is_nearly_right_is_moved_where_the_gap_asks_for_it():
    """Of separable classes the scores are large and the objective small: a residual of the bias that is next to nothing
    costs a hundredth of the objective."""
    rng, n = np.random.default_rng(0), 2000
    y = rng.integers(0, 2, n)
    X = torch.from_numpy(0.1 * rng.normal(size=(n, 64)) + 3 * y[:, None])
    fit = fit_logistic(X, torch.from_numpy(y)[:, None], tol=1e-9)
    white = Whitening.of(X, True)
    W = fit.coef[:, 1:] - fit.coef[:, :1]
    bias = (fit.intercept[:, 1:] - fit.intercept[:, :1] + W @ white.mean)[..., None]
    V, lam = torch.cat([W * white.std, bias], 2), torch.ones(1, dtype=torch.float64)
    stack = Stack(Standardised(X, white.mean, white.std, True), torch.from_numpy(y)[:, None].to(torch.int16), 2,
                  white.penalty(lam, n))
    V[..., -1] += 9e-7 * n / 2 / (n * stack.curvature(V)[..., 0])
    moved, gap = certify(stack, V, lam, 1e-3)
    assert gap <= 1e-3 and certify(stack, moved, lam, 1e-12)[1] <= gap


def test_exact_hessians_lead_to_the_same_minimum():
    X, Y = tensors(*world(n=300, d=40))
    white = Whitening.of(X, True)
    lam = torch.ones(Y.shape[1], dtype=torch.float64)
    stack = Stack(white.inputs(X, torch.float64), Y.to(torch.int16), 3, white.penalty(lam, len(X)))
    start = torch.zeros(Y.shape[1], 2, 41, dtype=torch.float64)
    usual, exact = (minimise(stack, start, 1e-11, 300, exact=each)[0] for each in (False, True))
    torch.testing.assert_close(exact, usual, atol=1e-4, rtol=1e-4)
    loss, slope = stack.evaluate(exact)
    assert (stack.gap(slope) <= 1e-11 * loss).all()
