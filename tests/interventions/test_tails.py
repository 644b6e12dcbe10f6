import numpy as np
import pytest
import torch

from interventions import At, LastToken, Sequences, move_to, steer
from interventions._tails import Tails, tails
from probing import Site


@pytest.fixture
def first(cases):
    """A token of every case, now early, now late."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, cases.lengths.numpy()))


def test_tails_give_the_logits_of_whole_sequences(model, cases, first, random):
    directions = random(3, len(cases), model.cfg.d_model)
    arms = [{}, {Site("resid_post", 1): At(steer(directions[0]), first)},
            {Site("resid_pre", 0): [At(steer(directions[1]), first), At(steer(directions[2]), -1)]},
            {Site("resid_post", 0): At(move_to(directions[0], 3.0), first),
             Site("resid_post", 2): steer(directions[1])}]
    try:
        run = Tails.of(model, cases, first=first)
    except ValueError as error:
        assert "key/value cache" in str(error)
        return
    whole = Sequences.of(model, cases)
    torch.testing.assert_close(run.logits_many(arms), whole.logits_many(arms), rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(run.logits_many(arms), run.logits_many(arms))  # what is kept stays as it is
    some = run.select([7, 2, 3])
    torch.testing.assert_close(some.logits(arms[2]), whole.select([7, 2, 3]).logits(arms[2]), rtol=1e-4, atol=2e-4)


def test_a_tail_without_room_to_keep_anything_gives_the_same(gpt2, cases, first, random):
    arm = {Site("resid_post", 1): At(steer(random(1, gpt2.cfg.d_model)), first)}
    kept, forgotten = (Tails.of(gpt2, cases, first=first, keep_bytes=n) for n in (2**31, 0))
    torch.testing.assert_close(kept.logits(arm), forgotten.logits(arm))


def test_an_edit_before_the_tail_is_refused(gpt2, cases, first, random):
    run = Tails.of(gpt2, cases, first=cases.lengths - 1)
    with pytest.raises(ValueError, match="before the first that is edited"):
        run.logits({Site("resid_post", 1): At(steer(random(1, gpt2.cfg.d_model)), 0)})
    with pytest.raises(ValueError, match="read with Sequences"):
        run.read([Site("resid_post", 1)])
    with pytest.raises(ValueError, match="wanted a token of each"):
        Tails.of(gpt2, cases, first=first + 20)


def test_a_wrong_beginning_is_found(gpt2, cases, first, random):
    arm = {Site("resid_post", 1): At(steer(random(1, gpt2.cfg.d_model)), -1)}
    run = Tails.of(gpt2, cases, first=cases.lengths - 1)
    run.logits(arm)
    for batch in run._batches:
        for layer in batch.prefix.layers if batch.seen else ():
            layer.values = layer.values + 1
    with pytest.raises(RuntimeError, match="off those of whole sequences"):
        for _ in run._batches:
            run.logits(arm)


def test_the_cheapest_run_is_taken(gpt2, cases, first):
    assert isinstance(tails(gpt2, cases, [-1, -1]), LastToken)
    run = tails(gpt2, cases, [first, -1])
    assert isinstance(run, Tails) and torch.equal(run.first, first)
