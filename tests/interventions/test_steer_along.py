"""The short call: on the decoy world it says of either label whether the model uses it; and it runs on Othello."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interventions
import probing
import tasks
from interventions import Reference, effect, side_effects, steer_along, unit_vectors
from interventions._task_cases import class_difference, prompt_cases, task_cases, twins
from probing import Site, Subspace, validate
from tasks import decoy

SITE = Site("resid_post", 1)  # where the two latents are planted


def value(table, metric, control=None, column="value", **where):
    rows = table[(table["metric"] == metric) & (table["control"].isna() if control is None
                                                else table["control"] == control)]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert len(rows) == 1
    return rows[column].item()


@pytest.fixture(scope="module")
def prompts():
    return decoy.load(n=400)


@pytest.mark.parametrize("name", ["decoy", "decoy-1", "decoy-2"])
def test_only_the_label_that_decides_moves_the_answer(name, prompts):
    """Card, section 7: the true direction at dose 1 minus the mean of the random band is above 0, interval and all."""
    model, truth = probing.load_model(name, device="cpu"), decoy.planted(name)
    found = {}
    for label in ("end", "mark"):
        space = Subspace(truth[label][None], SITE, label, "planted")
        found[label] = steer_along(model, prompts, space, alphas=[1.0], n_cases=60)
        validate(found[label])
    end, mark = found["end"], found["mark"]
    for control in ("random_direction", "null", "sign_flip", "other_label:mark", "random_init"):
        assert value(end, "log_odds_difference", control, "ci_low") > 0, control
        assert value(end, "log_odds_difference", control, "p_adjusted") < 0.05
    assert value(end, "log_odds_over_band", "random_direction", "ci_low") > 0
    assert value(end, "nie", alpha=1.0, subset="all") == pytest.approx(1, abs=0.05)
    assert value(end, "iia", alpha=1.0) > 0.95 and value(end, "iia", "null") < 0.05
    assert value(end, "kl", column="class_distances", alpha=1.0, subset="all") == pytest.approx(1, rel=1e-3)
    assert abs(value(mark, "log_odds_difference", "null")) < 1 < value(end, "log_odds_difference", "null") / 10
    assert value(mark, "flip_rate", alpha=1.0) < 0.05
    assert value(mark, "log_odds_over_band", "random_direction") < 0


def test_the_first_lines_of_a_user(prompts):
    model = probing.load_model("decoy")
    acts = probing.extract(model, prompts, cache=False, random_init=None)
    table = probing.sweep(acts, prompts, ["end"], {"mass_mean": probing.MassMeanProbe()},
                          controls=("shuffled_labels",))
    probe = probing.best(table)
    rows = interventions.effect(model, prompts, probe.write)

    validate(rows)
    assert set(rows["probe"]) == {"mass_mean.write"} and set(rows["label"]) == {"end"}
    site, _ = table.best("end")
    main = rows[rows["subset"] == "all"]
    assert set(main["layer"]) == {site.layer} and set(main["stream"]) == {site.stream}
    doses = main["alpha"].dropna()
    for side in (doses.min(), doses.max()):
        assert value(main, "kl", alpha=side) > 1
    assert {"log_odds_slope", "log_odds_saturation", "log_odds_monotonicity", "alpha50_log_odds", "alpha_at_kl_0.1",
            "log_odds_at_kl_0.1", "nie", "log_odds_over_band"} <= set(main["metric"])
    at = value(main, "alpha_at_kl_0.1")
    assert value(main, "alpha_at_kl_0.1", column="ci_low") < at < value(main, "alpha_at_kl_0.1", column="ci_high")
    nearest = doses[(doses - at).abs().idxmin()]
    assert value(main, "kl", alpha=nearest) == pytest.approx(0.1, rel=0.1)  # measured there, not only interpolated
    unrelated = rows[rows["subset"] == "unrelated"]
    assert {"kl", "loss", "perplexity_ratio", "top1_right", "entropy"} == set(unrelated["metric"])
    assert set(rows["control"].dropna()) >= {
        "null", "clean", "random_direction", "random_in_components", "sign_flip", "shuffled_labels", "other_label:mark",
        "orthogonal_complement", "other_position:-2", "random_init", "random_init_null", "full_patch"}


def test_othello_has_its_own_cases_and_a_direction_for_every_square():
    prompts = tasks.load("othello", n=40, size=6)
    model = probing.load_model("othello-6x6", device="cpu")
    site = Site("resid_post", 2)
    X = probing.extract(model, prompts, [site], cache=False, random_init=None)[site].numpy()
    train = prompts.rows("train")
    probe = probing.MassMeanProbe().fit(X[train], prompts.labels("mine_theirs")[train])
    space = replace(probe.write, site=site, label="mine_theirs", name="mass_mean.write")
    table = effect(model, prompts, space, alphas=[1.0])
    validate(table)
    assert value(table, "set_error", alpha=1.0) < value(table, "set_error", "null")
    assert value(table, "log_odds_difference", "random_direction", "ci_low") > 0
    assert {"other_target", "full_patch", "other_label:black_white"} <= set(table["control"].dropna())


def test_prompts_without_cases_are_edited_themselves(prompts):
    plain = replace(prompts, task="mine")
    space = Subspace(decoy.planted()["end"][None], SITE, "end", "planted")
    model = probing.load_model("decoy", device="cpu")
    table = effect(model, plain, space, alphas=[1.0])
    validate(table)
    assert {"log_odds", "set_error"}.isdisjoint(table["metric"])
    assert value(table, "kl_difference", "null") > 5 and value(table, "kl_over_band", "random_direction") > 0
    words = decoy.WORDS
    told = steer_along(model, plain, space, alphas=[1.0], answers=([words.index("a")], [words.index("b")]), n_cases=20)
    assert value(told, "log_odds", "null", "n") == 20


def test_a_number_is_steered_in_standard_deviations(prompts):
    examples = prompts.examples.assign(**{"count/all": prompts.lengths.numpy() / 2})
    numbers, model = replace(prompts, task="mine", examples=examples), probing.load_model("decoy", device="cpu")
    space = Subspace(decoy.planted()["end"][None], SITE, "count", "ridge")
    table = effect(model, numbers, space, alphas=[2.0], positions=-2)
    validate(table)
    own = table[table["control"].isna() & (table["metric"] == "kl") & (table["subset"] == "all")].iloc[0]
    assert own["unit"] == "sd" and own["sds"] == pytest.approx(2, rel=1e-3) and own["positions"] == "-2"
    assert np.isnan(own["class_distances"])


def test_cases_are_those_of_the_task_or_the_test_examples(prompts):
    own = task_cases(prompts, "end", 30, seed=0)
    assert torch.equal(own.tokens, decoy.cases("end", 30, seed=1).tokens)
    borrowed = task_cases(prompts, "mark", 30, seed=0)
    assert borrowed.scheme == "mark" and (borrowed.right_before != borrowed.right_after).any(1).all()
    np.testing.assert_array_equal(borrowed.right_after, own.right_after)
    assert task_cases(replace(prompts, task="mine"), "end") is None
    made = prompt_cases(prompts, "end", 30, ([5], [6]), n=25)
    assert len(made) == 25 and (made.cases["becomes"] == 1 - made.cases["was"]).all()
    assert (made.right_after.argmax(1) == 5 + made.cases["becomes"]).all()
    twin = twins(own, prompts)
    question = twin[torch.arange(30), own.lengths - 2]
    assert all(decoy.WORDS[t].startswith(decoy.ENDS[b]) for t, b in zip(question, own.cases["becomes"], strict=True))


def test_a_case_is_moved_by_the_difference_of_its_own_classes(prompts):
    rng = np.random.default_rng(0)
    X, codes = torch.from_numpy(rng.normal(size=(90, 5))), rng.integers(0, 3, (90, 2))
    cases = decoy.cases("end", 4)
    table = cases.cases.assign(target=["a", "b", "b", "a"], was=[0, 1, 2, 1], becomes=[1, 0, 0, 2])
    found = class_difference(X, codes, ["a", "b"], replace(cases, cases=table))
    for row, (target, was, becomes) in enumerate([(0, 0, 1), (1, 1, 0), (1, 2, 0), (0, 1, 2)]):
        mean = [X[torch.from_numpy(codes[:, target] == c)].mean(0) for c in (was, becomes)]
        torch.testing.assert_close(found[row].double(), mean[1] - mean[0], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="no reference example has class 3 of 'a'"):
        class_difference(X, codes, ["a", "b"], replace(cases, cases=table.assign(target="a", becomes=3)))


def test_what_the_short_call_lacks_is_told(prompts):
    model, space = probing.load_model("decoy", device="cpu"), Subspace(torch.eye(1, 32))
    with pytest.raises(ValueError, match="does not say where it was found"):
        effect(model, prompts, space)
    with pytest.raises(ValueError, match="the subspace is 32 wide, z.1.0 is 8 wide"):
        steer_along(model, prompts, space, site=Site("z", 1, 0), label="end", n_cases=20)
    with pytest.raises(ValueError, match="a subspace wants labelled prompts"):
        effect(model, decoy.cases("end", 20), space)
    with pytest.raises(ValueError, match="with a subspace effect sets metrics, curve itself"):
        effect(model, prompts, space, metrics=["iia"], curve=True)
    with pytest.raises(ValueError, match="labelled prompts go with a subspace"):
        effect(model, prompts, {SITE: torch.eye(1, 32)})


def test_side_effects_are_brute_force_on_the_token_that_follows(prompts):
    model, v = probing.load_model("decoy", device="cpu"), 9 * torch.eye(3, 32)
    table = side_effects(model, prompts, {SITE: v}, alphas=[0.0, 1.0], unit="absolute", intervention="steer",
                         probe="by hand", label="end", n_prompts=12)
    validate(table)
    for metric, nothing in (("kl", 0), ("perplexity_ratio", 1)):
        assert value(table, metric, alpha=0.0) == pytest.approx(nothing, abs=1e-5) == value(table, metric, "null")
    assert value(table, "kl", alpha=1.0) > 0 and value(table, "perplexity_ratio", alpha=1.0) == pytest.approx(
        np.exp(value(table, "loss", alpha=1.0) - value(table, "loss", "null")), rel=1e-6)
    rows = np.sort(np.random.default_rng(0).permutation(len(prompts.tokens))[:12])
    losses = []
    for i, row in enumerate(rows):
        n = int(prompts.lengths[row]) - 1
        add = interventions.hook(interventions.steer(v[i % 3]), torch.tensor([0]))
        with torch.no_grad(), model.hooks(fwd_hooks=[(SITE.hook, add)]):
            logits = model(prompts.tokens[row : row + 1, :n])[0, -1]
        losses.append(-float(logits.log_softmax(-1)[prompts.tokens[row, n]]))
    assert value(table, "loss", alpha=1.0) == pytest.approx(np.mean(losses), rel=1e-4)


def test_dose_one_reads_as_the_other_class(prompts):
    model = probing.load_model("decoy", device="cpu")
    X = probing.extract(model, prompts, [SITE], cache=False, random_init=None)[SITE]
    y, r = torch.from_numpy(prompts.labels("end")[:, 0].copy()), decoy.planted()["end"]
    v = unit_vectors(r, "class_mean", Reference(X, (X[y == 1].mean(0) - X[y == 0].mean(0))[None]))
    assert float(((X[y == 0] + v) @ r).mean()) == pytest.approx(float((X[y == 1] @ r).mean()), rel=1e-5)
