"""Patches are what full forward passes with plain hooks and transformer-lens' own utilities say, and find what was
planted."""

from functools import partial

import numpy as np
import pytest
import torch
from transformer_lens import patching as lens
from transformer_lens.utilities.statistics import sign_flip_permutation_pvalue

from interventions._edits import patch_from
from interventions._patch_rows import sign_flip_p
from interventions._patch_run import PatchRun, answer_difference
from interventions._patching import activation_patching, block_sites, head_sites
from interventions._places import At
from probing import Site, Subspace, bootstrap_ratio, load_model, validate
from probing._guards import available_sites
from tasks import decoy
from tasks._pairs import token_pairs
from tests.interventions.pairs import cached, gap_metric, last_logits, make_pairs

FAMILIES = ("gpt2", "llama", "neox")
LENGTHS = [4, 6, 5, 6, 4, 5]


@pytest.fixture(params=FAMILIES)
def family(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def pairs():
    return make_pairs(LENGTHS)


def cells(table, intervention="denoise", control=None, **where):
    rows = table[(table["intervention"] == intervention)
                 & (table["control"].isna() if control is None else table["control"] == control)]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    return rows


def brute_force(model, pairs, sites, positions, metric, direction):
    """(case,) gain of a patch of some positions of every case, by plain hooks and full forward passes."""
    base, source = (pairs.corrupted, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupted)

    def hooks(case):
        n = int(pairs.lengths[case])
        put = cached(model, source[case], n, [site.hook for site in sites])
        at = [p % n for p in (range(n) if positions is None else [positions])]

        def patch(x, hook, site):
            x = x.clone()
            for p in at:
                if site.head is None:
                    x[0, p] = put[site.hook][0, p]
                else:
                    x[0, p, site.head] = put[site.hook][0, p, site.head]
            return x

        return [(site.hook, partial(patch, site=site)) for site in sites]

    every = torch.arange(len(pairs))
    before = metric(last_logits(model, base, pairs.lengths), every)
    after = metric(last_logits(model, base, pairs.lengths, hooks), every)
    return ((after - before) * (1 if direction == "denoise" else -1)).numpy()


@pytest.mark.parametrize("name", [*FAMILIES, "bert"])
def test_the_whole_stream_of_the_other_run_closes_the_whole_gap_at_every_layer(models, name, pairs):
    model = models(name)
    table = activation_patching(model, pairs, block_sites(model, ["resid_pre", "resid_post"]), ["all"],
                                metric=gap_metric(model, pairs), n_random=0)
    for direction in ("denoise", "noise"):
        assert len(cells(table, direction)) == 6
        assert cells(table, direction)["value"].to_numpy() == pytest.approx(np.ones(6), abs=1e-5)


def test_a_run_patched_into_itself_is_as_it_was(family, pairs):
    run = PatchRun(family, pairs, gap_metric(family, pairs))
    for name, sequences in run.runs.items():
        sites = [site for site in available_sites(family) if site.layer == 1 and site.stream != "resid_mid"]
        own, clean = run.read(name, sites), sequences.logits()
        for site in sites:
            again = sequences.logits({site: At(patch_from(own[site].flatten(0, 1)), None, "token")})
            assert torch.equal(again, clean)


def test_after_the_last_block_only_the_position_that_is_read_counts(family, pairs):
    table = activation_patching(family, pairs, [Site("resid_post", 2)], metric=gap_metric(family, pairs), n_random=0)
    for direction in ("denoise", "noise"):
        values = cells(table, direction).set_index("positions")["value"]
        assert values.index.tolist() == ["-4", "-3", "-2", "last"]
        assert values[:-1].eq(0).all() and values["last"] == pytest.approx(1, abs=1e-6)


def test_before_the_first_differing_token_nothing_differs(family):
    pairs = make_pairs([6] * 6, differ=3)
    table = activation_patching(family, pairs, block_sites(family), metric=gap_metric(family, pairs), n_random=0)
    early = table["positions"].isin(["0", "1", "2"])
    assert table[early & table["control"].isna()]["value"].eq(0).all()
    assert cells(table, stream="resid_pre", layer=0, positions="3")["value"].item() == pytest.approx(1, abs=1e-5)
    assert cells(table, stream="resid_pre", layer=0, positions="5")["value"].item() == 0
    assert cells(table, stream="attn_out", layer=0, positions="5")["value"].item() != 0  # it moves there by attention


def test_every_cell_equals_full_forward_passes_with_plain_hooks(family, pairs):
    metric = gap_metric(family, pairs)
    run = PatchRun(family, pairs, metric, keep_bytes=1)  # a site at a time
    where = {"all": None, "last": -1, "0": 0}
    asked = [((Site("resid_pre", 1),), "0"), ((Site("attn_out", 0),), "last"), ((Site("mlp_out", 1),), "all"),
             ((Site("z", 1, head=2), Site("mlp_out", 2)), "all"), ((Site("z", 1, head=2),), "0")]
    patched = run.patch(asked, where, ("denoise", "noise"), n_random=0)
    for direction, of in patched.items():
        for (sites, name), each in zip(asked, of, strict=True):
            assert (each.sites, each.positions) == (sites, name) and each.gains.shape == (1, 6)
            expected = brute_force(family, pairs, sites, where[name], metric, direction)
            np.testing.assert_allclose(each.gains[0], expected, rtol=1e-3, atol=1e-3 * np.abs(run.gap).max())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_maps_are_those_of_transformer_lens(models, name, capsys):
    model, pairs = models(name), make_pairs([5] * 6)
    along, every = gap_metric(model, pairs), torch.arange(6)
    _, cache = model.run_with_cache(pairs.clean)
    table = activation_patching(model, pairs, block_sites(model), metric=along, n_random=0)
    heads = activation_patching(model, pairs, head_sites(model), ["all"], metric=along, n_random=0)
    clean, corrupted = (along(last_logits(model, tokens, pairs.lengths), every).mean()
                        for tokens in (pairs.clean, pairs.corrupted))

    def mean(logits):
        return (along(logits[:, -1], every).mean() - corrupted) / (clean - corrupted)

    for stream, theirs in (("resid_pre", lens.get_act_patch_resid_pre), ("attn_out", lens.get_act_patch_attn_out),
                           ("mlp_out", lens.get_act_patch_mlp_out)):
        ours = cells(table, stream=stream).pivot(index="layer", columns="positions", values="value").to_numpy()
        np.testing.assert_allclose(ours, theirs(model, pairs.corrupted, cache, mean).numpy(), atol=2e-5)
    ours = cells(heads).pivot(index="layer", columns="head", values="value").to_numpy()
    theirs = lens.get_act_patch_attn_head_out_all_pos(model, pairs.corrupted, cache, mean)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)


