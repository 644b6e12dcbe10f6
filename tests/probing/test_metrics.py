"""Every metric of weighted groups is scikit-learn's (or scipy's) on the groups repeated as often as they weigh."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn import metrics as oracle

from probing._metrics import confusion, of_confusion, of_numbers, of_probabilities, weighted_ranks

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")  # 0/0 is what has no value
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 12, 150)
WEIGHTS = np.stack([np.ones(12), *RNG.multinomial(12, np.full(12, 1 / 12), 3)])


def repeated(w):
    """Row numbers, each as often as its group counts."""
    return np.repeat(np.arange(len(GROUPS)), w[GROUPS].astype(int))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_counts_give_scikit_learns_metrics(n_classes):
    truth, guess = RNG.integers(0, n_classes, (2, 150, 1))
    found = of_confusion(confusion(truth, guess, GROUPS, n_classes))
    wanted = {"balanced_accuracy": oracle.balanced_accuracy_score,
              "macro_f1": lambda t, g: oracle.f1_score(t, g, average="macro")}
    if n_classes == 2:
        wanted |= {"f1": oracle.f1_score, "mcc": oracle.matthews_corrcoef}
    assert set(found) == set(wanted)
    for name, metric in found.items():
        by_hand = [wanted[name](truth[repeated(w), 0], guess[repeated(w), 0]) for w in WEIGHTS]
        np.testing.assert_allclose(metric(WEIGHTS), by_hand, err_msg=name)


def test_counts_are_those_of_all_targets():
    truth, guess = RNG.integers(0, 3, (2, 150, 5))
    counts = confusion(truth, guess, GROUPS, 3).sum(0)
    np.testing.assert_array_equal(counts, oracle.confusion_matrix(truth.ravel(), guess.ravel()))


def test_a_constant_guess_has_no_correlation_and_an_absent_class_does_not_count():
    truth, constant = np.array([[0], [1], [0], [1]]), np.zeros((4, 1), int)
    found = of_confusion(confusion(truth, constant, np.arange(4), 2))
    assert found["mcc"](np.ones((1, 4))) == 0 and found["balanced_accuracy"](np.ones((1, 4))) == 0.5
    three = of_confusion(confusion(truth, truth, np.arange(4), 3))
    assert three["macro_f1"](np.ones((1, 4))) == 1 and three["balanced_accuracy"](np.ones((1, 4))) == 1


def test_probabilities_give_scikit_learns_metrics():
    truth = RNG.integers(0, 2, (150, 1))
    score = np.round(np.clip(0.3 * truth + 0.7 * RNG.random((150, 1)), 0.01, 0.99), 1).clip(0.05, 0.95)  # with ties
    p = np.stack([1 - score, score], 2)
    found = of_probabilities(truth, p, GROUPS)
    for i, w in enumerate(WEIGHTS):
        t, s = truth[repeated(w), 0], score[repeated(w), 0]
        assert found["auroc"](WEIGHTS)[i] == pytest.approx(oracle.roc_auc_score(t, s))
        assert found["log_loss"](WEIGHTS)[i] == pytest.approx(oracle.log_loss(t, s))


def test_calibration_error_is_the_gap_between_confidence_and_hits():
    truth = (np.arange(1000) % 10 < 8).astype(int)[:, None]  # true in 8 of 10
    groups = np.arange(1000)
    for said, error in ((0.8, 0.0), (0.9, 0.1), (0.95, 0.15)):
        p = np.broadcast_to([1 - said, said], (1000, 1, 2))
        assert of_probabilities(truth, p, groups)["ece"](np.ones((1, 1000))) == pytest.approx(error, abs=1e-9)


def test_area_under_the_curve_leaves_out_targets_of_one_class():
    truth = np.c_[np.arange(40) % 2, np.zeros(40, int)]
    p = np.stack([1 - truth, truth], 2).astype(float)
    assert of_probabilities(truth, p, np.arange(40))["auroc"](np.ones((1, 40))) == 1


def test_numbers_give_the_usual_metrics():
    truth = RNG.normal(size=(150, 2))
    guess = truth + RNG.normal(size=(150, 2)).round(0)
    mean = np.array([0.1, -0.2])
    found = of_numbers(truth, guess, mean, GROUPS)
    for i, w in enumerate(WEIGHTS):
        rows = repeated(w)
        for k in range(2):
            t, g = truth[rows, k], guess[rows, k]
            assert found["spearman"](WEIGHTS)[i, k] == pytest.approx(spearmanr(t, g).statistic)
            assert found["mae"](WEIGHTS)[i, k] == pytest.approx(np.abs(t - g).mean())
            assert found["r2"](WEIGHTS)[i, k] == pytest.approx(1 - ((t - g) ** 2).sum() / ((t - mean[k]) ** 2).sum())
    assert (of_numbers(truth, np.broadcast_to(mean, truth.shape), mean, GROUPS)["spearman"](WEIGHTS) == 0).all()


def test_weighted_ranks_are_ranks_of_repeated_rows():
    x = RNG.integers(0, 9, 150).astype(float)
    for w in WEIGHTS:
        rows = repeated(w)
        mine = weighted_ranks(x, w[GROUPS][None])[0][rows] + 0.5  # rank 1 is the middle of the first unit of mass
        np.testing.assert_allclose(mine, rankdata(x[rows]))
