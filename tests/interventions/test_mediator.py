"""The readout-mediator report tells a direction that decides the answer from one that is as readable and unused."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from interventions import interchange_pairs, readout_mediator, verdict
from interventions._mediator_words import findings
from interventions._pair_run import PairRun
from probing import Site, Subspace, load_model, validate
from tasks import decoy

SITE = Site("resid_post", decoy.PLANTED_LAYER)


def report(scheme: str, steps: int):
    n = 200
    cases = replace(decoy.cases(scheme, n=n), right_after=decoy.cases("end", n=n).right_after)
    run = PairRun(load_model("decoy", device="cpu"), interchange_pairs(cases), SITE)
    truth = decoy.planted("decoy")[scheme]
    return readout_mediator(run, run.pairs, SITE, {"planted": Subspace.spanned_by(truth[None]), "other": OTHER},
                            n_refits=1, steps=steps)


OTHER = Subspace.spanned_by(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def end():
    return validate(report("end", 80))


@pytest.fixture(scope="module")
def mark():
    return validate(report("mark", 40))


def test_for_a_label_that_decides_all_agree_with_the_planted_direction(end):
    found = findings(end)
    planted, learned = found["planted"], found["das, rank 1"]
    assert planted.reads and planted.needed and planted.enough and planted.near and learned.enough
    assert planted.iia == pytest.approx(1, abs=0.01) and planted.share == pytest.approx(1, abs=0.02)
    assert planted.kept < 0.65 < planted.before and planted.angle < 45
    assert not found["other"].enough or found["other"].share < 0.2
    assert verdict(end).startswith("The model uses end at resid_post.1, and the probe reads what the model uses")


def test_for_a_label_that_decides_nothing_it_is_read_and_no_causal_subspace_is_found(mark):
    found = findings(mark)
    planted, learned = found["planted"], found["das, rank 1"]
    assert planted.reads and planted.accuracy > 0.95 and not planted.needed and not planted.enough
    assert learned.share < 0.1
    assert "what is read is a correlate" in verdict(mark).splitlines()[0]


def test_every_number_has_its_controls(end):
    rows = end[(end["probe"] == "planted") & (end["split"] == "report")]
    controls = {name: set(part["control"].dropna()) for name, part in rows.groupby("intervention")}
    assert controls == {"compare": {"null", "random_direction"}, "read": {"null", "random_direction"},
                        "ablate": {"null", "random_direction", "random_subspace"},
                        "interchange": {"null", "random_direction", "random_subspace", "complement"}}
    angles = rows[(rows["intervention"] == "compare") & rows["control"].isna()]
    assert set(angles["subset"]) == {"to other", "to das, rank 1"} and (angles["n"] == 2).all()


def test_a_search_that_fell_short_is_not_taken_for_an_answer(end):
    learned = (end["probe"] == "das, rank 1") & (end["intervention"] == "interchange") & end["control"].isna()
    worse = end.assign(**{c: end[c].mask(learned, 0.5) for c in ("value", "ci_low", "ci_high")})
    assert verdict(worse).startswith("The search for a subspace at resid_post.1 fell short: planted")


def test_findings_want_one_report(end, mark):
    with pytest.raises(ValueError, match="one label at one site .* has 2"):
        verdict(pd.concat([end, mark]))
    with pytest.raises(ValueError, match="one learned space"):
        findings(end[end["probe"] != "das, rank 1"])


def test_a_space_of_another_width_and_no_refit_are_refused():
    run = PairRun(load_model("decoy", device="cpu"), interchange_pairs(decoy.cases("end", n=60)), SITE)
    with pytest.raises(ValueError, match=r"resid_post.1 is 32 wide, but not wide \(8\)"):
        readout_mediator(run, run.pairs, SITE, {"wide": Subspace(torch.eye(8)[:1])})
    with pytest.raises(ValueError, match="n_refits is 0"):
        readout_mediator(run, run.pairs, SITE, n_refits=0)
