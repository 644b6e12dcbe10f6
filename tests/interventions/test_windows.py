"""A scan over windows of layers agrees with the effect of each window, and chooses on its own cases only."""

import pytest
import torch

from interventions import best_dose, effect, move_to, window_map, windows
from probing._sites import Site

SITES = [Site("resid_post", layer) for layer in range(3)]
STUDY = dict(unit="absolute", intervention="flip", probe="by hand")


@pytest.fixture
def directions(random):
    return {site: random(12, 24) for site in SITES}


def test_windows_are_all_contiguous_runs_of_layers():
    assert windows(3) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    assert len(windows(8)) == 36


def test_every_cell_is_the_effect_of_its_window(gpt2, cases, directions):
    table = window_map(gpt2, cases, directions, alphas=[1.0, 3], **STUDY)
    assert (table["split"] == "choose").all() and set(table["control"].dropna()) == {"null"}
    assert len(table) == 1 + 6 * 2
    for first, last in windows(3):
        full = effect(gpt2, cases, directions, sites=SITES[first : last + 1], alphas=[1.0, 3], split="choose", **STUDY)
        for alpha in (1.0, 3.0):
            cell = table[(table["layer"] == first) & (table["layer_end"] == last) & (table["alpha"] == alpha)]
            same = full[(full["metric"] == "set_error") & full["control"].isna() & (full["alpha"] == alpha)]
            assert cell[["value", "ci_low", "ci_high", "n"]].values.tolist() == \
                same[["value", "ci_low", "ci_high", "n"]].values.tolist()


def test_the_best_dose_is_the_lowest_error(gpt2, cases, directions):
    table = window_map(gpt2, cases, directions, alphas=[0.5, 1.0, 3.0], **STUDY)
    best = best_dose(table)
    edits = table[table["control"].isna()]
    assert best.value == edits["value"].min()
    assert best.sites == SITES[best.layer : best.layer_end + 1]
    narrow = best_dose(table, within=1)
    assert narrow.layer == narrow.layer_end and narrow.value >= best.value
    tied = edits.assign(value=1.0)
    assert best_dose(tied)[1:4] == (0, 0, 0.5)


def test_a_choice_is_never_made_on_reported_cases(gpt2, cases, directions):
    table = window_map(gpt2, cases, directions, alphas=[1.0], split="report", **STUDY)
    with pytest.raises(ValueError, match="on split 'choose'"):
        best_dose(table)


def test_edits_given_as_functions_are_mapped_too(gpt2, cases, directions):
    table = window_map(gpt2, cases, edit=lambda site, alpha: move_to(directions[site], torch.zeros(12), alpha=alpha),
                       sites=SITES, alphas=[1.0], **STUDY)
    assert len(table) == 7
    with pytest.raises(ValueError, match="one site per layer"):
        window_map(gpt2, cases, edit=lambda site, alpha: move_to(directions[site], 0.0),
                   sites=[Site("resid_post", 1), Site("mlp_out", 1)], alphas=[1.0], **STUDY)
