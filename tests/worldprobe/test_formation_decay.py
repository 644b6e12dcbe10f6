"""Trends that were planted are found with their direction, and the section draws what was measured."""

import numpy as np
import pandas as pd
import pytest

from worldprobe import _formation_alignment as alignment
from worldprobe import _formation_decay as decay

SEEDS = (0, 1, 2)


def planted(of_decay, last=alignment.STEPS[-1]):
    """Alignments with gain `of_decay(side, decay, noise)` at the last step."""
    rng = np.random.default_rng(0)
    rows = [dict(seed=seed, decay=d, layer=layer, side=side, relation=relation, step=step, accuracy=0.9, null=0.1,
                 value=0.2 + (of_decay(side, d, rng.normal()) if step else 0.0))
            for seed in SEEDS for d in alignment.DECAYS for layer in alignment.MIDDLE for side, relation in decay.SIX
            for step in (0, last)]
    return pd.DataFrame(rows)


def powers(slope):
    """Raw traces of gradients that go with this power of the decay."""
    return pd.DataFrame([dict(seed=seed, decay=d, layer=layer, matrix=matrix, side=side, exponent=1.0, ci_low=0.9,
                              ci_high=1.1, r2=0.95, trace=7.0 if matrix == "H" else 3 * d**slope)
                         for seed in SEEDS for d in alignment.DECAYS for layer in alignment.MIDDLE
                         for matrix, side in decay.FOUR])


def test_a_trend_is_found_with_its_direction_and_noise_is_none():
    table = planted(lambda side, d, noise: 0.3 + 30 * d + 1e-4 * noise if side == "out" else 0.3 + 0.01 * noise)
    found = decay.trends(table).set_index("side")
    assert found.loc["out", "rho"].to_numpy() == pytest.approx(1) and (found.loc["out", "p_holm"] < 1e-4).all()
    assert (found.loc["in", "p_holm"] > 0.05).all() and (found["ci_low"] <= found["rho"]).all()
    check, = decay.checks({"alignments": table, "powers": powers(2)})
    assert check["pass"] and check["ours"] == "3 of 3" and len(check["parts"]) == 7
    assert check["parts"][-1]["ours"] == pytest.approx(2) == check["parts"][-1]["ci_low"]
    falls = planted(lambda side, d, noise: 0.3 - 30 * d + 1e-4 * noise)
    failed, = decay.checks({"alignments": falls, "powers": powers(1)})
    assert not failed["pass"] and failed["ours"] == "0 of 3" and failed["parts"][0]["ours"] == pytest.approx(-1)
    assert decay.checks({"alignments": planted(lambda *_: 0.1, last=2000), "powers": powers(2)}) == []


def test_gains_are_since_step_0_of_the_same_net_and_the_null_has_its_own():
    table = planted(lambda side, d, noise: d)
    found = decay.gains(table)
    assert len(found) == 3 * 7 * 6
    np.testing.assert_allclose(found["gain"], found["decay"], atol=1e-12)
    assert (found["null_gain"] == 0).all()


def test_the_section_shows_every_decay_at_any_size():
    measured = alignment.measure(SEEDS[:2], (0, 1), (0.0, 1e-3, 1e-2))
    shown = decay.section(measured)
    assert len(shown.exhibits) == 4
    by_decay, exponents = (table.shown for table in shown.tables)
    assert {"0", "1e-3", "1e-2"} <= set(by_decay) and len(by_decay) == 13 and len(exponents) == 6
    assert by_decay.iloc[-1]["relation"] == "accuracy" and exponents["H_out"].str.contains("R²").all()
    ticks = [tick.get_text() for tick in shown.exhibits[0].picture.axes[0].get_xticklabels()]
    assert ticks == ["0", "1e-3", "1e-2"]
    trace = measured["powers"].set_index(["seed", "decay", "layer", "matrix", "side"])["trace"]
    assert (trace > 0).all() and len(trace) == 2 * 3 * 2 * 4
