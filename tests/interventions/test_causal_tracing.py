"""Blurred subjects and restored states are what plain hooks and full forward passes say, and find where a fact is."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from interventions import block_sites, causal_tracing
from interventions._causal_tracing import NoisedRun, layer_windows
from probing import Site, load_model, validate
from tasks import decoy
from tests.interventions.pairs import cached

FAMILIES = ("gpt2", "llama", "neox")


@pytest.fixture(params=FAMILIES)
def family(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def long_cases(cases):
    """Prompts of 3 tokens and more, all to report on."""
    kept = (cases.lengths > 2).nonzero()[:, 0][:5].numpy()
    table = cases.cases.iloc[kept].assign(split="report", **{"pos:subject": 1}).reset_index(drop=True)
    return replace(cases, cases=table, right_before=cases.right_before[kept], right_after=cases.right_after[kept])


def nearness(model, cases):
    """Minus the squared distance to the clean logits: every noise takes from it."""
    clean = []
    for case in cases.cases["prompt"]:
        with torch.no_grad():
            clean.append(model(cases.tokens[case : case + 1, : cases.lengths[case]])[0, -1].double())

    def near(logits, numbers):
        return -(logits.double() - torch.stack(clean)[numbers]).square().sum(-1)

    return near


def cells(table, control=None):
    kind = table["control"].isna() if control is None else table["control"] == control
    return table[(table["intervention"] == "restore") & kind].reset_index(drop=True)


def test_restoring_a_state_is_what_plain_hooks_say(family, long_cases):
    metric = nearness(family, long_cases)
    run = NoisedRun(family, long_cases, 1, metric, noise=5, n_noise=2)
    windows = [(Site("resid_post", 0),), (Site("mlp_out", 1), Site("mlp_out", 2)), (Site("resid_pre", 0),)]
    where = {"last": -1, "subject": 1, "all": None}
    asked = [(sites, name) for sites in windows for name in where]
    patched = run.patch(asked, where, n_random=0)["denoise"]
    for (sites, name), each in zip(asked, patched, strict=True):
        expected = []
        for row in range(len(run)):
            n, tokens = int(run.pairs.lengths[row]), run.pairs.clean[row]
            sample = run._index[run.numbers[row]][:n]
            kept = cached(family, tokens, n, [site.hook for site in sites])
            at = range(n) if where[name] is None else [where[name] % n]

            def blur(x, hook, sample=sample):
                return x + torch.where(sample[:, None] >= 0, run._noise[sample.clamp_min(0)], 0)

            def restore(x, hook, name, kept=kept, at=at):
                x = x.clone()
                x[:, list(at)] = kept[name][:, list(at)]
                return x

            hooks = [("hook_embed", blur), *((s.hook, partial(restore, name=s.hook)) for s in sites)]
            with torch.no_grad(), family.hooks(fwd_hooks=hooks):
                logits = family(tokens[None, :n])[:, -1]
            expected.append(float(metric(logits, torch.tensor([run.numbers[row] // 2]))))
        gain = np.array(expected) - run.values["corrupted"]
        np.testing.assert_allclose(each.gains[0], gain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*FAMILIES, "bert"])
def test_restoring_every_position_of_the_stream_undoes_the_noise(models, name, long_cases):
    model = models(name)
    table = causal_tracing(model, long_cases, 1, block_sites(model, ["resid_pre"]), ["all"], noise=5, n_noise=2,
                           metric=nearness(model, long_cases), n_random=0)
    assert cells(table)["value"].to_numpy() == pytest.approx(np.ones(3), abs=1e-4)


def test_noise_is_on_the_subject_alone_and_three_standard_deviations_of_its_embeddings(gpt2, long_cases):
    run = NoisedRun(gpt2, long_cases, 1, nearness(gpt2, long_cases), noise=3.0, n_noise=40)
    embedded = gpt2.original_model.transformer.wte.weight[run.pairs.clean[:, 1]]
    assert run.embedding_sd == pytest.approx(float(embedded[:: run.n_noise].double().std()), rel=1e-5)
    site = Site("resid_pre", 0)
    change = run.read("corrupted", [site])[site] - run.read("clean", [site])[site]
    assert change[:, [0, 2]].eq(0).all()
    assert float(change[:, 1].std()) == pytest.approx(3 * run.embedding_sd, rel=0.03)
    assert len(torch.unique(change[:, 1], dim=0)) == len(run) == 5 * 40
    again, other = (NoisedRun(gpt2, long_cases, 1, nearness(gpt2, long_cases), n_noise=40, seed=s) for s in (0, 1))
    assert torch.equal(again._noise, run._noise) and not torch.equal(other._noise, run._noise)


def test_subjects_of_several_lengths_are_marked_by_a_mask(gpt2, long_cases):
    prompt = long_cases.cases["prompt"].to_numpy(copy=True)
    mask = torch.zeros(5, long_cases.tokens.shape[1], dtype=torch.bool)
    mask[:, 1] = True
    metric = nearness(gpt2, long_cases)
    one, same = (NoisedRun(gpt2, long_cases, subject, metric, n_noise=2) for subject in (1, mask))
    np.testing.assert_array_equal(one.values["corrupted"], same.values["corrupted"])
    mask[0, 0] = True
    assert (NoisedRun(gpt2, long_cases, mask, metric, n_noise=2)._index[:2] >= 0).sum() == 4
    shortest = int(long_cases.lengths[prompt].argmin())
    mask[shortest, long_cases.lengths[prompt[shortest]]] = True
    with pytest.raises(ValueError, match="reaches beyond its prompt"):
        NoisedRun(gpt2, long_cases, mask, metric)


def test_windows_are_runs_of_layers_of_one_stream():
    mlp, z = [Site("mlp_out", layer) for layer in range(4)], [Site("z", layer, head=1) for layer in (0, 2)]
    assert layer_windows([*mlp, *z], 1) == [(site,) for site in [*mlp, *z]]
    assert layer_windows([*mlp, *z], 3) == [tuple(mlp[:3]), tuple(mlp[1:])]
    for n in (0, 5):
        with pytest.raises(ValueError, match=f"no window of {n} consecutive layers"):
            layer_windows([*mlp, *z], n)


def test_rows_are_valid_and_say_the_dose_and_the_window(gpt2, long_cases):
    table = validate(causal_tracing(gpt2, long_cases, 1, block_sites(gpt2, ["mlp_out"]), ["subject", -1], window=2,
                                    noise=5, n_noise=2, metric=nearness(gpt2, long_cases)))
    own = cells(table)
    assert own[["layer", "layer_end", "positions"]].values.tolist() == [
        [0, 1, "subject"], [0, 1, "last"], [1, 2, "subject"], [1, 2, "last"]]
    assert (own["alpha"] == 5).all() and (own["unit"] == "embedding sd").all() and own["p_adjusted"].notna().all()
    assert (cells(table, "random_direction")["n"] == 20).all()


def test_what_the_question_asks_is_restored_at_the_question_then_at_the_last_token():
    cases = decoy.cases("end", n=40)
    model, question = load_model("decoy", device="cpu"), cases.lengths - 2
    table = causal_tracing(model, cases, question, block_sites(model, ["resid_pre"]),
                           {"question": question, "last": -1}, n_noise=3, n_random=0)
    grid = cells(table).pivot(index="layer", columns="positions", values="value")
    assert grid.loc[0, "question"] == pytest.approx(1, abs=1e-4) and grid.loc[0, "last"] == 0
    assert grid.loc[2, "last"] == pytest.approx(1, abs=0.05) and abs(grid.loc[2, "question"]) < 0.02


@pytest.mark.parametrize(("change", "message"), [
    (dict(n_noise=0), "noise is 3.0 standard deviations in 0 samples"),
    (dict(noise=0), "noise is 0 standard deviations in 10 samples"),
    (dict(subject=11), "position 11 is outside case"),
    (dict(n_random=7), "at least 20 draws"),
    (dict(window=4), "no window of 4 consecutive layers"),
    (dict(positions=[40]), "position 40 is outside case 0"),
])
def test_what_cannot_be_traced_is_refused(gpt2, long_cases, change, message):
    asked = dict(subject=1, metric=nearness(gpt2, long_cases)) | change
    with pytest.raises(ValueError, match=message):
        causal_tracing(gpt2, long_cases, **asked)
