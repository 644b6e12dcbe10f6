"""Completeness, selectivity and reliability by independent probes, and odds against a control mapping."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import probing
from interventions import (
    LastToken,
    control_mapping,
    log_odds_ratio,
    move_to,
    odds_selectivity,
    project_out,
    random_like,
    reliability,
    steer,
    validators,
)
from interventions._metrics import ANSWER_METRICS, answer_odds, kl, log_odds
from interventions._reliability import completeness, selectivity_of, total_variation
from tasks import decoy

SITE = probing.Site("resid_post", 1)
STUDY = dict(intervention="flip", probe="planted")


def value(table, metric, control=None):
    rows = table[(table["metric"] == metric) & (table["control"].isna() if control is None
                                                else table["control"] == control)]
    assert len(rows) == 1
    return rows["value"].item()


@pytest.fixture(scope="module")
def world():
    """Model, cases, half of the examples to make edits from, and probes fitted on the other half."""
    model, prompts, cases = probing.load_model("decoy", device="cpu"), decoy.load(n=400), decoy.cases("end", 60)
    X = LastToken(model, prompts.tokens, prompts.lengths).logits(read=[SITE])[1][SITE].numpy()
    labels = {name: prompts.labels(name)[:, 0] for name in ("end", "mark")}
    mine = np.arange(400) % 2 == 0
    probes = validators(X, labels, ~mine, mine, probing.LogisticProbe())
    return LastToken.of(model, cases), cases, X[mine], {k: y[mine] for k, y in labels.items()}, probes


def test_numbers_of_distributions_at_their_ends():
    certain, even = np.eye(3)[[0, 1, 2]], np.full((3, 3), 1 / 3)
    target = np.array([0, 1, 2])
    assert completeness(certain, target).tolist() == [1, 1, 1]
    assert completeness(certain, np.roll(target, 1)).tolist() == [0, 0, 0]
    np.testing.assert_allclose(completeness(certain, None), 0, atol=1e-12)
    np.testing.assert_allclose(completeness(even, None), 1)
    assert selectivity_of(certain, certain).tolist() == [1, 1, 1]
    np.testing.assert_allclose(selectivity_of(np.roll(certain, 1, axis=0), certain), 0)
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), 50), rng.dirichlet(np.ones(4), 50)
    np.testing.assert_allclose(total_variation(p, q), np.maximum(p - q, 0).sum(1))


def test_no_edit_is_selective_and_not_complete(world):
    run, cases, _, _, probes = world
    table = reliability(run, cases, {}, probes, SITE, **STUDY)
    for control in (None, "null"):
        assert value(table, "selectivity", control) == 1 == value(table, "isolate", control)
        assert value(table, "completeness", control) < 0.05 and value(table, "cause", control) < 0.05
        assert value(table, "disentangle", control) == pytest.approx(0.5, abs=0.025)
    gone = reliability(run, cases, {}, probes, SITE, removes=True, **STUDY)
    assert value(gone, "completeness") < 0.1 and "cause" not in set(gone["metric"])


def test_a_flip_along_the_planted_direction_is_complete_and_selective(world):
    run, cases, X, labels, probes = world
    becomes, q = cases.cases["becomes"].to_numpy(), decoy.planted()["end"]
    means = np.array([(X[labels["end"] == c] @ q.numpy()).mean() for c in (0, 1)])
    flip = {SITE: move_to(q, torch.from_numpy(means[becomes]))}
    sign = torch.from_numpy(2.0 * becomes - 1).float()[:, None]
    draws = random_like({SITE: float(means[1] - means[0]) * sign * q}, 20)
    table = reliability(run, cases, flip, probes, SITE, draws=draws, alpha=1.0, unit="class_mean", **STUDY)
    probing.validate(table)
    c, s = value(table, "completeness"), value(table, "selectivity")
    assert c > 0.95 and s > 0.95 and value(table, "reliability") == pytest.approx(2 * c * s / (c + s))
    assert value(table, "disentangle") > 0.95 > 0.9 > value(table, "disentangle", "random_direction")
    erased = reliability(run, cases, {SITE: project_out(q, torch.from_numpy(X.mean(0)))}, probes, SITE, removes=True,
                         **STUDY)
    assert value(erased, "selectivity") > 0.95


def test_probes_that_made_the_edit_may_not_judge_it(world):
    run, cases, X, labels, probes = world
    half = np.arange(200) < 100
    with pytest.raises(ValueError, match="100 examples made the edit and would judge it"):
        validators(X, labels, half, half)
    with pytest.raises(ValueError, match="wanted a probe of 'end' and of at least one other"):
        reliability(run, cases, {}, {"end": probes["end"]}, SITE, **STUDY)


def test_the_odds_ratio_is_its_definition_and_zero_without_an_edit(random):
    unedited, edited = random(6, 9), random(6, 9)
    before, after = torch.eye(9, dtype=torch.bool)[torch.arange(6)], torch.eye(9, dtype=torch.bool)[torch.arange(6) + 2]
    p, q = unedited.log_softmax(-1), edited.log_softmax(-1)
    wanted = (p[before] - p[after]) + (q[after] - q[before])
    torch.testing.assert_close(log_odds_ratio(edited, unedited, before, after), wanted)
    assert log_odds_ratio(unedited, unedited, before, after).eq(0).all()
    one, two = before | after, before
    torch.testing.assert_close(answer_odds(edited, two, one), log_odds(edited, after, before))  # nothing is lost
    torch.testing.assert_close(answer_odds(edited, one, two), log_odds(edited, before, after))  # nothing is gained
    assert answer_odds(edited, one, one).isnan().all()
    none = {name: f(unedited, unedited, before, after) for name, f in ANSWER_METRICS.items()}
    assert none["flip_rate"].eq(0).all() and kl(unedited, unedited).eq(0).all()
    torch.testing.assert_close(none["mass_before"] + none["mass_after"], none["mass_sum"])
    assert log_odds(unedited, before, torch.zeros_like(before)).isnan().all()


def test_the_model_answers_for_the_latent_and_for_nothing_arbitrary(world):
    run, cases, X, labels, _ = world
    arbitrary = control_mapping(cases)
    assert not (arbitrary.right_before & cases.right_before).any() and not arbitrary.right_before[:, 0].any()
    assert (arbitrary.right_before.argmax(1) == arbitrary.right_after.argmax(1)[
        [int(np.flatnonzero(cases.cases["becomes"] == w)[0]) for w in cases.cases["was"]]]).all()
    dmu = torch.from_numpy(X[labels["end"] == 1].mean(0) - X[labels["end"] == 0].mean(0))
    sign = torch.from_numpy(2.0 * cases.cases["becomes"].to_numpy() - 1).float()[:, None]
    edit = {SITE: steer(sign * dmu)}
    table = odds_selectivity(run, cases, edit, edit, alpha=1.0, unit="class_mean", **STUDY)
    probing.validate(table)
    assert value(table, "odds_selectivity") > 10 > 5 > abs(value(table, "odds_ratio") - value(
        table, "odds_selectivity"))
    nothing = odds_selectivity(run, cases, {SITE: steer(torch.zeros(1, 32))}, {}, **STUDY)
    assert value(nothing, "odds_ratio") == 0 == value(nothing, "odds_selectivity")
    with pytest.raises(ValueError, match="tokens are never right, 2 classes want one each"):
        control_mapping(replace(cases, right_before=np.ones_like(cases.right_before)))
