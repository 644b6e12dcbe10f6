"""Planned contrasts: paired, corrected together, and against the edge of the band."""

import numpy as np
import pytest

from interventions._contrasts import contrast_rows
from interventions._effect_rows import EffectRows
from probing._results import results_frame
from probing._significance import holm, paired_difference


@pytest.fixture
def study():
    rng = np.random.default_rng(0)
    hard, groups = 5 * rng.normal(size=120), np.arange(120) // 3
    return hard, groups, hard + 0.1 * rng.normal(size=(30, 120)) + 0.3 * rng.normal(size=(30, 1)), rng


def rows_of(edited, rivals, bands, groups):
    rows = EffectRows({"task": "toy"}, groups)
    contrast_rows(rows, "log_odds", edited, rivals, bands, alpha=1.0)
    return results_frame(rows.rows).set_index(["metric", "control"])


def test_contrasts_are_paired_and_corrected_together(study):
    hard, groups, draws, rng = study
    edited = hard + 1 + 0.2 * rng.normal(size=120)
    rivals = {"null": hard, "other": edited - 0.01 * rng.normal(size=120), "itself": edited}
    table = rows_of(edited, rivals, {"random_direction": draws}, groups).loc["log_odds_difference"]
    p = []
    for name, rival in {**rivals, "random_direction": draws.mean(0)}.items():
        *found, chance = paired_difference(edited, rival, groups)
        assert table.loc[name, ["value", "ci_low", "ci_high", "p_value"]].tolist() == pytest.approx([*found, chance])
        p.append(chance)
    np.testing.assert_allclose(table["p_adjusted"], holm(np.array(p)))
    assert 0.9 < table.loc["null", "ci_low"] < table.loc["null", "ci_high"] < 1.1  # though cases differ by 5
    assert table.loc["itself", ["value", "p_value"]].tolist() == [0, 1]


def test_exceeding_a_band_means_exceeding_its_edge_on_the_side_of_the_edit(study):
    hard, groups, draws, _ = study
    means = draws.mean(1)
    for shift, edge in ((2.0, 95), (-2.0, 5), (0.1, 95)):
        edited = hard + shift + means.mean() - hard.mean()
        row = rows_of(edited, {}, {"random_direction": draws}, groups).loc[("log_odds_over_band", "random_direction")]
        assert row["value"] == pytest.approx(edited.mean() - np.percentile(means, edge))
        if shift == 0.1:  # above the mean of the band, and inside
            assert row["ci_high"] < 0
        else:
            assert np.sign(row["ci_low"]) == np.sign(row["ci_high"]) == np.sign(shift)


def test_cases_without_a_number_are_left_out(study):
    hard, groups, draws, _ = study
    edited = np.where(np.arange(120) % 2, hard + 1, np.nan)
    table = rows_of(edited, {"null": np.where(np.arange(120) % 2, hard, np.nan)}, {}, groups)
    assert table["n"].item() == 60 and table["value"].item() == pytest.approx(1)
