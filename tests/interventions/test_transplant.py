"""States moved between prompts, layers and positions, and what they say of the tokens that follow."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from interventions import LastToken, Sequences, future_lens, transplant
from interventions._transplant import state_at
from probing import Site, load_model, validate
from tasks import decoy
from tests.interventions.pairs import cached


@pytest.fixture(params=["gpt2", "llama", "neox"])
def family(request, models):
    return models(request.param)


def targets(cases):
    """Other prompts, of at least 4 tokens."""
    return cases.tokens.roll(1, 0).clamp_min(1), cases.lengths.roll(1).clamp_min(4)


def test_after_the_last_block_a_state_brings_its_own_logits_along(family, cases):
    source, target = Sequences.of(family, cases), Sequences(family, *targets(cases))
    moved = target.logits(transplant(source, Site("resid_post", 2)))
    torch.testing.assert_close(moved, source.logits(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved, target.logits(), atol=0.1)


def test_a_state_put_back_where_it_was_changes_nothing(family, cases):
    run, middle = Sequences.of(family, cases), cases.lengths // 2
    for read in (Site("resid_post", 1), Site("mlp_out", 0), Site("z", 1, head=2)):
        assert torch.equal(run.logits(transplant(run, read, read_at=middle, write_at=middle)), run.logits())


@pytest.mark.parametrize(("read", "write"), [
    (Site("resid_post", 2), Site("resid_pre", 0)), (Site("resid_pre", 1), Site("resid_post", 1)),
    (Site("mlp_out", 0), Site("attn_out", 2)), (Site("z", 0, head=3), Site("z", 2, head=1))])
def test_states_go_to_other_layers_positions_and_heads(family, cases, read, write):
    source, target = Sequences.of(family, cases), Sequences(family, *targets(cases))
    read_at = cases.lengths // 2
    came = target.logits(transplant(source, read, write, read_at=read_at, write_at=1))
    for case in range(0, 12, 3):
        n, m = int(cases.lengths[case]), int(target.lengths[case])
        state = cached(family, cases.tokens[case], n, [read.hook])[read.hook][0, read_at[case]]

        def put(x, hook, state=state):
            x = x.clone()
            if write.head is None:
                x[0, 1] = state
            else:
                x[0, 1, write.head] = state[read.head]
            return x

        with torch.no_grad(), family.hooks(fwd_hooks=[(write.hook, put)]):
            expected = family(target.tokens[case : case + 1, :m])[0, -1]
        torch.testing.assert_close(came[case], expected, atol=1e-5, rtol=1e-5)


def test_one_state_may_serve_all_targets(gpt2, cases):
    one, target, site = Sequences.of(gpt2, cases, only=[3]), Sequences(gpt2, *targets(cases)), Site("resid_post", 2)
    moved = target.logits(transplant(one, site))
    torch.testing.assert_close(moved, one.logits().expand(12, -1), atol=1e-5, rtol=1e-5)
    assert torch.equal(state_at(one, site), one.read([site])[site][:, cases.lengths[3] - 1])


def test_the_state_of_the_last_block_says_the_next_token_and_the_prompt_alone_does_not(gpt2, cases):
    reported = replace(cases, cases=cases.cases.assign(split="report"))
    prompt = torch.tensor([4, 9, 2, 11])
    table = validate(future_lens(gpt2, reported, prompt, [Site("resid_post", 1), Site("resid_post", 2)], n_tokens=2))
    own = table[table["control"].isna()].set_index(["layer", "subset"])
    assert own["value"][2, "ahead=1"] == 1 and own["n"].eq(12).all() and own["n_groups"].eq(6).all()
    assert len(own) == 4 and (table[table["control"] == "random_direction"]["n"] == 20).all()
    run, target = LastToken.of(gpt2, reported), LastToken(gpt2, prompt.expand(12, -1), torch.full((12,), 4))
    truth, plain = run.generate({}, 2), target.generate({}, 2)
    null = table[table["control"] == "null"].set_index("subset")["value"]
    for step in range(2):
        assert null[f"ahead={step + 1}"] == float((plain[:, step] == truth[:, step]).double().mean())
    site = Site("resid_post", 1)
    state = Sequences.of(gpt2, reported).read([site])[site][torch.arange(12), cases.lengths - 1]
    edited = target.generate({site: partial(lambda x, rows, state: state[rows], state=state)}, 2)
    for step in range(2):
        assert own["value"][1, f"ahead={step + 1}"] == float((edited[:, step] == truth[:, step]).double().mean())


def test_the_answer_enters_the_last_state_layer_by_layer():
    """Below the last layer the letters are still looked up in the prompt that the state stands in."""
    model, cases = load_model("decoy", device="cpu"), decoy.cases("end", n=60)
    prompt = decoy.sequences(1, seed=9)
    table = future_lens(model, cases, torch.from_numpy(prompt["tokens"][0, : prompt["lengths"][0]]), n_tokens=1,
                        n_random=0)
    value = table[table["control"].isna()].set_index("layer")["value"]
    null = table[table["control"] == "null"]["value"].item()
    assert null < 0.2 < value[0] <= value[1] < 0.8 < value[2] == 1


def test_states_written_elsewhere_say_where_they_come_from(gpt2, cases):
    reported = replace(cases, cases=cases.cases.assign(split="report"))
    table = validate(future_lens(gpt2, reported, torch.tensor([4, 9]), [Site("resid_post", 0), Site("resid_post", 2)],
                                 write=Site("resid_post", 1), n_tokens=1))
    own = table[table["control"].isna()]
    assert own["probe"].tolist() == ["state of resid_post.0", "state of resid_post.2"] and own["layer"].eq(1).all()
    assert np.isfinite(own[["applied_norm", "norm_share"]].to_numpy(float)).all()


@pytest.mark.parametrize(("asked", "message"), [
    (dict(read=Site("z", 1, head=1), write=Site("resid_post", 1)), "z.1.1 is 6 wide, resid_post.1 is 24"),
    (dict(read=Site("resid_post", 5)), "its layers are 0 to 2"),
    (dict(read=Site("resid_post", 1), write=Site("resid_mid", 1)), "resid_mid.1 cannot be edited"),
    (dict(read=Site("resid_post", 1), read_at=20), "position 20 is outside case 0"),
    (dict(read=Site("resid_post", 1), read_at=torch.zeros(12, 2, dtype=torch.long)), "24 positions for 12 prompts"),
])
def test_states_that_do_not_fit_are_refused(gpt2, cases, asked, message):
    with pytest.raises(ValueError, match=message):
        transplant(Sequences.of(gpt2, cases), **asked)


def test_a_lens_without_cases_or_draws_is_refused(gpt2, cases):
    with pytest.raises(ValueError, match="no case of split 'test'"):
        future_lens(gpt2, cases, torch.tensor([1, 2]), split="test")
    with pytest.raises(ValueError, match="at least 20 draws"):
        future_lens(gpt2, cases, torch.tensor([1, 2]), n_random=4)
