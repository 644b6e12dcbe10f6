"""Scrubbing erases a label at every site of a running model, where erasers fitted side by side do not."""

import numpy as np
import pytest
import torch

import probing
from interventions import LEACE, LastToken, scrub
from probing import Site, residual_sites
from tasks import decoy


@pytest.fixture(scope="module")
def world():
    model, prompts = probing.load_model("decoy", device="cpu"), decoy.load(n=600)
    return model, prompts, LastToken(model, prompts.tokens, prompts.lengths)


def spread(x, y):
    """Distance of the class means in standard deviations of the rows."""
    return float((x[y == 1].mean(0) - x[y == 0].mean(0)).norm() / x.std(0).norm())


def test_no_site_has_a_linear_trace_of_the_label(world):
    model, prompts, run = world
    y, sites = torch.tensor(prompts.labels("end")[:, 0]), residual_sites(3)
    scrubbed = scrub(model, prompts, "end")
    assert list(scrubbed) == sites
    train = torch.tensor(prompts.rows("train"))
    before, after = (run.logits(edits, read=sites)[1] for edits in ({}, scrubbed.edits()))
    for site in sites[1:]:  # the last token is the same word in all prompts: the embedding tells nothing
        assert spread(before[site][train], y[train]) > 0.1
        assert spread(after[site][train], y[train]) < 1e-5
    apart = {site: LEACE.fit(before[site][train], y[train]).edit() for site in sites[1:]}
    side_by_side = run.logits(apart, read=sites)[1]
    assert max(spread(side_by_side[site][train], y[train]) for site in sites[2:]) > 1e-2


def test_it_destroys_the_answers_and_scrubbing_the_decoy_does_not(world):
    model, prompts, _ = world
    cases = decoy.cases("end", n=200)
    run, right = LastToken.of(model, cases), torch.from_numpy(cases.right_before)

    def accuracy(edits):
        return float(right.gather(1, run.logits(edits).argmax(-1, keepdim=True)).float().mean())

    sites = residual_sites(3)[1:]
    end, mark = (scrub(model, prompts, label, sites) for label in ("end", "mark"))
    band = [accuracy(end.random(seed).edits()) for seed in range(10)]
    assert accuracy({}) == 1 and accuracy(end.edits()) < 0.65 < np.median(band)
    assert accuracy(mark.edits()) > 0.97


def test_hooks_scrub_the_marked_tokens_of_whole_sequences(world):
    model, prompts, run = world
    scrubbed = scrub(model, prompts, "end", [Site("attn_out", 1), Site("resid_post", 1)])
    tokens, rows = prompts.tokens[:20], torch.arange(20)
    where = torch.zeros(tokens.shape, dtype=torch.bool)
    where[rows, prompts.lengths[:20] - 1] = True
    with model.hooks(fwd_hooks=scrubbed.hooks(where)), torch.no_grad():
        logits = model(tokens)[rows, prompts.lengths[:20] - 1]
    torch.testing.assert_close(logits, run.select(range(20)).logits(scrubbed.edits()), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="the batch has"), model.hooks(fwd_hooks=scrubbed.hooks(where[:3])):
        model(tokens)


@pytest.mark.parametrize("every_token", [False, True])
def test_a_block_sees_only_what_was_scrubbed_below(world, every_token):
    """The eraser of the upper site is LEACE of rows read with the lower one at work."""
    model, prompts, _ = world
    low, high = Site("resid_post", 0), Site("resid_post", 1)
    scrubbed = scrub(model, prompts, "end", [high, low], every_token=every_token, shrinkage=0)
    assert list(scrubbed) == [low, high]
    rows, last = torch.arange(len(prompts)), prompts.lengths - 1
    where = torch.arange(prompts.tokens.shape[1]) < prompts.lengths[:, None]
    if not every_token:
        where = where & (torch.arange(prompts.tokens.shape[1]) == last[:, None])
    seen = {}
    keep = (high.hook, lambda x, hook: seen.update(x=x[rows, last]))
    with torch.no_grad(), model.hooks(fwd_hooks=[*scrubbed.hooks(where)[:1], keep]):
        model(prompts.tokens)
    train = prompts.rows("train").copy()
    want = LEACE.fit(seen["x"][train], prompts.labels("end")[train, 0], shrinkage=0)
    x = seen["x"][:50]
    torch.testing.assert_close(scrubbed[high].transform(x), want.transform(x), rtol=1e-3, atol=1e-3)


def test_the_model_is_as_it_was_afterwards(world):
    model, prompts, run = world
    before = run.logits()
    with pytest.raises(ValueError, match="cannot be scrubbed"):
        scrub(model, prompts, "end", [Site("resid_mid", 0)])
    with pytest.raises(ValueError, match="different"):
        scrub(model, prompts, "end", [Site("resid_post", 0)] * 2)
    scrub(model, prompts, "end", [Site("resid_post", 0)])
    assert torch.equal(run.logits(), before)
