"""Running only the last token is exact: the oracle is the whole sequence with the edit as a plain hook."""

import pytest
import torch

from interventions import LastToken, _last_token, compose, hook, move_to, steer
from probing._sites import Site

SITES = [Site("resid_pre", 0), Site("resid_post", 0), Site("attn_out", 1), Site("mlp_out", 1), Site("resid_pre", 2),
         Site("resid_post", 2)]


def whole(model, tokens, lengths, edits, read=None):
    """Logits (and the stream at a site) of the last token of every case, one full forward pass per case."""
    logits, acts = [], []
    for case, n in enumerate(lengths.tolist()):
        seen = []
        hooks = [(s.hook, hook(e, torch.tensor([case]), n - 1)) for s, e in edits.items()]
        if read:
            hooks.append((read.hook, lambda resid, hook, seen=seen: seen.append(resid[:, -1].clone())))
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            logits.append(model(tokens[case : case + 1, :n])[0, -1])
        acts += seen
    return (torch.stack(logits), torch.cat(acts)) if read else torch.stack(logits)


def n_hooks(model) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())


def test_last_token_equals_a_full_forward_under_edits_of_every_site(model, cases, random):
    run = LastToken.of(model, cases)
    assert run.shares_prefix == ("Native" not in type(model.original_model).__name__)
    arms = [{site: steer(random(12, 24), 1.5)} for site in SITES] + [{s: steer(random(1, 24), 0.5) for s in SITES}]
    for edits in arms:
        expected = whole(model, cases.tokens, cases.lengths, edits)
        torch.testing.assert_close(run.logits(edits), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(run.logits(), expected, atol=1e-3)


def test_whole_sequences_and_shared_prefix_agree(models, cases, random):
    for family in ("gpt2", "llama", "neox", "mistral"):
        edits = {Site("resid_post", 1): steer(random(12, 24), 2.0)}
        runs = [LastToken.of(models(family), cases, share_prefix=share) for share in (True, False)]
        torch.testing.assert_close(runs[0].logits(edits), runs[1].logits(edits), atol=1e-5, rtol=1e-5)
        assert torch.equal(runs[0].generate(edits, 6), runs[1].generate(edits, 6))


def test_arms_run_together_equal_arms_run_alone(model, cases, random):
    run = LastToken.of(model, cases, batch_size=7)
    arms = [{}, {SITES[1]: steer(random(12, 24))}, {SITES[2]: steer(random(12, 24)), SITES[5]: steer(random(1, 24))},
            {SITES[1]: move_to(random(12, 24), random(12))}, {}]
    together, acts = run.logits_many(arms, read=[Site("resid_post", 1)])
    for arm, logits, x in zip(arms, together, acts[Site("resid_post", 1)], strict=True):
        alone, seen = LastToken.of(model, cases).logits(arm, read=[Site("resid_post", 1)])
        torch.testing.assert_close(logits, alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(x, seen[Site("resid_post", 1)], atol=1e-5, rtol=1e-5)
    numbers = run.measure(arms, lambda logits, places: torch.stack([logits.sum(-1), places.to(logits)], dim=-1))
    torch.testing.assert_close(numbers[..., 0], together.sum(-1))
    assert torch.equal(numbers[0, :, 1], torch.arange(12.0))


def test_arms_that_enter_above_the_blocks_they_leave_alone_equal_whole_passes(model, cases, random):
    arms = [{}, *({site: steer(random(12, 24), 1.5)} for site in SITES[::-1]),
            {site: steer(random(1, 24)) for site in SITES[3:]}]
    run, whole_passes = (LastToken.of(model, cases, batch_size=7) for _ in range(2))
    whole_passes._resumable = dict.fromkeys(range(4), False)
    entered = run.logits_many(arms)
    torch.testing.assert_close(entered, whole_passes.logits_many(arms), atol=1e-5, rtol=1e-5)
    for edits, logits in zip(arms, entered, strict=True):
        torch.testing.assert_close(logits, whole(model, cases.tokens, cases.lengths, edits), atol=1e-5, rtol=1e-5)
    assert all(run._resumable.values()) and set(run._resumable) == ({1, 2, 3} if run.shares_prefix else set())


def test_blocks_below_the_first_edit_run_once(gpt2, cases, random):
    ran, run = [0, 0, 0], LastToken.of(gpt2, cases)
    run._resumable = dict.fromkeys(range(4), True)
    run.logits()  # keys and values of all but the last token

    def count(layer):
        def passed(module, args, output):
            ran[layer] += len(args[0])
        return gpt2.blocks[layer].ln1.register_forward_hook(passed)

    handles = [count(layer) for layer in range(3)]
    for _ in range(2):
        run.logits_many([{Site("resid_post", 1): steer(random(24))} for _ in range(10)])
    for handle in handles:
        handle.remove()
    assert ran == [12, 12, 12 + 2 * 120]


def test_arms_scored_together_have_the_numbers_of_arms_scored_alone(gpt2, cases, random, monkeypatch):
    def score(logits, places):
        return torch.stack([logits.log_softmax(-1)[:, 3], logits.sum(-1) + places], dim=-1)

    run, arms = LastToken.of(gpt2, cases), [{}, *({site: steer(random(12, 24))} for site in SITES)]
    together = run.measure(arms, score)
    monkeypatch.setattr(_last_token, "SCORED", 1)
    assert torch.equal(together, run.measure(arms, score)) and together.shape == (7, 12, 2)


def test_identity_edit_leaves_logits_bit_equal(model, cases):
    run = LastToken.of(model, cases)
    same = {site: lambda x, rows: x for site in SITES}
    assert torch.equal(run.logits(same), run.logits())
    assert torch.equal(run.logits({SITES[1]: steer(torch.ones(24), 0.0)}), run.logits())


def test_adding_and_taking_away_is_no_edit(model, cases, random):
    run, v = LastToken.of(model, cases), random(12, 24)
    there_and_back = {site: compose(steer(v, 1.0), steer(v, -1.0)) for site in SITES}
    torch.testing.assert_close(run.logits(there_and_back), run.logits(), atol=1e-5, rtol=1e-5)


def test_steering_adds_the_vector_to_the_stream(model, cases, random):
    v, run = random(12, 24), LastToken.of(model, cases)
    for edited, seen in ((Site("resid_post", 1), Site("resid_post", 1)), (Site("resid_post", 0), Site("resid_pre", 1)),
                         (Site("mlp_out", 1), Site("resid_post", 1))):
        before, after = (run.logits(e, read=[seen])[1][seen] for e in ({}, {edited: steer(v)}))
        torch.testing.assert_close(after - before, v, atol=1e-5, rtol=1e-5)


def test_reading_sees_what_the_edit_left(gpt2, cases, random):
    edits, site = {Site("resid_post", 0): steer(random(12, 24))}, Site("resid_post", 2)
    _, acts = LastToken.of(gpt2, cases).logits(edits, read=[site])
    _, expected = whole(gpt2, cases.tokens, cases.lengths, edits, site)
    torch.testing.assert_close(acts[site], expected, atol=1e-5, rtol=1e-5)


def test_an_edit_at_an_earlier_position_after_the_last_block_changes_nothing(model, random):
    tokens = torch.randint(1, 30, (2, 6), generator=torch.Generator().manual_seed(0))
    edit = hook(steer(random(2, 24), 5.0), torch.arange(2), 3)
    with torch.no_grad():
        clean = model(tokens)
        with model.hooks(fwd_hooks=[(Site("resid_post", 2).hook, edit)]):
            edited = model(tokens)
        with model.hooks(fwd_hooks=[(Site("resid_post", 1).hook, edit)]):
            matters = model(tokens)
    assert torch.equal(edited[:, -1], clean[:, -1]) and not torch.allclose(matters[:, -1], clean[:, -1], atol=1e-4)


def test_all_ones_after_the_last_block_changes_no_logit(gpt2, cases):
    run = LastToken.of(gpt2, cases)  # LayerNorm removes the mean
    moved = run.logits({Site("resid_post", 2): steer(torch.ones(24), 3.0)})
    torch.testing.assert_close(moved, run.logits(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "mistral", "native"])
def test_generate_equals_full_forwards_with_the_edit_at_its_position_every_time(models, family, cases, random):
    model, edits = models(family), {Site("resid_post", 1): steer(random(12, 24), 2.0)}
    generated = LastToken.of(model, cases, batch_size=4).generate(edits, 3)
    for case, n in enumerate(cases.lengths.tolist()):
        tokens = cases.tokens[case : case + 1, :n]
        hooks = [(s.hook, hook(e, torch.tensor([case]), n - 1)) for s, e in edits.items()]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            for _ in range(3):
                tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert tokens[0, n:].tolist() == generated[case].tolist()
    assert not torch.equal(generated, LastToken.of(model, cases).generate(n_tokens=3))


def test_arms_generated_together_are_those_generated_alone(model, cases, random):
    arms = [{}, *({Site("resid_post", 0): steer(random(12, 24), alpha)} for alpha in (1.0, 2.0, 4.0))]
    run = LastToken.of(model, cases, batch_size=8)
    together = run.generate_many(arms, 3)
    assert torch.equal(together, torch.stack([run.generate(arm, 3) for arm in arms]))


def test_model_is_as_it_was_also_after_an_exception(model, cases, random):
    before, hooks = [p.clone() for p in model.parameters()], n_hooks(model)
    run, clean = LastToken.of(model, cases), None
    clean = run.logits()

    def breaks(x, rows):
        raise RuntimeError("inside the edit")

    for call in (lambda: run.logits({SITES[1]: breaks}), lambda: run.generate({SITES[1]: breaks}, 2),
                 lambda: run.measure([{SITES[1]: steer(random(24))}], lambda logits, places: breaks(logits, places))):
        with pytest.raises(RuntimeError, match="inside the edit"):
            call()
        assert n_hooks(model) == hooks
        assert torch.equal(run.logits(), clean)
    run.generate({SITES[1]: steer(random(24))}, 3)
    assert n_hooks(model) == hooks and torch.equal(run.logits(), clean)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_selection_keeps_case_numbers_and_gives_the_same_logits(gpt2, cases, random):
    run, edits = LastToken.of(gpt2, cases), {SITES[1]: steer(random(12, 24))}
    everything = run.logits(edits)
    part = run.select(cases.cases["split"] == "report")
    assert part is run.select((cases.cases["split"] == "report").to_numpy())
    torch.testing.assert_close(part.logits(edits), everything[part.rows], atol=1e-5, rtol=1e-5)
    again = part.select([3, 1])
    torch.testing.assert_close(again.logits(edits), everything[part.rows[[3, 1]]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(LastToken.of(gpt2, cases, only=[4, 5]).logits(edits), everything[4:6],
                               atol=1e-5, rtol=1e-5)


def test_prefixes_beyond_the_budget_are_computed_again_with_the_same_result(gpt2, cases, random):
    edits = {SITES[1]: steer(random(12, 24))}
    kept, lean = LastToken.of(gpt2, cases), LastToken.of(gpt2, cases, keep_bytes=4000)
    assert torch.equal(kept.logits(edits), lean.logits(edits)) and torch.equal(kept.logits(edits), lean.logits(edits))
    held = [b.prefix is not None for b in lean._batches]
    assert not all(held) and lean._kept <= 4000 < kept._kept


def test_no_pass_is_larger_than_asked(gpt2, cases, random):
    seen, run = [], LastToken.of(gpt2, cases, batch_size=6, batch_tokens=24)
    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_in", lambda resid, hook: seen.append(tuple(resid.shape[:2])))]):
        run.logits_many([{SITES[1]: steer(random(24))} for _ in range(9)])
    assert max(batch for batch, _ in seen) <= 6 and max(batch * pos for batch, pos in seen) <= 24


def test_the_prompt_column_of_cases_says_which_tokens(gpt2, cases):
    from dataclasses import replace

    turned = replace(cases, cases=cases.cases.assign(prompt=range(11, -1, -1)))
    torch.testing.assert_close(LastToken.of(gpt2, turned).logits(), LastToken.of(gpt2, cases).logits().flip(0),
                               atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("edits", "message"), [
    ({Site("resid_mid", 1): steer(torch.ones(24))}, "edit attn_out.1 instead"),
    ({Site("resid_post", 7): steer(torch.ones(24))}, "no site resid_post.7"),
    ({Site("resid_post", 1): steer(torch.ones(16))}, "16 wide, the model's stream is 24 wide"),
    ({Site("resid_post", 1): compose(steer(torch.ones(16)))}, "16 wide"),
    ({Site("resid_post", 1): steer(torch.ones(5, 24))}, "for 5 cases, but there is a case number 11"),
])
def test_an_edit_that_does_not_fit_is_refused_before_anything_runs(gpt2, cases, edits, message):
    with pytest.raises(ValueError, match=message):
        LastToken.of(gpt2, cases).logits(edits)


def test_cases_that_do_not_fit_are_refused(models, cases):
    gpt2 = models("gpt2")
    with pytest.raises(ValueError, match="lengths must lie in 1..12"):
        LastToken(gpt2, cases.tokens, cases.lengths * 0)
    with pytest.raises(ValueError, match="the model's context is 20"):
        LastToken(gpt2, torch.ones(2, 24, dtype=torch.long), torch.tensor([3, 24]))
    with pytest.raises(ValueError, match="within the context of 20"):
        LastToken.of(gpt2, cases).generate(n_tokens=15)
    with pytest.raises(ValueError, match="key/value cache"):
        LastToken.of(models("native"), cases, share_prefix=True)