@pytest.mark.parametrize("name", ["decoy", "decoy-1", "decoy-2"])
def test_the_planted_latent_closes_the_gap_and_the_decoy_does_nothing(name):
    model, site, pairs = load_model(name, device="cpu"), Site("resid_post", decoy.PLANTED_LAYER), decoy.pairs(40)
    values = {}
    for latent, direction in decoy.planted(name).items():
        table = activation_patching(model, pairs, [site], ["last"], probe=latent,
                                    spaces={site: Subspace.spanned_by(direction[None])})
        validate(table)
        for verb in ("denoise", "noise"):
            own, band = (cells(table, verb, control) for control in (None, "random_direction"))
            values[latent, verb] = own["value"].item()
            assert (own["value"].item() > band["ci_high"].item()) == (latent == "end")
            assert (own["p_adjusted"].item() < 0.05) == (latent == "end")
    assert all(values["end", verb] == pytest.approx(1, abs=0.02) for verb in ("denoise", "noise"))
    assert all(values["mark", verb] == pytest.approx(0, abs=0.02) for verb in ("denoise", "noise"))


def test_what_the_question_asks_moves_from_the_question_to_the_last_token():
    model = load_model("decoy", device="cpu")
    table = activation_patching(model, decoy.pairs(40), block_sites(model, ["resid_pre"]), n_random=0)
    grid = cells(table).pivot(index="layer", columns="positions", values="value")
    assert grid.loc[0, "-2"] == pytest.approx(1) and grid.loc[1, "last"] == pytest.approx(1, abs=1e-3)
    by_name = activation_patching(model, decoy.pairs(40), [Site("resid_pre", 0)], ["question"], n_random=0)
    assert cells(by_name)["value"].item() == grid.loc[0, "-2"]


