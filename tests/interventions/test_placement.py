"""Where hooks are and what an edit there does, in every family of architectures: facts that all edits rest on."""

import pytest
import torch

from interventions import At, LastToken, Sequences, compose, hook, patch_from, steer
from probing import load_model
from probing._guards import available_sites
from probing._sites import Site
from tasks import decoy

FAMILIES = ("gpt2", "llama", "neox", "bert")


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def run(models, cases, family):
    return Sequences.of(models(family), cases, positions=-1)


def test_identity_edits_leave_logits_bit_equal(run):
    same = {site: At(lambda x, rows: x) for site in available_sites(run.model) if site.stream != "resid_mid"}
    assert len(same) == 18  # six streams of three layers
    assert torch.equal(run.logits(same), run.logits())
    nothing = {site: At(steer(torch.ones(24), 0.0)) for site in same if site.stream != "mlp_post"}
    assert torch.equal(run.logits(nothing), run.logits())


def test_adding_and_taking_away_is_no_edit(run, random):
    v = random(12, 24)
    back = {Site("resid_post", layer): At(compose(steer(v), steer(v, -1.0))) for layer in range(3)}
    torch.testing.assert_close(run.logits(back), run.logits(), atol=1e-6, rtol=1e-5)


def test_an_earlier_position_after_the_last_block_has_exactly_no_effect(run, cases, random):
    earlier, edit = torch.where(cases.lengths > 1, cases.lengths - 2, 0), steer(random(12, 24), 5.0)
    long = cases.lengths > 1
    last, below = (run.logits({Site("resid_post", layer): At(edit, earlier)}) for layer in (2, 1))
    clean = run.logits()
    assert torch.equal(last[long], clean[long])
    assert (below[long] - clean[long]).abs().amax(-1).min() > 1e-4  # one block earlier it has, by attention


def test_later_positions_reach_earlier_ones_in_an_encoder_only(run, cases, family, random):
    run.positions = 0
    moved = run.logits({Site("resid_post", 0): At(steer(random(12, 24), 2.0), -1)})[cases.lengths > 1]
    same = torch.equal(moved, run.logits()[cases.lengths > 1])
    assert same == (family != "bert")


def test_steering_the_stream_adds_the_vector_to_the_stream(run, random):
    v = random(12, 24)
    real = torch.arange(12) < run.lengths[:, None]
    for edited, seen in ((Site("resid_post", 1), Site("resid_post", 1)), (Site("resid_post", 0), Site("resid_pre", 1)),
                         (Site("resid_pre", 2), Site("resid_pre", 2))):
        before, after = (run.read([seen], arm)[seen] for arm in ({}, {edited: At(steer(v))}))
        torch.testing.assert_close((after - before)[real], v[:, None].expand_as(after)[real], atol=1e-5, rtol=1e-5)


