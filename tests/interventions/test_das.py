"""Distributed alignment search finds the direction that was planted, and nothing where nothing decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import interchange as lens

from interventions import LastToken, das_effect, fit_das, interchange_pairs, patch_from
from interventions._das import _qf
from interventions._interchange import shuffled
from interventions._pair_run import PairRun, random_subspaces
from probing import Site, Subspace, load_model, validate
from tasks import decoy, othello

SITE = Site("resid_post", decoy.PLANTED_LAYER)
MODELS = ("decoy", "decoy-1", "decoy-2")


def claimed(scheme: str, n: int = 600):
    """Cases under the claim that the scheme decides the answer: true of `end`, false of `mark`."""
    return replace(decoy.cases(scheme, n=n), right_after=decoy.cases("end", n=n).right_after)


@pytest.fixture(scope="module")
def runs():
    """(model name, scheme) -> PairRun, made once."""
    made = {}

    def get(name: str, scheme: str) -> PairRun:
        if (name, scheme) not in made:
            made[name, scheme] = PairRun(load_model(name, device="cpu"), interchange_pairs(claimed(scheme)), SITE)
        return made[name, scheme]

    return get


def test_pairs_differ_in_the_label_or_agree_in_it_and_never_leave_their_part():
    pairs = interchange_pairs(claimed("mark"), per_value=3)
    values, bases = pairs.values[pairs.sources], pairs.bases
    assert (values[:, pairs.changed] == bases["becomes"].to_numpy()[:, None]).all()
    assert (values[:, ~pairs.changed] == bases["was"].to_numpy()[:, None]).all()
    assert (pairs.parts[pairs.sources] == bases["part"].to_numpy()[:, None]).all()
    group = bases["group"].to_numpy()
    assert all(len(set(bases["part"][group == g])) == 1 for g in np.unique(group))
    assert (group[pairs.sources] != group[:, None]).all()
    assert pairs.digest == interchange_pairs(claimed("mark"), per_value=3).digest != shuffled(pairs).digest


def test_sources_may_be_any_labelled_prompts():
    cases, prompts = claimed("end"), decoy.load(n=500)
    pairs = interchange_pairs(cases, sources=prompts)
    assert (pairs.values[pairs.sources[:, 0]] == pairs.bases["becomes"]).all()
    rows = {tuple(r) for r in prompts.tokens.tolist()}
    assert all(tuple(pairs.tokens[s].tolist()) in rows for s in pairs.sources[:20].ravel())


def test_bad_pairs_say_what_to_do():
    with pytest.raises(ValueError, match="a subspace is about one; choose it with target="):
        interchange_pairs(othello.cases("natural", n=20, size=6))
    with pytest.raises(ValueError, match="no case changes 'question'"):
        interchange_pairs(claimed("end"), "question")
    with pytest.raises(ValueError, match=r"no label 'end/answer'; .*'mark'"):
        prompts = decoy.load(n=300)
        interchange_pairs(claimed("end"), sources=replace(prompts, examples=prompts.examples.drop(
            columns="end/answer")))


def test_a_swap_of_all_dimensions_is_activation_patching_and_of_oneself_nothing(runs):
    run = runs("decoy", "end")
    everything = Subspace(_qf(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).T)
    patched = run.run.logits({SITE: patch_from(run.source(0))})
    torch.testing.assert_close(run.run.logits(run.swaps(everything)[0]), patched, atol=1e-5, rtol=1e-5)
    itself = patch_from(run.base(), random_subspaces(32, 3, 1)[0].basis.float()[None])
    torch.testing.assert_close(run.run.logits({SITE: itself}), run.run.logits(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, None])
def test_the_rotation_stays_orthonormal(runs, rank):
    basis = fit_das(runs("decoy", "end"), runs("decoy", "end").pairs, SITE, rank, steps=5).subspace.basis
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_das_finds_what_decides_the_answer(runs, name):
    run = runs(name, "end")
    found = fit_das(run, run.pairs, SITE)
    cosine = abs(float(found.subspace.basis[0] @ decoy.planted(name)["end"]))
    assert found.iia["report"] >= 0.99
    assert cosine > 0.6  # of two random directions in 32 dimensions, 0.35 is the 95th percentile
    assert found.history["validation"].min() < 0.01


def test_das_finds_nothing_for_a_label_that_decides_nothing(runs):
    run = runs("decoy", "mark")
    assert fit_das(run, run.pairs, SITE, steps=60).iia["report"] < 0.6  # a swap of nothing has 0.5


def test_the_table_holds_every_control(runs):
    run = runs("decoy-1", "end")
    table = validate(das_effect(run, run.pairs, SITE, steps=100))
    rows = table[(table["split"] == "report") & (table["subset"] == "all")]
    value = rows.set_index(rows["control"].fillna("das"))["value"]
    assert set(value.index) == {"das", "null", "full_swap", "random_direction", "random_subspace", "shuffled_labels",
                                "random_init"}
    assert value["das"] > 0.95 > 0.7 > max(value.drop("das"))
    assert value["null"] == pytest.approx(0.5) and value["random_init"] < 0.15
    with pytest.raises(ValueError, match="at least 20 draws"):
        das_effect(run, run.pairs, SITE, n_random=5)


def test_boundless_das_finds_how_many_dimensions_it_takes(runs):
    run = runs("decoy", "end")
    found = fit_das(run, run.pairs, SITE, rank=8, boundless=True, steps=200)
    assert 1 <= found.subspace.rank < 8 and found.iia["report"] > 0.85


def test_the_same_seed_gives_the_same_subspace_and_the_model_is_left_alone(runs):
    run = runs("decoy", "end")
    before = run.run.logits()
    one, two = (fit_das(run, run.pairs, SITE, steps=5, seed=3).subspace.basis for _ in range(2))
    assert torch.equal(one, two) and torch.equal(run.run.logits(), before)
    assert all(p.grad is None for p in run.model.parameters())
    with pytest.raises(ValueError, match="rank must be between 1 and .* 32; it is 33"):
        fit_das(run, run.pairs, SITE, rank=33)


def test_training_through_the_shared_prefix_and_through_whole_sequences_agree(runs):
    pairs, model = runs("decoy", "end").pairs, runs("decoy", "end").model
    fits = [fit_das(PairRun(model, pairs, SITE, share_prefix=share), pairs, SITE, steps=5) for share in (True, False)]
    torch.testing.assert_close(fits[0].subspace.basis, fits[1].subspace.basis, atol=1e-3, rtol=0)


def test_interchange_and_iia_agree_with_transformer_lens(runs):
    run = runs("decoy", "end")
    model, length = run.model, 6
    inside = (run.run.lengths == length).numpy()
    part = run.pairs.bases["part"].to_numpy()[inside]
    tokens = run.run.tokens[inside][:, :length]
    source = run.source(0)[inside]
    at = torch.full((len(tokens),), length - 1)

    def answers(tokens):
        return model(tokens)[:, -1]

    space = random_subspaces(32, 2, 1, seed=5)[0]
    theirs = lens.run_with_intervention(model, SITE.hook, lens.SubspaceInterchange(space.basis.T.float()), tokens,
                                        source, answers, positions=at)
    ours = LastToken(model, tokens, at + 1).logits({SITE: patch_from(source, space.basis.float()[None])})
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-5, rtol=1e-5)

    frame = random_subspaces(32, 2, 1, seed=6)[0]
    placebo = lens.NormMatchedPlacebo(lens.SubspaceInterchange(space.basis.T.float()), frame.basis.T.float())
    base = run.base()
    moved = run.turned(space, frame)[0][SITE](base, torch.arange(len(base))) - base
    torch.testing.assert_close(moved.norm(dim=1), (placebo(base, run.source(0)) - base).norm(dim=1))

    sources = run.pairs.sources[inside]
    both = [run.pairs.tokens[sources[:, j]] for j in (0, -1)]
    where = [run.pairs.lengths[sources[:, j]] - 1 for j in (0, -1)]
    targets = [torch.from_numpy(r[inside].argmax(1)) for r in (run.pairs.right_after, run.pairs.right_before)]
    train, held = (torch.from_numpy(m) for m in (part != "report", part == "report"))
    result = lens.fit_das(
        model, SITE.hook, tokens[train].repeat(2, 1), torch.cat([b[train] for b in both]),
        torch.cat([t[train] for t in targets]), lambda t: model(t)[torch.arange(len(t)), (t > 0).sum(1) - 1], rank=1,
        base_positions=at[train].repeat(2), source_positions=torch.cat([w[train] for w in where]), epochs=40,
        batch_size=64, lr=0.05)
    theirs = Subspace(result.basis.T)
    found = fit_das(run, run.pairs, SITE)
    scored = run.interchange([theirs, found.subspace], "report")[..., 0].mean((1, 2))
    assert held.any() and abs(scored[0] - scored[1]) < 0.1
