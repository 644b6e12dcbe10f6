"""Edits of several tokens together: one part is `effect`, and the controls keep norms and angles."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interventions import LastToken, Sequences, effect, patch_from, steer
from interventions._joint import Spot, joint_arm, joint_effect, joint_scan
from interventions._tails import tails
from probing import Site
from probing._results import KEY, validate

SITE = Site("resid_post", 1)
SAID = dict(unit="absolute", intervention="steer", probe="given", seed=0)


@pytest.fixture
def late(cases):
    """The last token but one of every case, if there are two."""
    return torch.clamp(cases.lengths - 2, min=0)


@pytest.mark.parametrize("where", ["last", "given"])
def test_one_part_is_effect(gpt2, cases, late, random, where):
    v, positions = random(len(cases), gpt2.cfg.d_model), -1 if where == "last" else late
    other = random(len(cases), gpt2.cfg.d_model)
    plain = effect(gpt2, cases, edit=lambda site, alpha: steer(v, alpha), sites=[SITE], alphas=[1.0, -2.0],
                   positions=positions, others={"other": {SITE: other}},
                   arms={"full_patch": {SITE: patch_from(other)}}, metrics=["log_odds"], planned=1.0, **SAID)
    spot = Spot("resid_post", 1)
    run = tails(gpt2, cases, [positions])
    joint = joint_effect(run, cases, lambda a: {spot: steer(v, a)}, [positions],
                         alphas=[1.0, -2.0], others={"other": {spot: other}}, full_patch={spot: patch_from(other)},
                         metrics=["log_odds"], planned=1.0, identity={"positions": where}, **SAID)
    key = [c for c in KEY if c != "positions"]
    both = plain.merge(joint, on=key, how="outer", suffixes=("", "_joint"), indicator=True)
    assert (both["_merge"] == "both").all()
    for column in ("value", "ci_low", "ci_high", "n", "applied_norm"):
        np.testing.assert_allclose(both[column].astype(float), both[f"{column}_joint"].astype(float), atol=2e-4)


def test_parts_are_written_together(gpt2, cases, late, random):
    """Two parts at one site are two edits of one arm; what the table says is what the run gives."""
    parts = {Spot("resid_post", 1, part=0): random(len(cases), gpt2.cfg.d_model),
             Spot("resid_post", 1, part=1): random(len(cases), gpt2.cfg.d_model)}
    run, positions = Sequences.of(gpt2, cases), [late, -1]
    arm = joint_arm(run, {spot: steer(v) for spot, v in parts.items()}, positions)
    table = joint_effect(run, cases, lambda a: {s: steer(v, a) for s, v in parts.items()}, positions, alphas=[1.0],
                         metrics=["mass_after"], identity={"positions": "both"}, **SAID)
    inside = (cases.cases["split"] == "report").to_numpy(copy=True)
    p = run.logits(arm).softmax(-1).numpy()
    mass = (p * cases.right_after).sum(1)[inside].mean()
    own = table[table["control"].isna() & (table["metric"] == "mass_after")].iloc[0]
    assert own["value"] == pytest.approx(mass, abs=1e-5) and own["positions"] == "both"
    norms = torch.stack([v[torch.from_numpy(inside)].norm(dim=-1) for v in parts.values()])
    assert own["applied_norm"] == pytest.approx(float(norms.mean()), rel=1e-4)
    validate(table)


def test_the_ceiling_is_recovered_by_what_tells_of_the_change(gpt2, cases, random):
    """Patching the last token of the prompt that tells gives its answers: all of the gap is recovered."""
    spot, swapped = Spot("resid_post", 2), cases.tokens.clone()
    last = (torch.arange(len(cases)), cases.lengths - 1)
    swapped[last] = torch.where(swapped[last] == 5, 6, 5)
    told = LastToken(gpt2, swapped, cases.lengths)
    logits, acts = told.logits(read=[spot.site])
    source = {spot: patch_from(acts[spot.site])}
    table = joint_effect(LastToken.of(gpt2, cases), cases, lambda a: source, alphas=[1.0], full_patch=source,
                         told=logits, metrics=["log_odds"], recovered=["log_odds"],
                         subsets={"some": np.arange(len(cases)) > 3, "none": np.zeros(len(cases), bool)}, **SAID)
    share = table[table["metric"] == "log_odds_recovery"]
    for control in ("full_patch", "told", None):
        rows = share[share["control"].isna() if control is None else share["control"] == control]
        assert sorted(rows["subset"]) == ["all", "some"] and rows["value"].to_numpy() == pytest.approx(1, abs=1e-4)
    band = share[share["control"] == "random_direction"]
    assert (band["n"] == 20).all()
    n_groups = dict(table.groupby("subset")["n_groups"].max())
    assert n_groups.pop("becomes=2") == 2 and n_groups == {"all": 3, "some": 2}
    validate(table)


def test_a_scan_lists_every_arm_beside_no_edit(gpt2, cases, random):
    v = random(1, gpt2.cfg.d_model)
    arms = [({"stream": "resid_post", "layer": i, "layer_end": i, "alpha": a, "unit": "absolute", "probe": "given",
              "intervention": "steer"}, {Spot("resid_post", i): steer(v, a)}) for i in (0, 1) for a in (1.0, 2.0)]
    table = joint_scan(LastToken.of(gpt2, cases), cases, arms, metrics=["log_odds"])
    assert set(table["split"]) == {"choose"}
    own = table[table["control"].isna() & (table["metric"] == "set_error")]
    assert list(zip(own["layer"], own["alpha"], strict=True)) == [(0, 1.0), (0, 2.0), (1, 1.0), (1, 2.0)]
    direct = effect(gpt2, cases, {SITE: v}, alphas=[2.0], split="choose", **SAID)
    direct = direct[direct["control"].isna() & (direct["metric"] == "set_error")]["value"].iloc[0]
    assert own["value"].iloc[-1] == direct


def test_what_cannot_be_made_is_refused(gpt2, cases, random):
    run, v = LastToken.of(gpt2, cases), random(1, gpt2.cfg.d_model)

    def make(alpha):
        return {Spot("resid_post", 1, part=1): steer(v, alpha)}

    with pytest.raises(ValueError, match="tokens for 1"):
        joint_effect(run, cases, make, alphas=[1.0], **SAID)
    with pytest.raises(ValueError, match="one token of every case"):
        joint_arm(Sequences.of(gpt2, cases), make(1.0), [-1, None])
    with pytest.raises(ValueError, match="not among"):
        joint_effect(run, cases, make, [-1, -1], alphas=[1.0], planned=2.0, **SAID)
    with pytest.raises(ValueError, match="at least 20"):
        joint_effect(run, cases, make, [-1, -1], alphas=[1.0], n_random=5, **SAID)
    only = replace(cases, cases=cases.cases.assign(split="choose"))
    with pytest.raises(ValueError, match="no case of split"):
        joint_effect(run, only, make, [-1, -1], alphas=[1.0], **SAID)
