"""Running only the layers above the first edit is exact: the oracle is a full forward pass with plain hooks."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from interventions import At, LastToken, Sequences, patch_from, steer
from probing._sites import Site

SITES = {Site("resid_pre", 1): 24, Site("resid_post", 0): 24, Site("attn_out", 2): 24, Site("mlp_out", 1): 24,
         Site("z", 1): 24, Site("z", 2, head=3): 6, Site("resid_post", 2): 24}
FAMILIES = ("gpt2", "llama", "neox", "mistral", "native", "bert")


@pytest.fixture(params=FAMILIES)
def any_model(request, models):
    return models(request.param)


def d_mlp(model) -> int:
    return model.blocks[0].mlp.out.original_component.weight.numel() // 24


def whole(model, cases, edits, positions=None):
    """Logits at every position of every case, edits (of all positions unless given) as plain hooks; one full forward
    pass per case, nothing shared."""
    out = []
    for case, n in enumerate(cases.lengths.tolist()):
        where = slice(None) if positions is None else [p % n for p in positions[case]]

        def plain(acts, hook, site, edit, case=case, where=where):
            acts = acts.clone()
            part = acts[0] if site.head is None else acts[0, :, site.head]
            new = edit(part[where].flatten(1), torch.full((len(part[where]),), case))
            part[where] = new.view_as(part[where])
            return acts

        hooks = [(site.hook, partial(plain, site=site, edit=edit)) for site, edit in edits.items()]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            out.append(model(cases.tokens[case : case + 1, :n])[0])
    return out


def test_logits_are_those_of_full_forward_passes(any_model, cases, random):
    sites = SITES | {Site("mlp_post", 1): d_mlp(any_model)}
    positions = torch.stack([torch.zeros(12, dtype=torch.long), cases.lengths - 1], 1)
    run = Sequences.of(any_model, cases, positions=positions)
    arms = [{}, *({site: steer(random(12, width))} for site, width in sites.items()),
            {site: steer(random(12, width)) for site, width in sites.items()}]
    logits = run.logits_many([{site: At(edit) for site, edit in arm.items()} for arm in arms])
    for arm, came in zip(arms, logits, strict=True):
        full = torch.stack([each[[0, -1]] for each in whole(any_model, cases, arm)])
        torch.testing.assert_close(came, full, atol=1e-5, rtol=1e-5)
        assert not arm or not torch.allclose(came, logits[0], atol=1e-3)
    assert all(run._resumable.values()) and len(run._resumable) == 4  # layers 0 (any), 1, 2 and none


def test_only_the_named_positions_are_edited(any_model, cases, random):
    at = torch.stack([torch.zeros(12, dtype=torch.long), torch.full((12,), -1)], 1)
    edit = steer(random(12, 24), 2.0)
    run = Sequences.of(any_model, cases, positions=0)
    for site in (Site("resid_post", 0), Site("attn_out", 1), Site("z", 1)):
        full = torch.stack([each[0] for each in whole(any_model, cases, {site: edit}, at.tolist())])
        torch.testing.assert_close(run.logits({site: At(edit, at)}), full, atol=1e-5, rtol=1e-5)
        both = run.logits({site: [At(edit, 0), At(edit, at[:, 1])]})
        torch.testing.assert_close(both[cases.lengths > 1], full[cases.lengths > 1], atol=1e-5, rtol=1e-5)


def test_arms_of_all_layers_together_and_in_small_batches_equal_arms_alone(any_model, cases, random):
    arms = [{Site("resid_post", layer): At(steer(random(12, 24)), 0)} for layer in (2, 0, 1)] + [{}]
    together = Sequences.of(any_model, cases, batch_tokens=20).logits_many(arms)
    for arm, logits in zip(arms, together, strict=True):
        torch.testing.assert_close(Sequences.of(any_model, cases).logits(arm), logits, atol=1e-5, rtol=1e-5)
    score = Sequences.of(any_model, cases).measure(
        arms, lambda logits, places: torch.stack([logits.sum(-1), places.float()], -1))
    torch.testing.assert_close(score[..., 0], together.sum(-1), atol=1e-4, rtol=1e-4)
    assert torch.equal(score[1, :, 1], torch.arange(12.0))


def test_a_bare_edit_is_that_of_the_last_token(model, cases, random):
    for site, width in (SITES | {Site("mlp_post", 1): d_mlp(model)}).items():
        edits = {site: steer(random(12, width))}
        expected = LastToken.of(model, cases).logits(edits)
        torch.testing.assert_close(Sequences.of(model, cases).logits(edits), expected, atol=1e-5, rtol=1e-5)
        by_hand = [each[-1] for each in whole(model, cases, edits, [[-1]] * 12)]
        torch.testing.assert_close(expected, torch.stack(by_hand), atol=1e-5, rtol=1e-5)


def test_blocks_below_the_first_edit_run_once(gpt2, cases, random):
    ran = [0, 0, 0]

    def count(layer):
        def passed(module, args, output):
            ran[layer] += len(args[0])
        return gpt2.blocks[layer].ln1.register_forward_hook(passed)

    handles = [count(layer) for layer in range(3)]
    run = Sequences.of(gpt2, cases)
    run._resumable = dict.fromkeys(range(4), True)
    run.logits_many([{Site("resid_post", 1): At(steer(random(24)))} for _ in range(10)])
    assert ran == [12, 12, 120]
    for handle in handles:
        handle.remove()


def test_reading_and_putting_back_is_the_whole_other_run(any_model, cases):
    """Everything from another prompt of the same length, at the stream of any layer, gives that prompt's logits."""
    equal = replace(cases, lengths=torch.full((12,), 7), tokens=cases.tokens.clamp_min(1))
    run, site = Sequences.of(any_model, equal), Site("resid_pre", 1)
    other = torch.arange(12).roll(1)
    source = run.read([site])[site][other].flatten(0, 1)
    torch.testing.assert_close(run.logits({site: At(patch_from(source), by="token")}), run.logits()[other],
                               atol=1e-5, rtol=1e-5)