def test_rows_are_a_valid_table_of_ratios_of_means(gpt2, pairs):
    metric, site = gap_metric(gpt2, pairs), Site("attn_out", 1)
    table = validate(activation_patching(gpt2, pairs, [site, Site("z", 1, head=3)], [-1, "middle"], metric=metric))
    assert set(table["control"].dropna()) == {"clean", "corrupted", "no_gap", "null", "random_direction"}
    gain = brute_force(gpt2, pairs, [site], -1, metric, "denoise")
    gap = np.subtract(*(metric(last_logits(gpt2, t, pairs.lengths), torch.arange(6)).numpy()
                        for t in (pairs.clean, pairs.corrupted)))
    row = cells(table, stream="attn_out", positions="last").iloc[0]
    assert row[["value", "ci_low", "ci_high"]].tolist() == pytest.approx(
        bootstrap_ratio(gain, gap, pairs.cases["group"].to_numpy(dtype=str)), rel=1e-3)
    assert row["n"] == 6 and row["n_groups"] == 3 and row["label"] == "tokens"
    band = cells(table, control="random_direction", stream="attn_out", positions="last").iloc[0]
    assert band["n"] == 20 and band["ci_low"] < band["ci_high"]
    assert (cells(table, control="null")["value"] == 0).all() and table["p_adjusted"].notna().sum() == 8
    again = activation_patching(gpt2, pairs, [site, Site("z", 1, head=3)], [-1, "middle"], metric=metric)
    assert table.equals(again)


def test_random_changes_have_the_norm_of_the_patch_at_every_token(gpt2, pairs):
    run, site = PatchRun(gpt2, pairs, gap_metric(gpt2, pairs)), Site("attn_out", 1)
    acts = [run.read(name, [site])[site] for name in ("corrupted", "clean")]
    (patched,) = run.patch([((site,), "all")], {"all": None}, n_random=20)["denoise"]
    real = torch.arange(6) < pairs.lengths[:, None]
    size = (acts[1] - acts[0])[real].norm(dim=-1)
    assert patched.applied_norm == pytest.approx(float(size.mean()), rel=1e-5)
    assert patched.norm_share == pytest.approx(float((size / acts[0][real].norm(dim=-1)).mean()), rel=1e-5)
    assert patched.gains.shape == (21, 6) and patched.gains[1:].std(0).min() > 0


