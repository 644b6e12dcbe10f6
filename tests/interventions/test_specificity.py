"""Rereading later layers after an edit, and latent saliency maps."""

import numpy as np
import pytest
import torch

from interventions import LastToken, reread, saliency, steer
from probing._sites import Site

SITE, LATER = Site("resid_post", 1), Site("resid_post", 2)
STUDY = dict(intervention="flip", probe="by hand")
TARGETS = ["t0", "t1", "t2", "t3"]


@pytest.fixture
def readers(random):
    """Orthonormal directions of four targets, and probes that read code 2 on their positive side, else 0."""
    directions = torch.linalg.qr(random(24, 4)).Q.T
    return directions, {site: lambda x: np.where(x @ directions.numpy().T > 0, 2, 0) for site in (SITE, LATER)}


def rows(table, metric, site, control=None):
    of = table[(table["metric"] == metric) & (table["layer"] == site.layer)
               & (table["control"].isna() if control is None else table["control"] == control)]
    assert len(of) == 1
    return of.iloc[0]


def test_a_push_along_orthogonal_directions_changes_its_target_and_no_other(gpt2, cases, readers):
    directions, probes = readers
    push = steer(1e3 * directions[[TARGETS.index(t) for t in cases.cases["target"]]])
    run = LastToken.of(gpt2, cases)
    table = reread(run, {SITE: push}, probes, cases, TARGETS, alpha=1000, unit="absolute", **STUDY)
    assert rows(table, "specificity_target", SITE)["value"] == 1
    assert rows(table, "specificity_others", SITE)["value"] == 0
    report = np.flatnonzero(cases.cases["split"] == "report")
    edited = np.array([TARGETS.index(t) for t in cases.cases["target"].iloc[report]])
    before, after = (run.logits(e, read=[LATER])[1][LATER].numpy()[report] for e in ({}, {SITE: push}))
    before, after = probes[LATER](before), probes[LATER](after)
    own = np.arange(len(report)), edited
    assert rows(table, "specificity_target", LATER)["value"] == pytest.approx((after[own] == 2).mean())
    assert rows(table, "specificity_target", LATER, "null")["value"] == pytest.approx((before[own] == 2).mean())
    changed = before != after
    changed[own] = False
    assert rows(table, "specificity_others", LATER)["value"] == pytest.approx(changed.sum(1).mean() / 3)


def test_no_edit_changes_no_reading(gpt2, cases, readers):
    table = reread(LastToken.of(gpt2, cases), {}, readers[1], cases, TARGETS, **STUDY)
    assert (table.loc[table["metric"] == "specificity_others", "value"] == 0).all()
    for site in (SITE, LATER):
        same = [rows(table, "specificity_target", site, control)["value"] for control in (None, "null")]
        assert same[0] == same[1]


def test_probes_that_read_something_else_are_refused(gpt2, cases, readers):
    run = LastToken.of(gpt2, cases)
    with pytest.raises(ValueError, match=r"edit targets \['t3'\]"):
        reread(run, {}, readers[1], cases, TARGETS[:3], **STUDY)
    with pytest.raises(ValueError, match=r"codes of shape \(6, 4\)"):
        reread(run, {}, readers[1], cases, [*TARGETS, "t4"], **STUDY)


def test_saliency_is_the_probability_that_each_flip_takes(gpt2, cases, random):
    directions = random(12, 5, 24)
    directions[:, 3] = 0  # nothing to flip
    run, token = LastToken.of(gpt2, cases, batch_size=8), torch.arange(12) + 1
    maps = saliency(run, token, lambda target: {SITE: steer(directions[:, target])}, 5)
    clean = run.logits().softmax(-1)
    for target in range(5):
        flipped = run.logits({SITE: steer(directions[:, target])}).softmax(-1)
        expected = (clean - flipped)[torch.arange(12), token]
        torch.testing.assert_close(maps[:, target], expected, atol=1e-6, rtol=1e-4)
    assert maps[:, 3].abs().max() < 1e-6 and maps[:, 0].abs().max() > 1e-3
    with pytest.raises(ValueError, match="token names 3 cases, there are 12"):
        saliency(run, token[:3], lambda target: {}, 5)


def test_the_random_band_of_rereading_is_the_spread_of_its_draws(gpt2, cases, readers, random):
    run, draws = LastToken.of(gpt2, cases), [{SITE: steer(3 * random(12, 24))} for _ in range(20)]
    table = reread(run, {}, readers[1], cases, TARGETS, draws=draws, **STUDY)
    alone = [reread(run, draw, readers[1], cases, TARGETS, **STUDY) for draw in draws]
    for metric in ("specificity_target", "specificity_others"):
        values = [rows(each, metric, LATER)["value"] for each in alone]
        band = rows(table, metric, LATER, "random_direction")
        assert band["value"] == pytest.approx(np.mean(values)) and band["n"] == 20
        assert (band["ci_low"], band["ci_high"]) == pytest.approx(tuple(np.percentile(values, [5, 95])))
