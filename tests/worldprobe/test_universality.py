"""Networks held against each other: a network against itself, the words of another world, and the checks."""

from dataclasses import replace

import numpy as np
import pytest

from tasks import decoy
from tasks._families import Family, distinct, families
from tasks.space_time._families import questions
from tasks.truthfulness._families import statements
from worldprobe import _cli
from worldprobe import _universality as universality
from worldprobe import _universality_units as units
from worldprobe._universality import METRICS, in_other_words, measure, pairs_of, states
from worldprobe._universality_report import NAMES, answers, by_pair, checks, more_alike, section


def prompts(n, seed):
    made = decoy.load(10 * n, seed=seed)
    five = np.flatnonzero(made.lengths == 5)
    made = replace(made, tokens=made.tokens[five], lengths=made.lengths[five],
                   examples=made.examples.iloc[five].assign(prompt=np.arange(len(five))))
    return distinct(made, made.tokens[:, :5], n, "end/answer")


@pytest.fixture(scope="module")
def table():
    family = Family("decoy", "decoy", ("decoy", "decoy-1"), (), prompts, "end")
    return measure(family, [family], 1, 60)


def test_rows_differ_and_parts_share_none():
    for made in (statements(380, 0, "object"), questions(380, 0)):
        assert len(np.unique(made.tokens, axis=0)) == 380
        first, second = (universality._part(made, part, 190) for part in range(2))
        assert not {tuple(row) for row in first.tokens.tolist()} & {tuple(row) for row in second.tokens.tolist()}
        assert 0.3 < first.labels(made.schemes[0]).mean() < 0.7 and 0.3 < second.labels(made.schemes[0]).mean() < 0.7
    with pytest.raises(ValueError, match="there are 384 different prompts"):
        statements(400, 0, "object")


def test_a_network_is_wholly_like_itself():
    acts = states("decoy", prompts(60, 0))
    for row in [*universality.compared(acts, acts), *universality.neurons(acts, acts)]:
        if row["metric"] != "excess_correlation":
            assert row["value"] == pytest.approx(1, abs=1e-3 if row["metric"] == "cknna" else 1e-5), row["metric"]
        assert row["value"] > row["null_high"]


def test_other_words_tell_the_same_prompts_apart():
    made = questions(50, 0)
    other = in_other_words(made, 124, 0)
    assert len(np.unique(other.tokens, axis=0)) == 50 and 0 < other.tokens.min() and other.tokens.max() < 124
    pairs = set(zip(made.tokens.flatten().tolist(), other.tokens.flatten().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    with pytest.raises(ValueError, match="do not fit into a vocabulary of 20"):
        in_other_words(made, 20)


def test_networks_are_paired_with_what_they_share_less_and_less_of():
    known = families()
    space, truth, again = known
    assert (space.task, truth.task, again.task) == ("space_time", "truthfulness", "truthfulness")
    kinds = [kind for kind, _, _ in pairs_of(truth, known)]
    assert [kinds.count(k) for k in universality.KINDS] == [3, 4, 3, 3, 3]
    assert "truthfulness" not in {a for kind, a, _ in pairs_of(truth, known) if kind == "other task"}
    assert {b for kind, _, b in pairs_of(space, known) if kind == "other world"} == set(truth.seeds)
    assert states("space_time", statements(30, 0, "period")) == {}  # a token more than it takes


def test_every_pair_has_every_metric_beside_its_null(table):
    assert set(table["metric"]) == set(NAMES) > set(METRICS)
    assert (table.groupby(["part", "kind", "a", "b"]).size() == len(NAMES)).all()
    assert set(table["kind"]) == {"seeds", "untrained", "two untrained"}
    assert table[["value", "null", "null_high", "p_value"]].notna().all().all()
    assert (table["p_value"] > 0).all()


def test_checks_and_words_follow_from_the_rows(table):
    pairs = by_pair(table)
    assert len(answers(pairs)) == 1 and len(section(table).tables) == 2
    better = table.assign(value=np.where(table["kind"] == "seeds", 2.0, table["value"]), p_value=1 / 21)
    assert [check["pass"] for check in checks(better)] == [True, True, True]
    assert more_alike(by_pair(better))["untrained"].all()
    worse = table.assign(value=np.where(table["b"] == "decoy-1", -1.0, table["value"]))
    assert not any(check["pass"] for check in checks(worse)[1:])


def test_units_of_a_network_need_themselves_alone_and_those_of_an_untrained_one_have_no_partner():
    family = Family("decoy", "decoy", ("decoy",), (), prompts, "end")
    acts = states("decoy", prompts(60, 0))
    own = units.compared(acts, acts)
    assert own["needed"] == 1 == own["shared"] and own["one_r2"] == pytest.approx(1) == own["r2"]
    assert own["groups"] > 0.5 * own["clusters"] > 1
    found = units.measure(family, 60)
    assert list(found["kind"]) == ["untrained"] and found["b"][0] == "decoy~0"
    assert found["one_r2"][0] < 0.9 and found["needed"][0] >= 1
    shown = units.section(found).tables[0].shown
    assert len(shown) == 1 and shown["from few"][0].endswith(f"({found['needed'][0]:.0f})")


def test_the_command_line_knows_it(capsys):
    assert _cli.main(["reproduce", "universality", "--out", "unused", "--dry-run"]) == 0
    assert "pairs" in capsys.readouterr().out
