"""Generation under edits: with and without a cache the same tokens, and draws from the distribution itself."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from interventions import At, LastToken, Sequences, clamp, steer
from interventions._sampling import Sampling
from probing._sites import Site

SITES = {Site("resid_post", 0): 24, Site("z", 1, head=2): 6, Site("mlp_out", 1): 24, Site("resid_post", 2): 24}
FAMILIES = ("gpt2", "llama", "neox", "mistral", "native")
HOT = dict(temperature=1.3, top_k=12, top_p=0.9, seed=3)


def edits_of(random):
    return {site: steer(random(12, width), 1.5) for site, width in SITES.items()}


def by_hand(model, cases, edits, n_tokens, every_token, pick):
    """The first six cases, one at a time, the whole sequence at every step, plain hooks: nothing cached or batched.
    `edits` (site -> edit) act on the last token of the case, and on the tokens after it with `every_token`."""
    out = []
    for case, n in enumerate(cases.lengths[:6].tolist()):
        tokens = cases.tokens[case : case + 1, :n]

        def plain(acts, hook, site, case=case, n=n):
            acts = acts.clone()
            part = acts[0] if site.head is None else acts[0, :, site.head]
            where = slice(n - 1, None if every_token else n)
            part[where] = edits[site](part[where], torch.full((len(part[where]),), case))
            return acts

        hooks = [(site.hook, lambda x, hook, site=site, plain=plain: plain(x, hook, site)) for site in edits]
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            for step in range(n_tokens):
                tokens = torch.cat([tokens, pick(model(tokens)[:, -1], case, step)[:, None]], dim=1)
        out.append(tokens[0, n:])
    return torch.stack(out)


def greedy(logits, case, step):
    return logits.argmax(-1)


def drawn(logits, case, step):
    sampling = Sampling(**HOT)
    return sampling.pick(logits, sampling.uniforms(torch.tensor([case]), step + 1)[:, step])


@pytest.mark.parametrize("every_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_that_of_whole_sequences_one_at_a_time(models, family, cases, random, every_token):
    model, edits = models(family), edits_of(random)
    runs = [LastToken.of(model, cases, batch_size=7), Sequences.of(model, cases, batch_tokens=60)]
    assert runs[0].shares_prefix == (family != "native")
    for pick, how in ((greedy, {}), (drawn, HOT)):
        expected = by_hand(model, cases, edits, 4, every_token, pick)
        for run in runs:
            assert torch.equal(run.generate(edits, 4, every_token=every_token, **how)[:6], expected)
    assert not torch.equal(expected, runs[0].generate({}, 4, **HOT)[:6])


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_without_edits_it_is_hugging_faces_own_greedy_generation(models, family, cases):
    model, run = models(family), LastToken.of(models(family), cases)
    greedily = GenerationConfig(do_sample=False, max_new_tokens=6, pad_token_id=0)
    for case in (0, 5, 11):
        tokens = cases.tokens[case : case + 1, : int(cases.lengths[case])]
        out = model.original_model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=greedily)
        theirs = out[0, tokens.shape[1] :]  # ends where the end of text comes
        assert torch.equal(theirs, run.select([case]).generate({}, 6)[0, : len(theirs)]) and len(theirs) > 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "mistral"])
def test_a_cache_changes_no_token(models, family, cases, random):
    edits = edits_of(random)
    cached, whole = (LastToken.of(models(family), cases, share_prefix=share) for share in (True, False))
    for how in ({}, HOT):
        assert torch.equal(cached.generate(edits, 6, every_token=True, **how),
                           whole.generate(edits, 6, every_token=True, **how))


def test_editing_the_generated_tokens_too_is_another_intervention(gpt2, cases, random):
    run, edits = LastToken.of(gpt2, cases), edits_of(random)
    last, every = (run.generate(edits, 6, every_token=every) for every in (False, True))
    assert torch.equal(last[:, 0], every[:, 0]) and not torch.equal(last, every)
    assert torch.equal(run.generate(edits, 1), run.logits(edits).argmax(-1)[:, None])


def test_edits_at_any_position_stay_in_the_prompt_and_those_of_every_token_go_on(gpt2, cases, random):
    """The oracle runs the generated text again, as prompts, with the edits where they were."""
    site, v, edit = Site("resid_post", 0), random(12, 24), steer(random(24), 2.0)
    for at, every_token in ((At(steer(v, 3.0), 0), True), (At(steer(v, 3.0), 0), False), (At(edit), False),
                            (At(edit), True), ([At(steer(v), 0), At(edit, -1)], True)):
        new = Sequences.of(gpt2, cases).generate({site: at}, 3, every_token=every_token)
        for step in range(3):
            lengths, longest = cases.lengths + step, int(cases.lengths.max()) + step
            tokens = torch.zeros(12, longest, dtype=torch.long)
            for case, n in enumerate(cases.lengths.tolist()):
                tokens[case, : n + step] = torch.cat([cases.tokens[case, :n], new[case, :step]])
            last = cases.lengths - 1

            def again(each, last=last, step=step, every_token=every_token):
                if each.positions == 0:
                    return [each]
                if each.positions is None and not every_token:  # the prompt alone, its last token perhaps repeated
                    return [At(each.edit, torch.minimum(torch.arange(12), last[:, None]))]
                if each.positions is None:
                    return [each]
                return [At(each.edit, last + i) for i in range(step + 1)]

            arm = {site: [new_at for each in (at if isinstance(at, list) else [at]) for new_at in again(each)]}
            expected = Sequences(gpt2, tokens, lengths).logits(arm).argmax(-1)
            assert torch.equal(new[:, step], expected)


def test_constants_by_position_reach_the_generated_tokens(gpt2, cases, random):
    run, site, longest = Sequences.of(gpt2, cases), Site("z", 1, head=1), int(cases.lengths.max())
    arm = {site: At(clamp(random(longest + 3, 6)), by="position")}
    assert run.generate(arm, 4, every_token=True).shape == (12, 4)
    with pytest.raises(ValueError, match=f"one for each of {longest + 4} positions"):
        run.generate(arm, 5, every_token=True)
    with pytest.raises(ValueError, match="constants for 144 tokens, but the generated tokens"):
        run.generate({site: At(clamp(random(144, 6)), by="token")}, 2, every_token=True)
    assert run.generate({site: At(clamp(random(144, 6)), by="token")}, 2).shape == (12, 2)


@pytest.mark.parametrize("kind", [LastToken, Sequences])
def test_what_is_drawn_depends_on_the_case_and_the_seed_alone(gpt2, cases, random, kind):
    edits = {Site("resid_post", 1): steer(random(12, 24))}
    run = kind.of(gpt2, cases)
    everything = run.generate(edits, 5, temperature=1.0, seed=1)
    small = {"batch_size": 3} if kind is LastToken else {"batch_tokens": 16}
    assert torch.equal(kind.of(gpt2, cases, **small).generate(edits, 5, temperature=1.0, seed=1), everything)
    part = run.select([9, 2, 4])
    assert torch.equal(part.generate(edits, 5, temperature=1.0, seed=1), everything[[9, 2, 4]])
    assert torch.equal(run.generate(edits, 3, temperature=1.0, seed=1), everything[:, :3])
    arms = run.generate_many([{}, edits, edits], 5, temperature=1.0, seed=1)
    assert torch.equal(arms[1], everything) and torch.equal(arms[2], everything)
    assert not torch.equal(run.generate(edits, 5, temperature=1.0, seed=2), everything)


def test_sampling_at_no_temperature_is_greedy(gpt2, cases, random):
    run, edits = LastToken.of(gpt2, cases), edits_of(random)
    likeliest = run.generate(edits, 6)
    assert torch.equal(run.generate(edits, 6, temperature=1e-6), likeliest)
    assert torch.equal(run.generate(edits, 6, temperature=1.0, top_k=1), likeliest)
    assert torch.equal(run.generate(edits, 6, temperature=1.0, top_p=1e-9), likeliest)


@pytest.mark.parametrize("how", [dict(temperature=1.0), dict(temperature=0.5), dict(temperature=2.0, top_k=5),
                                 dict(temperature=1.0, top_p=0.7)])
def test_tokens_are_drawn_from_the_softmax(gpt2, cases, random, how):
    """The same prompt as 8,000 cases; the expected shares by Hugging Face's own warpers."""
    n, edits = 8000, {Site("resid_post", 1): steer(random(24))}
    run = LastToken(gpt2, cases.tokens[:1].expand(n, -1), cases.lengths[:1].expand(n), batch_size=n)
    logits = LastToken(gpt2, cases.tokens[:1], cases.lengths[:1]).logits(edits).double()
    warped = TemperatureLogitsWarper(how["temperature"])(None, logits)
    warped = TopKLogitsWarper(how["top_k"])(None, warped) if "top_k" in how else warped
    warped = TopPLogitsWarper(how["top_p"])(None, warped) if "top_p" in how else warped
    p = warped.softmax(-1)[0].numpy()
    count = np.bincount(run.generate(edits, 1, **how)[:, 0].numpy(), minlength=30)
    assert not count[p == 0].any()
    often = p * n >= 5
    seen, expected = (np.append(x[often], x[~often].sum()) for x in (count, p * n))
    kept = expected > 0
    assert chisquare(seen[kept], expected[kept] * seen.sum() / expected.sum()).pvalue > 0.01