def test_reading_sees_what_the_edit_left(any_model, cases, random):
    run, site, v = Sequences.of(any_model, cases), Site("resid_post", 1), random(12, 24)
    before, after = run.read([site, Site("z", 2, head=1)]), run.read([site], {site: At(steer(v), 0)})
    torch.testing.assert_close(after[site][:, 0] - before[site][:, 0], v, atol=1e-5, rtol=1e-5)
    assert torch.equal(after[site][:, 1:], before[site][:, 1:])
    assert before[Site("z", 2, head=1)].shape == (12, 12, 6)
    padding = torch.arange(12) >= cases.lengths[:, None]
    assert not before[site][padding].any() and before[site][~padding].any(-1).all()


def test_constants_may_differ_by_position_and_by_token(gpt2, cases, random):
    run, site, table = Sequences.of(gpt2, cases), Site("mlp_out", 1), random(12, 24)
    by_position = run.logits({site: At(patch_from(table), by="position")})
    by_token = run.logits({site: At(patch_from(table.repeat(12, 1)), by="token")})
    by_case = torch.stack([each[-1] for each in whole(gpt2, cases, {site: lambda x, rows: table[: len(x)]})])
    assert torch.equal(by_position, by_token)
    torch.testing.assert_close(by_position, by_case, atol=1e-5, rtol=1e-5)


def test_a_selection_keeps_case_numbers(gpt2, cases, random):
    run, edits = Sequences.of(gpt2, cases), {Site("resid_post", 1): At(steer(random(12, 24)), cases.lengths - 1)}
    part = run.select([3, 1])
    assert part.rows.tolist() == [3, 1] and len(part) == 2
    torch.testing.assert_close(part.logits(edits), run.logits(edits)[[3, 1]], atol=1e-5, rtol=1e-5)


def test_model_is_as_it_was_also_after_an_exception(any_model, cases, random):
    def breaks(x, rows):
        raise RuntimeError("inside the edit")

    def state():
        return [(name, len(m._forward_hooks), len(m._forward_pre_hooks), vars(m).get("forward"))
                for name, m in any_model.named_modules()]

    run, before = Sequences.of(any_model, cases), [p.clone() for p in any_model.parameters()]
    clean, modules = run.logits(), state()
    with pytest.raises(RuntimeError, match="inside the edit"):
        run.logits({Site("resid_post", 1): At(breaks)})
    with pytest.raises(RuntimeError, match="inside the edit"):
        run.measure([{Site("mlp_out", 1): At(steer(random(24)))}], breaks)
    assert state() == modules and torch.equal(run.logits(), clean)
    assert all(torch.equal(p, q) for p, q in zip(any_model.parameters(), before, strict=True))