def test_prompts_of_several_lengths_in_one_call_are_each_patched_at_their_own_positions(gpt2, pairs):
    metric = gap_metric(gpt2, pairs)
    run = PatchRun(gpt2, pairs, metric)
    columns = torch.stack([torch.zeros(6, dtype=torch.long), pairs.lengths // 2], 1)
    ways = {"by name": ["first", "middle"], "by column": columns, "by mapping": {"a": 0, "b": columns[:, 1]}}
    tables = [activation_patching(run, pairs, [Site("resid_pre", 1)], how, n_random=0) for how in ways.values()]
    values = [cells(table)["value"].tolist() for table in tables]
    assert values[0] == values[1] == values[2]
    assert [cells(table)["positions"].tolist() for table in tables] == [["first", "middle"], ["0", "1"], ["a", "b"]]
    alone = [brute_force(gpt2, pairs, [Site("resid_pre", 1)], n // 2, metric, "denoise")[case]
             for case, n in enumerate(LENGTHS)]
    assert values[0][1] == pytest.approx(np.sum(alone) / run.gap.sum(), rel=1e-3)
    together = activation_patching(run, pairs, [Site("resid_pre", 1)], {"both": columns}, n_random=0)
    assert cells(together)["value"].item() not in values[0]


def test_pairs_without_a_gap_are_dropped_and_counted(gpt2, pairs):
    along = gap_metric(gpt2, pairs)

    def some(logits, numbers):
        return along(logits, numbers) * (numbers != 3)

    table = activation_patching(gpt2, pairs, [Site("resid_pre", 1)], ["last"], metric=some, n_random=0)
    dropped = table[table["control"] == "no_gap"].iloc[0]
    assert dropped["value"] == 1 and dropped["n"] == 6 and dropped["metric"] == "dropped"
    assert cells(table)["n"].item() == 5
    run = PatchRun(gpt2, pairs, some)
    assert run.numbers.tolist() == [0, 1, 2, 4, 5] and len(run.gap) == 5
    seven = activation_patching(gpt2, pairs, [Site("resid_pre", 1)], {"p": pairs.lengths - 1}, metric=some, n_random=0)
    assert cells(seven)["value"].item() == cells(table)["value"].item()


def test_a_sign_flip_test_is_exact_and_holds_its_level(capsys):
    rng = np.random.default_rng(0)
    sums = rng.normal(size=(8, 5)) + [0, 0.5, 1, 2, -2]
    exact = sign_flip_permutation_pvalue(torch.from_numpy(sums.T)).numpy()
    np.testing.assert_allclose(sign_flip_p(sums), exact, atol=0.015)
    assert sign_flip_p(np.zeros((8, 1))).item() == 1
    null = sign_flip_p(rng.normal(size=(30, 1000)), n_flips=500)
    assert 0.03 < (null < 0.05).mean() < 0.07
    assert sign_flip_p(np.ones((40, 1))).item() == pytest.approx(1 / 10_001)


def test_the_default_metric_is_the_logit_difference_of_the_answers():
    pairs = token_pairs([[3, 4, 5]] * 4, [[6, 7, 8]] * 4, [9, 10, 11, 12], [13, 14, 15, 16], d_vocab=30)
    logits, numbers = torch.randn(2, 30), torch.tensor([3, 1])
    expected = logits[[0, 1], [12, 10]] - logits[[0, 1], [16, 14]]
    torch.testing.assert_close(answer_difference(pairs)(logits, numbers), expected)


@pytest.mark.parametrize(("change", "message"), [
    (dict(n_random=5), "at least 20 draws"),
    (dict(directions=["up"]), r"denoise and noise, not \['up'\]"),
    (dict(positions=[9]), "position 9 is outside case 0, which has 4 tokens"),
    (dict(positions=["subject"]), "no position 'subject', but all, last, first, middle"),
    (dict(positions=[]), "no position to patch"),
    (dict(sites=[Site("resid_mid", 1)]), "resid_mid.1 cannot be edited"),
    (dict(sites=[Site("resid_pre", 7)]), "its layers are 0 to 2"),
    (dict(sites=[Site("z", 1, head=8)]), "its heads are 0 to 3"),
    (dict(sites=[]), "no site to patch"),
    (dict(spaces={}), "no subspace for resid_pre.1; there are none"),
    (dict(split="choose"), "no pair of split 'choose'"),
    (dict(metric=lambda logits, numbers: 0 * logits[:, 0]), "no gap between the runs: 0 .clean. and 0 .corrupted."),
    (dict(metric=lambda logits, numbers: logits), r"gave \(\d+, 30\) for \d+ cases; wanted one number per case"),
    (dict(metric=lambda logits, numbers: logits[:, 0] / 0), "not all finite"),
])
def test_what_cannot_be_patched_is_refused(gpt2, pairs, change, message):
    with pytest.raises(ValueError, match=message):
        activation_patching(gpt2, pairs, **dict(sites=[Site("resid_pre", 1)], metric=gap_metric(gpt2, pairs)) | change)


def test_pairs_of_equal_answers_have_no_default_metric(gpt2):
    pairs = token_pairs([[3, 4]] * 3, [[6, 7]] * 3, [9, 9, 9], [8, 9, 8], d_vocab=30)
    with pytest.raises(ValueError, match=r"in 1 of 3 pairs \(first: \[1\]\) no answer is right for one prompt alone"):
        activation_patching(gpt2, pairs)