def test_steps_are_drawn_independently():
    u = Sampling(temperature=1.0).uniforms(torch.arange(4000), 3)
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 4 / 4000**0.5
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / 12000) ** 0.5


def test_the_ends_of_the_distribution_are_never_overstepped():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, -1)
    u = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert Sampling(temperature=1.0).pick(logits, u).tolist() == [1, 2, 2]


@pytest.mark.parametrize(("how", "message"), [
    (dict(temperature=-1.0), "temperature must be 0"),
    (dict(temperature=float("nan")), "temperature must be 0"),
    (dict(temperature=1.0, top_k=0), "at least 1 token"),
    (dict(temperature=1.0, top_p=1.5), "in \\(0, 1\\]"),
    (dict(top_k=5), "temperature 0 draws"),
    (dict(temperature=1.0, seed=-1), "seed must not be negative"),
    (dict(n_tokens=15), "within the context of 20"),
    (dict(n_tokens=0), "wanted at least 1"),
])
@pytest.mark.parametrize("kind", [LastToken, Sequences])
def test_wishes_that_cannot_be_met_are_refused(gpt2, cases, kind, how, message):
    with pytest.raises(ValueError, match=message):
        kind.of(gpt2, cases).generate(**how)


def test_an_encoder_and_logits_that_are_not_a_number_are_refused(models, gpt2, cases):
    with pytest.raises(ValueError, match="is an encoder"):
        Sequences.of(models("bert"), cases).generate(n_tokens=2)
    broken = {Site("resid_post", 1): lambda x, rows: x * torch.nan}
    with pytest.raises(ValueError, match="not a number, nothing can be drawn"):
        LastToken.of(gpt2, cases).generate(broken, 2, temperature=1.0)
