"""Every method tells what decides the answer from what does not, on three worlds whose truth is known: the table of
benchmarks/decoy.py with fewer cases, without the slow searches, which have tests of their own."""

import pandas as pd
import pytest

from benchmarks.decoy import FALL_SHORT, SLOW, World, outcomes, verdicts


@pytest.mark.parametrize("names", [
    ("decoy", "decoy-2"),
    pytest.param(("decoy", "decoy-1", "decoy-2"), marks=pytest.mark.slow, id="all three"),
])
def test_every_method_finds_what_was_planted_and_those_that_follow_the_reading_fall_short(names):
    worlds = [World(name, 400) for name in names]
    table = verdicts(pd.concat([outcomes(world, skip=SLOW) for world in worlds]))
    assert len(table) >= 20 and set(FALL_SHORT) <= set(table["method"])
    wrong = table[table["found"] != table["expected"]]
    assert wrong.empty, wrong.to_string()
