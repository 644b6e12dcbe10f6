"""Controls have the norm of what they stand beside, at any positions of whole sequences."""

import numpy as np
import pytest
import torch

from interventions import (
    At,
    Eraser,
    LastToken,
    Sequences,
    amnesic,
    applied_change,
    components,
    effect,
    hook,
    kl,
    patch_from,
    position_map,
    project_out,
    random_in,
    random_like,
    steer,
    window_map,
)
from interventions._runs import on_split, positions_name
from probing._results import validate
from probing._sites import Site
from probing._subspaces import Subspace

SITE, LATER = Site("resid_post", 1), Site("resid_post", 2)
STUDY = dict(unit="absolute", intervention="steer", probe="by hand")


def value(table, metric, control=None, **where):
    rows = table[(table["metric"] == metric) & (table["control"].isna() if control is None
                                                else table["control"] == control)]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1
    return rows["value"].item()


@pytest.fixture(scope="module")
def long(cases):
    """Cases of at least three tokens, so that there is an earlier position in each."""
    from dataclasses import replace

    return replace(cases, lengths=cases.lengths.clamp_min(3), tokens=cases.tokens.clamp_min(1))


def added(arm, site, n=9, d=24):
    return arm[site](torch.zeros(n, d), torch.arange(n))


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_random_directions_inside_a_subspace_stay_inside_and_keep_norms(random, rank):
    change = {SITE: random(9, rank) @ random(rank, 24)}
    space = Subspace.spanned_by(random(4, 24))
    for sign in (1, -1):
        for arm in random_in({SITE: space}, {SITE: sign * change[SITE]}, 3, seed=2, sign=sign):
            v = added(arm, SITE)
            torch.testing.assert_close(v, space.project(v), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(v.norm(dim=-1), change[SITE].norm(dim=-1))
            if rank <= 4:
                torch.testing.assert_close(v @ v.T, change[SITE] @ change[SITE].T, atol=1e-4, rtol=1e-4)


def test_a_draw_is_one_direction_at_every_dose(random):
    v, space = random(9, 24), Subspace.spanned_by(random(5, 24))
    for draw in (random_like, lambda *a: random_in({SITE: space}, *a)):
        up, down = (draw({SITE: a * v}, 2, 0, np.sign(a))[1] for a in (2.0, -2.0))
        torch.testing.assert_close(added(up, SITE), -added(down, SITE), atol=1e-5, rtol=1e-5)


def test_components_hold_their_share_of_the_variance(random):
    X = random(300, 24) * torch.logspace(1, -2, 24)
    space = components(X, 0.9)
    centred = X - X.mean(0)
    held = [float(Subspace(space.basis[: space.rank - drop]).project(centred.double()).square().sum()
                  / centred.double().square().sum()) for drop in (0, 1)]
    assert held[0] >= 0.9 > held[1]


def test_whole_sequences_give_the_rows_of_the_last_token(gpt2, cases, random):
    directions = {SITE: random(12, 24)}
    last, whole = (effect(run.of(gpt2, cases), cases, directions, alphas=[1.0], **STUDY)
                   for run in (LastToken, Sequences))
    text = last.select_dtypes(exclude="number")
    assert text.equals(whole[text.columns])
    np.testing.assert_allclose(last["value"], whole["value"], atol=1e-4)
    scans = [window_map(run.of(gpt2, cases), cases, directions, alphas=[1.0], **STUDY)
             for run in (LastToken, Sequences)]
    np.testing.assert_allclose(scans[0]["value"], scans[1]["value"])


@pytest.mark.parametrize("positions", [-2, None, torch.tensor([[0, -1]])])
def test_an_effect_at_other_positions_is_brute_force(gpt2, long, random, positions):
    v, mean = random(24), random(24)
    for study in (dict(directions={SITE: v[None]}), dict(edit=lambda site, a: project_out(v, mean), sites=[SITE])):
        table = effect(gpt2, long, alphas=[2.0], positions=positions, **study, **STUDY)
        validate(table)
        assert set(table["positions"]) == {positions_name(positions)}
        prices, norms = [], []
        for row in np.flatnonzero(long.cases["split"] == "report"):
            n = int(long.lengths[row])
            at = range(n) if positions is None else [-2] if isinstance(positions, int) else [0, -1]
            edit = steer(v, 2.0) if "directions" in study else project_out(v, mean)
            hooks = [(SITE.hook, hook(edit, torch.tensor([0]), p)) for p in at]
            with torch.no_grad():
                clean, cache = gpt2.run_with_cache(long.tokens[row : row + 1, :n])
                with gpt2.hooks(fwd_hooks=hooks):
                    edited = gpt2(long.tokens[row : row + 1, :n])[:, -1]
            prices.append(float(kl(clean[:, -1], edited)))
            x = cache[SITE.hook][0, list(at)]
            moved = edit(x, torch.zeros(len(x), dtype=torch.long)) - x
            norms += (moved.norm(dim=-1) / x.norm(dim=-1)).tolist()
        assert value(table, "kl", alpha=2.0) == pytest.approx(np.mean(prices), rel=1e-3)
        own = table[(table["metric"] == "kl") & table["control"].isna()].iloc[0]
        assert own["norm_share"] == pytest.approx(np.mean(norms), rel=1e-4)


def test_controls_at_several_positions_have_the_change_of_every_token(gpt2, long, random):
    run, edit = Sequences.of(gpt2, long), project_out(random(24))
    change = applied_change(run, {SITE: edit}, None)[SITE]
    assert len(change) == 12 * 12
    acts = run.read([SITE])[SITE].flatten(0, 1)
    real = acts.norm(dim=-1) > 0
    torch.testing.assert_close(change[real], (edit(acts, torch.zeros(144, dtype=torch.long)) - acts)[real],
                               atol=1e-5, rtol=1e-4)
    assert change[~real].eq(0).all()


def test_every_control_is_a_row_with_its_own_brute_force(gpt2, long, random):
    v = random(12, 24)
    table = effect(gpt2, long, {SITE: v}, alphas=[-1.0, 1.0], other_layers=[0], other_positions=[-2], random_init=True,
                   arms={"full_patch": {SITE: steer(5 * v)}}, planned=1.0, **STUDY)
    validate(table)
    run = Sequences.of(gpt2, long).select((long.cases["split"] == "report").to_numpy())
    clean = run.logits()

    def price(arm):
        return float(kl(clean, run.logits(arm)).mean())

    assert value(table, "kl", "other_layer:0", alpha=1.0) == pytest.approx(price({Site("resid_post", 0): steer(v)}),
                                                                          rel=1e-3)
    before = price({SITE: At(steer(v), -2)})
    assert value(table, "kl", "other_position:-2", alpha=1.0) == pytest.approx(before, rel=1e-3)
    assert value(table, "kl", "full_patch") == pytest.approx(price({SITE: steer(5 * v)}), rel=1e-3)
    assert value(table, "kl", "sign_flip", alpha=1.0) == value(table, "kl", alpha=-1.0)
    assert {"random_init", "random_init_null"} <= set(table["control"].dropna())
    planned = table[table["metric"] == "set_error_difference"]
    assert set(planned["control"]) == {"null", "full_patch", "sign_flip", "other_layer:0", "other_position:-2",
                                       "random_init", "random_direction"}
    assert (planned["p_adjusted"] >= planned["p_value"]).all() and (planned["correction"] == "holm").all()
    null = value(table, "set_error", "null")
    assert value(planned, "set_error_difference", "null") == pytest.approx(value(table, "set_error", alpha=1.0) - null)


def test_a_full_patch_has_all_of_its_own_effect_and_no_edit_none(gpt2, cases, random):
    """Card, section 5: full patch gives NIE = 1; identity gives dLD = 0 and KL = 0."""
    source = patch_from(random(12, 24))
    study = dict(arms={"full_patch": {SITE: source}}, sites=[SITE], alphas=[1.0], metrics=["log_odds", "odds_ratio"],
                 outcome="log_odds", planned=1.0)
    full = effect(gpt2, cases, edit=lambda site, alpha: source, **study, **STUDY)
    none = effect(gpt2, cases, edit=lambda site, alpha: lambda x, rows: x, **study, **STUDY)
    assert value(full, "nie", alpha=1.0, subset="all") == pytest.approx(1, abs=1e-5)
    for metric, wanted in (("nie", 0), ("kl", 0), ("odds_ratio", 0)):
        assert value(none, metric, alpha=1.0, **({"subset": "all"} if metric == "nie" else {})) == \
            pytest.approx(wanted, abs=1e-5)
    assert value(none, "log_odds_difference", "null") == pytest.approx(0, abs=1e-5)
    assert value(full, "log_odds_difference", "full_patch") == pytest.approx(0, abs=1e-5)


def test_a_position_map_has_a_cell_for_every_layer_and_position(gpt2, long, random):
    directions = {site: random(12, 24) for site in (SITE, LATER)}
    table = position_map(gpt2, long, directions, positions=[-1, -2], alpha=3.0, **STUDY)
    validate(table)
    cells = table[table["control"].isna() & (table["metric"] == "kl")]
    assert len(cells) == 4 and set(cells["positions"]) == {"last", "-2"}
    assert value(cells, "kl", layer=2, positions="-2") == pytest.approx(0, abs=1e-6)  # nothing reads it any more
    assert value(cells, "kl", layer=1, positions="-2") > 1e-4
    alone = effect(gpt2, long, {SITE: directions[SITE]}, alphas=[3.0], positions=-2, **STUDY)
    for metric in ("kl", "set_error"):
        assert value(cells if metric == "kl" else table[table["control"].isna()], metric, layer=1,
                     positions="-2") == pytest.approx(value(alone, metric, alpha=3.0), rel=1e-4)
    differences = table[table["metric"] == "kl_difference"]
    assert len(differences) == 4 and differences["p_adjusted"].notna().all()


def test_one_layer_at_a_time_is_the_map_of_layers_and_doses(gpt2, cases, random):
    sites = [Site("resid_post", layer) for layer in range(3)]
    directions = {site: random(12, 24) for site in sites}
    whole, narrow = (window_map(gpt2, cases, directions, alphas=[1.0, 2.0], within=w, **STUDY) for w in (None, 1))
    assert len(whole) == 1 + 6 * 2 and len(narrow) == 1 + 3 * 2
    same = whole[whole["layer"] == whole["layer_end"]]
    np.testing.assert_allclose(narrow["value"][1:], same["value"])


def test_a_scan_at_an_earlier_token_has_the_cells_of_the_map(gpt2, long, random):
    directions = {site: 9 * random(12, 24) for site in (SITE, LATER)}
    scan = window_map(gpt2, long, directions, alphas=[1.0], positions=-2, within=1, split="report", **STUDY)
    cells = position_map(gpt2, long, directions, positions=[-2], **STUDY)
    for layer in (1, 2):
        assert value(scan, "set_error", layer=layer) == value(cells, "set_error", layer=layer)
    assert set(scan["positions"]) == {"-2"}


def test_erasure_acts_at_any_tokens(gpt2, long, random):
    erasers = {SITE: Eraser.onto(Subspace.spanned_by(random(3, 24)))}
    last, whole = (amnesic(run.of(gpt2, long), long, erasers, probe="by hand") for run in (LastToken, Sequences))
    np.testing.assert_allclose(last["value"], whole["value"], atol=1e-4)
    everywhere = amnesic(gpt2, long, erasers, probe="by hand", positions=None)
    validate(everywhere)
    assert value(everywhere, "kl") != pytest.approx(value(last, "kl"), rel=1e-3)


def test_places_that_do_not_fit_are_told(gpt2, cases, long, random):
    with pytest.raises(ValueError, match="edits the last token, the edits are for all"):
        effect(LastToken.of(gpt2, cases), cases, {SITE: random(1, 24)}, alphas=[1.0], positions=None, **STUDY)
    with pytest.raises(ValueError, match="position -9 is outside case"):
        effect(gpt2, cases, {SITE: random(1, 24)}, alphas=[1.0], positions=-9, **STUDY)
    with pytest.raises(ValueError, match="moves the change of one site, 2 are edited"):
        effect(gpt2, cases, {s: random(1, 24) for s in (SITE, LATER)}, alphas=[1.0], other_layers=[0], **STUDY)
    for change, message in ((dict(outcome="iia"), "'iia' is not measured, set_error, kl are"),
                            (dict(planned=2.0), "planned dose 2 is not among the doses 1")):
        with pytest.raises(ValueError, match=message):
            effect(gpt2, cases, {SITE: random(1, 24)}, alphas=[1.0], **change, **STUDY)
    with pytest.raises(ValueError, match="no metric 'glory'; there are log_odds"):
        effect(gpt2, cases, {SITE: random(1, 24)}, alphas=[1.0], metrics=["glory"], **STUDY)
    assert isinstance(on_split(gpt2, cases, "report"), LastToken)
    assert isinstance(on_split(gpt2, long, "report", -2), Sequences)
