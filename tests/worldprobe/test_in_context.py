"""A graph traced in context: arms of equal length, a whole patch is the other word's answer, checks follow the rows."""

import numpy as np
import pytest

from tasks import _walks as world
from worldprobe import _cli
from worldprobe import _in_context as experiment
from worldprobe._in_context_report import answers, checks, drawing, figure, sections

LENGTHS = (0, 1, 2, 4, 8)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    world.train_reader(folder, 0, 30, lambda line: None)
    world.train_reader(folder, 0, 30, pytest.fail)  # done: nothing is said, nothing happens
    return experiment.Measured(folder, 6, 0, LENGTHS)


@pytest.fixture(scope="module")
def tables(measured):
    return {name: getattr(measured, name)().assign(seed=0) for name in ("said", "structure", "moved", "order")}


def test_a_whole_patch_is_the_answer_to_the_other_word(measured, tables):
    place = np.tile(np.arange(world.NODES), (6, 1))
    shift = np.random.default_rng([0, 3]).integers(3, 8, measured.shape)
    target, gained = measured._goal(place, shift)
    apart = np.abs(target - np.arange(world.NODES))
    assert (np.minimum(apart, world.NODES - apart) >= experiment.FAR).all()
    p = measured.chances("trained")
    told = np.take_along_axis(p, target[..., None], 2)
    moved = ((told - p) * gained).sum(-1).mean((0, 2))
    patch = tables["moved"][tables["moved"]["arm"] == "patch"]
    for _, rows in patch.groupby("site"):
        np.testing.assert_allclose(rows["moved"], moved, atol=1e-5)


def test_random_directions_are_as_long_as_the_step_on_the_map(tables):
    norms = tables["moved"].groupby(["site", "length", "arm"])["norm"].agg(["min", "max"]).unstack("arm")
    np.testing.assert_allclose(norms["min", "random"], norms["max", "map"], rtol=1e-9)
    assert (norms["max", "map"] <= norms["max", "patch"]).all()
    count = tables["moved"].groupby(["site", "length", "arm"]).size().unstack("arm").iloc[0]
    assert count["random"] == count["any ring"] == experiment.N_RANDOM and count["map"] == count["patch"] == 1


def test_a_ring_named_anew_has_goals_and_neighbours_of_its_own(measured):
    place = np.random.default_rng(1).permuted(np.tile(np.arange(world.NODES), (6, 1)), axis=1)
    target, gained = measured._goal(place, np.full(measured.shape, 4))
    walk, node = 2, 5
    words = {measured.walks.ring[walk, other] for other in range(world.NODES)
             if world.neighbours()[place[walk, target[walk, 0, node]], place[walk, other]]}
    assert set(np.flatnonzero(gained[walk, 0, node] > 0)) == words and gained.sum() == 0


def test_no_reader_beats_the_best_in_the_mean(tables):
    nats = tables["said"].pivot(index="length", columns="reader", values="nats")
    assert (nats["best"].iloc[-1] < nats[["network", "untrained"]].iloc[-1]).all()
    known = tables["said"].set_index(["reader", "length"])
    assert 0.1 < known.loc[("untrained", 0), "traced"] < 0.3


def test_every_layer_length_ring_and_network_is_there(tables):
    assert len(tables["structure"]) == 2 * 4 * 2 * len(LENGTHS) and tables["structure"].notna().all().all()
    assert tables["order"]["curve"].tolist() == ["resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.2"]


def test_checks_and_words_follow_from_the_rows(measured, tables):
    assert len(checks(tables)) == 6 and not checks(tables)[1]["pass"]  # 30 steps draw no ring
    structure = tables["structure"].copy()
    ring = (structure["network"] == "trained") & (structure["graph"] == "traced")
    for column in ("energy", "energy_high"):
        structure.loc[ring, column] = np.where(structure[ring]["length"] == 8, 0.4, 1)
    usual = (structure["network"] == "trained") & (structure["graph"] == "usual")
    structure.loc[usual, "energy"] = np.where(structure[usual]["length"] == 8, 1, 0.5)
    moved = tables["moved"].copy()
    moved.loc[moved["arm"] == "map", "moved"] = 0.9
    held = [check["pass"] for check in checks({**tables, "structure": structure, "moved": moved})]
    assert held[1] and held[3:] == [True, True, True]
    assert "energy 0.50" in answers({**tables, "structure": structure})[0]
    assert len(sections(tables, measured.drawing())[0].tables) == 4
    assert len(figure(tables).axes) == 3 and len(drawing(measured.drawing()).axes) == 3  # 0, 4 and the last


def test_the_command_line_knows_it(capsys):
    assert _cli.main(["reproduce", "in_context", "--out", "unused", "--dry-run", "--quick"]) == 0
    assert "1 network of 3 layers, 900 steps" in capsys.readouterr().out
