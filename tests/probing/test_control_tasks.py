import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probing import LogisticProbe, control_ceiling, control_labels, selectivity


def corpus(n_types=40, n_groups=400, per_group=10, rare=0, seed=0):
    """Sentences of Zipfian words whose class is that of the word; `rare` words occur once each, at the end."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, n_types + 1)
    types = rng.choice(n_types, n_groups * per_group, p=weight / weight.sum())
    if rare:
        types[-rare:] = n_types + np.arange(rare)
    groups = np.repeat(np.arange(n_groups), per_group)
    test = groups >= 0.7 * n_groups
    return types, rng.permutation(np.arange(n_types + rare) % 3)[types][:, None], groups, ~test, test


def rows(table, metric, control=None):
    found = table[(table["metric"] == metric) & (table["subset"] == "all")]
    return found[found["control"].isna() if control is None else found["control"] == control].iloc[0]


def test_control_labels_belong_to_types_and_follow_the_distribution_of_labels():
    types, Y, *_ = corpus(n_types=5000, n_groups=2000)
    Y = np.c_[Y, Y == 0]
    control = control_labels(types, Y, seed=3)
    for column in control.T:
        assert all(len(np.unique(column[types == t])) == 1 for t in np.unique(types)[:50])
    first = np.unique(types, return_index=True)[1]
    for k in range(3):
        assert (control[first, 0] == k).mean() == pytest.approx((Y[:, 0] == k).mean(), abs=0.04)
    np.testing.assert_array_equal(control, control_labels(types, Y, seed=3))
    assert (control != control_labels(types, Y, seed=4)).any()


@pytest.mark.parametrize("rare", [0, 300])
def test_a_linear_probe_on_one_hot_types_reaches_the_ceiling(rare):
    types, Y, groups, train, test = corpus(rare=rare)
    table = selectivity(np.eye(types.max() + 1, dtype=np.float32)[types], Y, types, groups, train, test,
                        LogisticProbe(C=1e3))
    ceiling, control = (rows(table, "accuracy", name)["value"] for name in ("control_task_ceiling", "control_task"))
    assert ceiling == control_ceiling(types, train, test) == (1 if rare == 0 else pytest.approx(0.75))
    assert ceiling <= control <= ceiling + 0.6 * (1 - ceiling) + 1e-9  # what was not seen can still be guessed


def test_a_probe_on_noise_is_at_the_majority_of_both_tasks():
    types, Y, groups, train, test = corpus(n_types=300)
    X = np.random.default_rng(1).normal(size=(len(types), 4))
    table = selectivity(X, Y, types, groups, train, test, n_controls=5)
    drawn = [control_labels(types, Y, seed=i) for i in range(5)]
    majority = np.mean([(y[test] == np.bincount(y[train, 0]).argmax()).mean() for y in drawn])
    assert rows(table, "accuracy", "control_task")["value"] == pytest.approx(majority, abs=0.03)


def test_a_state_that_holds_the_class_is_selective_and_one_that_holds_the_word_is_not():
    types, Y, groups, train, test = corpus(n_types=100)
    rng = np.random.default_rng(2)
    held = {"class": np.c_[3 * np.eye(3)[Y[:, 0]], np.zeros((len(types), 97))], "word": 3 * np.eye(100)[types]}
    found = {}
    for name, signal in held.items():
        X = signal + 0.3 * rng.normal(size=signal.shape)
        found[name] = rows(selectivity(X, Y, types, groups, train, test), "selectivity")
    assert found["class"]["ci_low"] > 0.3 and found["word"]["value"] < 0.05


def test_selectivity_is_task_minus_control_and_any_classifier_will_do():
    types, Y, groups, train, test = corpus(n_types=30, n_groups=100)
    X = np.eye(30)[types] + 0.5 * np.random.default_rng(0).normal(size=(len(types), 30))
    tables = [selectivity(X, Y, types, groups, train, test, probe) for probe in (None, LogisticRegression())]
    for table in tables:
        task, control = rows(table, "accuracy")["value"], rows(table, "accuracy", "control_task")["value"]
        assert rows(table, "selectivity")["value"] == pytest.approx(task - control)
    np.testing.assert_allclose(tables[0]["value"], tables[1]["value"], atol=0.02)
    with pytest.raises(ValueError, match="keep them apart"):
        selectivity(X, Y, types, groups, train | test, test)