def test_what_the_halves_of_a_block_write_is_added_to_the_stream(run, family, random):
    """resid_post = resid_pre + attn_out + mlp_out, also where both halves run side by side; not in BERT, which
    normalises after every sum, so that its attn_out is the stream between and its mlp_out is added to that."""
    pre, attention, mlp, post = sites = [Site(s, 1) for s in ("resid_pre", "attn_out", "mlp_out", "resid_post")]
    real, v = torch.arange(12) < run.lengths[:, None], random(12, 24)
    acts = {site: x[real] for site, x in run.read(sites).items()}
    adds_up = torch.allclose(acts[pre] + acts[attention] + acts[mlp], acts[post], atol=1e-4)
    assert adds_up == (family != "bert")
    shifted = run.read(sites, {attention: At(steer(v))})
    change = {site: x[real] - acts[site] for site, x in shifted.items()}
    if family != "bert":
        skip, wanted = change[post] - change[mlp], v[:, None].expand(-1, 12, -1)[real]
        torch.testing.assert_close(skip, wanted, atol=1e-4, rtol=1e-4)
        assert change[mlp].any() == (family != "neox")  # in parallel blocks the MLP does not see attention's write
    moved = run.read([post], {mlp: At(steer(v))})[post][real] - acts[post]
    assert torch.allclose(moved, v[:, None].expand(-1, 12, -1)[real], atol=1e-4) == (family != "bert")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_hook_at_resid_mid_changes_the_mlp_only_which_is_why_it_is_refused(run, family, random):
    """With plain hooks: what is added there is not in the stream that the next block sees."""
    model, v, seen = run.model, random(1, 24), {}
    tokens = run.tokens[:1, :5].clamp_min(1)

    def keep(name):
        return lambda x, hook: seen.__setitem__(name, x[:, -1].clone())

    def streams(*hooks):
        with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, (Site("mlp_out", 1).hook, keep("mlp")),
                                                     (Site("resid_post", 1).hook, keep("post"))]):
            model(tokens)
        return seen["post"] - seen["mlp"]

    untouched = streams()
    mid = streams((Site("resid_mid", 1).hook, hook(steer(v), torch.zeros(1, dtype=torch.long))))
    written = streams((Site("attn_out", 1).hook, hook(steer(v), torch.zeros(1, dtype=torch.long))))
    torch.testing.assert_close(mid, untouched, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(written, untouched + v, atol=1e-5, rtol=1e-5)


def test_a_whole_stream_from_another_prompt_gives_its_logits(run, cases):
    """Patching every position of the stream below any layer reproduces the other run."""
    long = int(cases.lengths.max())
    twins = Sequences(run.model, cases.tokens[:, :long].clamp_min(1), torch.full((12,), long))
    clean = twins.logits()
    for layer in range(3):
        site = Site("resid_pre", layer)
        source = twins.read([site])[site].roll(1, 0).flatten(0, 1)
        patched = twins.logits({site: At(patch_from(source), by="token")})
        torch.testing.assert_close(patched, clean.roll(1, 0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["decoy", "decoy-1", "decoy-2"])
def test_small_doses_along_the_planted_direction_act_linearly_and_the_distance_of_the_classes_flips(name):
    cases, site = decoy.cases("end", n=64), Site("resid_post", 1)
    model = load_model(name, device="cpu", dtype="float64")
    run, r = LastToken.of(model, cases), decoy.planted(name)["end"].double()
    right = torch.as_tensor(cases.right_after).double() - torch.as_tensor(cases.right_before).double()
    becomes = torch.as_tensor(cases.cases["becomes"].to_numpy(copy=True))
    before, acts = run.logits(read=[site])

    def effect(alpha: float) -> float:
        logits = run.logits({site: steer((2 * becomes - 1)[:, None] * r, alpha)})
        return float(((logits - before) * right).sum(-1).mean())

    assert abs(effect(0.002) / effect(0.001) - 2) < 0.1
    assert effect(0.0) == 0
    distance = float((acts[site][becomes == 0] @ r).mean() - (acts[site][becomes == 1] @ r).mean())
    assert float((before * right).sum(-1).mean()) < 0 < effect(distance) + float((before * right).sum(-1).mean())


@pytest.mark.parametrize(("arm", "message"), [
    ({Site("resid_post", 1): At(steer(torch.ones(16)))}, "16 wide, the model's stream is 24 wide"),
    ({Site("z", 1, head=2): At(steer(torch.ones(24)))}, "24 wide, z.1.2 of this model is 6 wide"),
    ({Site("z", 1, head=4): At(steer(torch.ones(6)))}, "its heads are 0 to 3"),
    ({Site("resid_mid", 1): At(steer(torch.ones(24)))}, "edit attn_out.1 instead, or resid_post.1 or mlp_out.1"),
    ({Site("resid_post", 3): At(steer(torch.ones(24)))}, "its layers are 0 to 2"),
    ({Site("resid_post", 1): At(steer(torch.ones(24)), 12)}, "position 12 is outside case 0"),
    ({Site("resid_post", 1): At(steer(torch.ones(24)), -13)}, "position -13 is outside case 0"),
    ({Site("resid_post", 1): At(steer(torch.ones(24)), torch.zeros(5, dtype=torch.long))}, "positions are given for 5"),
    ({Site("resid_post", 1): At(steer(torch.ones(5, 24)))}, "constants for 5 cases, wanted at least 12"),
    ({Site("resid_post", 1): At(steer(torch.ones(30, 24)), by="token")}, "constants for 30 tokens, wanted cases x 12"),
])
def test_an_arm_that_does_not_fit_is_refused_before_anything_runs(run, arm, message):
    ran = []
    with run.model.hooks(fwd_hooks=[("blocks.0.hook_in", lambda x, hook: ran.append(1))]), \
            pytest.raises(ValueError, match=message):
        run.logits(arm)
    assert not ran


def test_directions_prompts_and_positions_that_are_not_there_are_refused(run, models, cases):
    with pytest.raises(ValueError, match="not finite"):
        steer(torch.full((24,), torch.nan))
    with pytest.raises(ValueError, match="no site resid_mid.1: its blocks"):
        Sequences.of(models("neox"), cases).read([Site("resid_mid", 1)])
    with pytest.raises(ValueError, match="position 40 is outside case 0"):
        Sequences.of(run.model, cases, positions=40)
    with pytest.raises(ValueError, match="lengths must lie in 1..12"):
        Sequences(run.model, cases.tokens, cases.lengths + 12)
