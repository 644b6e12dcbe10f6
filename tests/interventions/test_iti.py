"""Inference-time intervention: the heads scikit-learn would choose, doses in standard deviations, the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interventions import LastToken, fit_iti, head_sites, iti_effect, top1_right
from probing import LogisticProbe, Site, extract, load_model, validate
from tasks import decoy

SEEDS = ("decoy", "decoy-1", "decoy-2")


@pytest.fixture(scope="module")
def prompts():
    return decoy.load(800)


@pytest.fixture(scope="module")
def read(prompts):
    """name -> (model, activations of every head), loaded once."""
    held = {}

    def get(name: str):
        if name not in held:
            model = load_model(name, device="cpu")
            held[name] = model, extract(model, prompts, head_sites(model), cache=False, random_init=None)
        return held[name]

    return get


def test_heads_are_chosen_and_measured_as_scikit_learn_and_numpy_would(read, prompts):
    acts = read("decoy")[1]
    iti = fit_iti(acts, prompts, "mark/answer", n_heads=3, probe=LogisticProbe(C=1.0))
    y, train, validation = prompts.labels("mark")[:, 0], prompts.rows("train"), prompts.rows("validation")
    used = train | validation
    assert iti.table["accuracy"].is_monotonic_decreasing and iti.table["chosen"].sum() == 3
    assert iti.heads == tuple(Site("z", row.layer, row.head) for row in iti.table[:3].itertuples())
    for row in iti.table.itertuples():
        site = Site("z", row.layer, row.head)
        X = acts[site].numpy().astype(np.float64)
        oracle = make_pipeline(StandardScaler(), LogisticRegression(C=1.0)).fit(X[train], y[train])
        assert row.accuracy == pytest.approx(oracle.score(X[validation], y[validation]), abs=0.02)
        apart = X[used & (y == 1)].mean(0) - X[used & (y == 0)].mean(0)
        np.testing.assert_allclose(iti.theta[site], apart / np.linalg.norm(apart), atol=1e-5)
        assert iti.sigma[site] == pytest.approx(np.std(X[used] @ apart) / np.linalg.norm(apart), rel=1e-5)
        assert row.distance == pytest.approx(np.linalg.norm(apart) / row.sigma, rel=1e-5)


def test_the_probes_own_direction_may_be_used(read, prompts):
    acts = read("decoy")[1]
    site, train = Site("z", 1, head=2), prompts.rows("train")
    iti = fit_iti({site: acts[site]}, prompts, "end/answer", n_heads=1, source="probe")
    probe = LogisticProbe(tol=1e-2).fit(acts[site].numpy()[train], prompts.labels("end")[train, 0])
    np.testing.assert_allclose(iti.theta[site], probe.direction(pair="read"), atol=1e-5)


def test_a_dose_moves_the_reading_by_as_many_standard_deviations(read, prompts):
    model, acts = read("decoy")
    iti, cases = fit_iti(acts, prompts, "end/answer", n_heads=3), decoy.cases("end", n=40)
    towards = cases.cases["becomes"].to_numpy()
    run = LastToken.of(model, cases)
    head = min(iti.heads)  # nothing below it is edited
    before, after = (run.logits(iti.edits(alpha, towards), read=[head])[1][head] for alpha in (0, 2.5))
    moved = (after - before).double() @ iti.theta[head].double()
    torch.testing.assert_close(moved, 2.5 * iti.sigma[head] * torch.from_numpy(2.0 * towards - 1), rtol=1e-4, atol=1e-4)
    orthogonal = (after - before).double() - moved[:, None] * iti.theta[head].double()
    assert orthogonal.abs().max() < 1e-4


def test_no_dose_is_no_edit_bit_for_bit_and_small_doses_act_linearly(prompts):
    model = load_model("decoy", device="cpu", dtype="float64")
    acts = extract(model, prompts, head_sites(model), cache=False, random_init=None)
    iti, run = fit_iti(acts, prompts, "end/answer", n_heads=4), LastToken.of(model, decoy.cases("end", n=40))
    clean = run.logits()
    assert torch.equal(run.logits(iti.edits(0)), clean)
    one, two = (run.logits(iti.edits(alpha)) - clean for alpha in (1e-4, 2e-4))
    assert float((two - 2 * one).norm() / (2 * one).norm()) < 0.1


@pytest.mark.parametrize("name", SEEDS)
def test_pushing_the_heads_of_what_decides_moves_the_answer_and_those_of_the_decoy_do_not(read, prompts, name):
    model, acts = read(name)
    tables = {}
    for label in ("end", "mark"):
        iti = fit_iti(acts, prompts, f"{label}/answer", n_heads=4)
        assert (iti.table["accuracy"][:3] == 1).all()  # both are as decodable
        tables[label] = iti_effect(model, decoy.cases(label, n=200), iti, alphas=[2.0], score=top1_right)
        validate(tables[label])

    def of(label, control=None, column="value"):
        rows = tables[label][(tables[label]["metric"] == "top1_right") & (tables[label]["alpha"] == 2)]
        return rows[rows["control"].isna() if control is None else rows["control"] == control][column].item()

    assert of("end") > 0.85 and of("end", column="ci_low") > of("end", "random_direction", "ci_high")
    assert of("end", column="ci_low") > of("end", "random_heads", "ci_high")
    assert of("end", "random_heads", "n") == 20 and of("end", "sign_flip") < 0.1
    assert of("mark") > 0.9  # the answer stays


def test_random_heads_are_others_with_their_own_directions_and_the_norms_of_the_chosen(read, prompts):
    iti = fit_iti(read("decoy")[1], prompts, "end/answer", n_heads=4)
    sets = iti.random_heads(30, towards=0, seed=1)
    assert len({frozenset(drawn) for drawn in sets}) > 15
    for drawn in sets:
        assert len(drawn) == 4 and not set(drawn) & set(iti.heads)
        norms = sorted(float(push.norm()) for push in drawn.values())
        assert norms == pytest.approx(sorted(iti.sigma[head] for head in iti.heads), rel=1e-4)
        for head, push in drawn.items():
            assert torch.cosine_similarity(push[0], -iti.theta[head], dim=0) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_fitted_or_pushed_is_refused(read, prompts):
    model, acts = read("decoy")
    heads = {site: acts[site] for site in acts}
    with pytest.raises(ValueError, match="wanted activations of single heads, got z.0"):
        fit_iti({Site("z", 0): torch.zeros(800, 32)}, prompts, "end/answer", n_heads=1)
    with pytest.raises(ValueError, match="must lie in 1..12"):
        fit_iti(heads, prompts, "end/answer", n_heads=13)
    with pytest.raises(ValueError, match="has 1 classes"):
        fit_iti(heads, replace(prompts, examples=prompts.examples.assign(**{"end/answer": 0})), "end/answer", n_heads=1)
    with pytest.raises(ValueError, match="class 0 or 1"):
        fit_iti(heads, prompts, "end/answer", n_heads=1).edits(1.0, np.array([2]))
    with pytest.raises(ValueError, match="choose at most half"):
        iti_effect(model, decoy.cases("end", n=40), fit_iti(heads, prompts, "end/answer", n_heads=7), alphas=[1.0])
