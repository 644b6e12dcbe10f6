"""Amnesic probing on the decoy world: erasing what decides destroys the answers, erasing the decoy does nothing."""

import numpy as np
import pandas as pd
import pytest
import torch

import probing
from interventions import INLP, LEACE, RLACE, SPLINCE, LastToken, OracleLEACE, amnesic
from interventions._amnesic import random_erasers
from tasks import decoy

SITE = probing.Site("resid_post", 1)  # where the two latents are planted
METHODS = ("leace", "orth", "splince", "rlace", "inlp_mass_mean", "inlp")


@pytest.fixture(scope="module", params=["decoy", "decoy-1", "decoy-2"])
def world(request):
    """Model, rows of the training and validation splits at the planted site, and their labels."""
    model, prompts = probing.load_model(request.param, device="cpu"), decoy.load(n=600)
    run = LastToken(model, prompts.tokens, prompts.lengths)
    X = run.logits(read=[SITE])[1][SITE].numpy()
    labels = {name: prompts.labels(name)[:, 0] for name in ("end", "mark")}
    return model, X, labels, prompts.rows("train"), prompts.rows("validation")


def fit(method, label, X, labels, train, dev):
    y, other = labels[label], labels["mark" if label == "end" else "end"]
    if method == "inlp":
        return INLP.fit(X[train], y[train], (X[dev], y[dev]), n_iterations=16)
    if method == "inlp_mass_mean":
        return INLP.fit(X[train], y[train], (X[dev], y[dev]), n_iterations=1, probe=probing.MassMeanProbe)
    if method == "rlace":
        return RLACE.fit(X[train], y[train], 1, (X[dev], y[dev]), n_steps=16, check=16)
    if method == "splince":
        return SPLINCE.fit(X[train], y[train], other[train])
    return LEACE.fit(X[train], y[train], method=method)


def test_end_is_used_and_mark_is_not_by_every_method(world):
    """Accuracy after the erasure of each label, beside the same-rank random subspaces; one table of result rows."""
    model, X, labels, train, dev = world
    cases = decoy.cases("end", n=80)
    run, tables = LastToken.of(model, cases), []
    for method in METHODS:
        end, mark = (fit(method, label, X, labels, train, dev) for label in ("end", "mark"))
        restored = {SITE: OracleLEACE.fit(X[train], labels["end"][train])}
        table = amnesic(run, cases, {SITE: end}, probe=method, others={"mark": {SITE: mark}}, restored=restored)
        rows = table[table["metric"] == "accuracy"].fillna({"control": ""}).set_index("control")
        band = rows.loc["random_subspace"]
        assert rows.loc["null", "value"] == 1 == rows.loc["null", "ci_low"]
        assert rows.loc["", "value"] < 0.65, method
        # INLP takes half of all dimensions, and so many at random destroy the answers too: it allows no conclusion
        assert rows.loc["", "ci_high"] < band["ci_low"] if end.rank == 1 else band["value"] < 0.65, method
        assert rows.loc["mark", "value"] > 0.95 and rows.loc["mark", "value"] > band["value"], method
        assert (table["alpha"].dropna() == end.rank).all() and band["n"] == 20
        if method in ("leace", "orth", "splince"):  # those take the label and nothing else
            assert rows.loc["label_restored", "value"] > 0.99
        tables.append(table)
    probing.validate(pd.concat(tables))


def test_random_erasers_have_the_rank_and_the_means_of_the_erasers():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 7)), np.arange(90) % 3
    X += rng.normal(size=(3, 7))[y]
    eraser = LEACE.fit(X, y)
    for axes in (False, True):
        (drawn,) = random_erasers({SITE: eraser}, seed=3, axes=axes).values()
        assert drawn.rank == eraser.rank == 2 == torch.linalg.matrix_rank(torch.eye(7) - drawn.P)
        assert torch.equal(drawn.mean, eraser.mean) and torch.equal(drawn.read, drawn.write)
        assert not axes or (drawn.P.abs() < 1e-12).sum() == 7 * 7 - 5


def test_bad_input_is_told(gpt2, cases):
    X = np.random.default_rng(0).normal(size=(40, 24))
    eraser = LEACE.fit(X, np.arange(40) % 2)
    with pytest.raises(ValueError, match="at least 20 draws"):
        amnesic(gpt2, cases, {SITE: eraser}, probe="leace", n_random=5)
    nothing = LEACE.fit(np.concatenate([X, X]), np.arange(80) // 40)
    with pytest.raises(ValueError, match="take no dimension"):
        amnesic(gpt2, cases, {SITE: nothing}, probe="leace")
