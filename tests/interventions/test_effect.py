"""Effects are what brute force says, beside controls of equal norm."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interventions import LastToken, applied_change, effect, hook, kl, move_to, set_error, steer
from interventions._controls import random_like, rescaled
from probing._results import COLUMNS, validate
from probing._sites import Site

SITES = [Site("resid_post", 0), Site("resid_post", 1)]
STUDY = dict(unit="absolute", intervention="flip", probe="by hand")


@pytest.fixture
def directions(random):
    return {site: random(4, 24)[torch.arange(12) % 4] for site in SITES}  # one per target


@pytest.fixture
def table(gpt2, cases, directions):
    others = {"other_target": {site: v.roll(1, 0) for site, v in directions.items()}}
    return effect(gpt2, cases, directions, alphas=[0, 1.5], others=others, ideal_null=np.linspace(2, 3, 12), **STUDY)


def value(table, metric="set_error", control=None, alpha=None, column="value"):
    rows = table[(table["metric"] == metric)
                 & (table["control"].isna() if control is None else table["control"] == control)
                 & (table["alpha"].isna() if alpha is None else table["alpha"] == alpha)]
    assert len(rows) == 1
    return rows[column].item()


def by_hand(model, cases, edits):
    """(set_error, kl) of every case of the report split, one full forward pass per case."""
    rows = np.flatnonzero(cases.cases["split"] == "report")
    numbers = []
    for row in rows:
        n = int(cases.lengths[row])
        tokens = cases.tokens[row : row + 1, :n]
        hooks = [(s.hook, hook(e, torch.tensor([row]), n - 1)) for s, e in edits.items()]
        with torch.no_grad():
            clean = model(tokens)[:, -1]
            with model.hooks(fwd_hooks=hooks):
                edited = model(tokens)[:, -1]
        new, old = (torch.as_tensor(right[[row]]) for right in (cases.right_after, cases.right_before))
        numbers.append([float(n) for n in (set_error(edited, new), kl(clean, edited), set_error(clean, new),
                                           set_error(clean, old))])
    return np.array(numbers).mean(0)


def test_rows_are_a_valid_results_table(table):
    assert list(table) == list(COLUMNS)
    validate(table)
    assert set(table["control"].dropna()) == {"null", "clean", "ideal_null", "random_direction", "sign_flip",
                                              "other_target"}
    assert (table["layer"] == 0).all() and (table["layer_end"] == 1).all() and (table["stream"] == "resid_post").all()
    band = table[table["control"] == "random_direction"]
    assert (band["n"] == 20).all() and (table.drop(band.index)["n"] == 6).all()
    assert (table.drop(band.index)["n_groups"] == 3).all() and (table["split"] == "report").all()
    assert table["model_hash"].notna().all() and table["data_hash"].notna().all()


def test_every_number_equals_brute_force(gpt2, cases, directions, table):
    for control, change in ((None, directions), ("sign_flip", {s: -v for s, v in directions.items()})):
        error, cost, null, clean = by_hand(gpt2, cases, {s: steer(v, 1.5) for s, v in change.items()})
        assert value(table, control=control, alpha=1.5) == pytest.approx(error)
        assert value(table, "kl", control, 1.5) == pytest.approx(cost, rel=1e-4)
        assert value(table, "error_ratio", control, 1.5) == pytest.approx(error / null)
    assert value(table, control="null") == pytest.approx(null) and value(table, control="clean") == pytest.approx(clean)
    report = (cases.cases["split"] == "report").to_numpy()
    assert value(table, control="ideal_null") == pytest.approx(np.linspace(2, 3, 12)[report].mean())


def test_the_other_direction_has_the_norm_of_the_edit(gpt2, cases, directions, table):
    edits = {}
    for site, v in directions.items():
        other = v.roll(1, 0)
        edits[site] = steer(other / other.norm(dim=-1, keepdim=True) * 1.5 * v.norm(dim=-1, keepdim=True))
    error, cost, *_ = by_hand(gpt2, cases, edits)
    assert value(table, control="other_target", alpha=1.5) == pytest.approx(error)
    assert value(table, "kl", "other_target", 1.5) == pytest.approx(cost, rel=1e-4)


def test_no_dose_is_no_edit(table):
    for control in (None, "sign_flip", "other_target", "random_direction"):
        assert value(table, control=control, alpha=0) == pytest.approx(value(table, control="null"))
        assert value(table, "kl", control, 0) == pytest.approx(0, abs=1e-6)
        assert value(table, "error_ratio", control, 0) == pytest.approx(1)


def test_random_arms_keep_every_norm_and_angle(random):
    change = {site: random(4, 24)[torch.arange(12) % 4] for site in SITES}
    wide = {site: random(40, 24) for site in SITES}  # more distinct rows than dimensions
    for each in (change, wide):
        n, true = len(each[SITES[0]]), torch.cat(list(each.values()))
        draws = []
        for arm in random_like(each, 3, seed=1):
            drawn = torch.cat([arm[s](torch.zeros(n, 24), torch.arange(n)) for s in SITES])
            torch.testing.assert_close(drawn.norm(dim=-1), true.norm(dim=-1))
            torch.testing.assert_close(drawn @ drawn.T, true @ true.T, atol=1e-4, rtol=1e-4)
            draws.append(drawn)
        assert not torch.allclose(draws[0], draws[1], atol=0.1)
        again = random_like(each, 1, seed=1)[0][SITES[0]](torch.zeros(n, 24), torch.arange(n))
        assert torch.equal(again, draws[0][:n])


def test_random_arms_point_everywhere_alike():
    change = {SITES[0]: torch.eye(1, 8)}
    one = torch.zeros(1, dtype=torch.long)
    drawn = torch.cat([arm[SITES[0]](torch.zeros(1, 8), one) for arm in random_like(change, 4000)])
    assert drawn.mean(0).abs().max() < 4 / np.sqrt(4000 * 8)  # standard error of a coordinate: 1 / sqrt(8 n)
    torch.testing.assert_close(drawn.T @ drawn / 4000, torch.eye(8) / 8, atol=0.015, rtol=0)


def test_rescaling_keeps_the_direction_and_leaves_zeros(random):
    like, direction = random(5, 8), random(5, 8)
    direction[2] = 0
    scaled = rescaled(direction, like)
    rest = [0, 1, 3, 4]
    torch.testing.assert_close(scaled.norm(dim=-1)[rest], like.norm(dim=-1)[rest])
    torch.testing.assert_close(torch.cosine_similarity(scaled, direction)[rest], torch.ones(4))
    assert scaled[2].eq(0).all()


def test_an_edit_given_as_a_function_has_the_same_controls(gpt2, cases, directions, table):
    as_function = effect(gpt2, cases, edit=lambda site, alpha: steer(directions[site], alpha), sites=SITES,
                         alphas=[1.5], **STUDY)
    for metric in ("set_error", "kl", "error_ratio"):
        for control in (None, "sign_flip"):
            expected = value(table, metric, control, 1.5)
            assert value(as_function, metric, control, 1.5) == pytest.approx(expected, rel=1e-3)


def test_controls_of_a_move_have_its_measured_norm(gpt2, cases, random):
    read, target, run = random(24), random(12), LastToken.of(gpt2, cases)
    applied = [applied_change(run, {site: move_to(read, target, alpha=a) for site in SITES}) for a in (0.5, 1.0)]
    _, before = run.logits({SITES[0]: move_to(read, target)}, read=SITES)
    _, after = run.logits({site: move_to(read, target) for site in SITES}, read=SITES)
    torch.testing.assert_close(applied[1][SITES[1]], after[SITES[1]] - before[SITES[1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(applied[1][SITES[0]], 2 * applied[0][SITES[0]], atol=1e-5, rtol=1e-5)


def test_one_run_serves_several_effects_and_doubling_a_small_dose_doubles_the_effect(gpt2, cases, directions):
    run, small = LastToken.of(gpt2, cases), {SITES[1]: directions[SITES[1]] * 1e-2}
    clean = run.logits()
    one, two = (run.logits({SITES[1]: steer(small[SITES[1]], a)}) - clean for a in (1.0, 2.0))
    assert float((two - 2 * one).norm() / (2 * one).norm()) < 0.1
    a = effect(run, cases, directions, sites=SITES[:1], alphas=[1.0], **STUDY)
    b = effect(gpt2, cases, directions, sites=SITES[:1], alphas=[1.0], **STUDY)
    assert value(a, alpha=1.0) == value(b, alpha=1.0)


def test_a_planted_direction_beats_every_random_one_and_its_sign_flip_does_not_help(gpt2, cases):
    before, after = 3, 7  # the answer moves from one token to the other: write it where the unembedding reads it
    right = [np.zeros((12, 30), bool) for _ in range(2)]
    right[0][:, before], right[1][:, after] = True, True
    planted = replace(cases, right_before=right[0], right_after=right[1])
    token = gpt2.original_model.lm_head.weight.detach()
    direction = (token[after] - token[before])[None]
    table = effect(gpt2, planted, {Site("resid_post", 2): direction}, alphas=[40.0], **STUDY)
    assert value(table, control="null") >= 1.5
    assert value(table, alpha=40.0) == 0
    assert value(table, control="random_direction", alpha=40.0, column="ci_low") > 0.5
    assert value(table, control="sign_flip", alpha=40.0) == 2
    gap = value(table, control="random_direction", alpha=40.0) - value(table, alpha=40.0, column="ci_high")
    assert gap > 0


@pytest.mark.parametrize(("change", "message"), [
    (dict(n_random=5), "at least 20 draws"),
    (dict(split="train"), "no case of split 'train'"),
    (dict(sites=[]), "no site to edit"),
    (dict(sites=[Site("resid_post", 2)]), "no direction for resid_post.2"),
    (dict(edit=lambda site, alpha: None), "not both"),
])
def test_a_study_without_its_controls_or_cases_is_refused(gpt2, cases, directions, change, message):
    with pytest.raises(ValueError, match=message):
        effect(gpt2, cases, directions, alphas=[1.0], **STUDY | change)


def test_cases_of_another_run_are_refused(gpt2, cases, directions):
    few = replace(cases, cases=cases.cases[:4])
    with pytest.raises(ValueError, match="there are 4 cases"):
        effect(LastToken.of(gpt2, cases), few, directions, alphas=[1.0], **STUDY)
