"""Neurons that follow coordinates, pictures of space and time, and the study of them."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from tiny_tokenizers import tiny

from tasks.space_time import _neurons as neurons
from tasks.space_time import _pictures as pictures
from tasks.space_time import _study_checks
from tasks.space_time.study import BLOCKS, study

SVG = "{http://www.w3.org/2000/svg}"
RNG = np.random.default_rng(0)


def test_rank_correlations_are_those_of_scipy_and_0_for_what_never_varies():
    X, Y = RNG.normal(size=(50, 4)).round(1), RNG.normal(size=(50, 2))
    X[:, 3] = 7
    got = neurons.spearman(X, Y)
    assert (got[3] == 0).all()
    for i in range(3):
        for k in range(2):
            assert got[i, k] == pytest.approx(spearmanr(X[:, i], Y[:, k]).statistic)


def test_a_planted_neuron_is_found_on_one_half_and_reported_on_the_other():
    acts, y = RNG.normal(size=(2, 120, 30)), RNG.random((120, 1))
    acts[1, :, 17] = -np.exp(3 * y[:, 0])  # falls with y, and not linearly
    first = np.arange(120) % 2 == 0
    table = neurons.neuron_correlations(acts, y, ["t"], first)
    assert len(table) == 60 and table.iloc[0][["layer", "neuron"]].tolist() == [1, 17]
    assert table.iloc[0]["found"] == pytest.approx(1) and table.iloc[0]["value"] == pytest.approx(1)
    nulls = [neurons.neuron_correlations(acts, RNG.permutation(y), ["t"], first).iloc[0] for _ in range(20)]
    assert np.mean([n["found"] for n in nulls]) > 0.25  # the highest of 60 on the half it was chosen on
    assert abs(np.mean([n["value"] for n in nulls])) < 0.12  # and on the other


def _marks(svg: str, tag: str) -> list:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def test_a_map_shows_every_place_its_prediction_and_the_coast():
    true = RNG.uniform([-170, -50], [170, 70], (40, 2))
    one = pictures.Map("A <map> & more", true, true + 3, np.arange(40) < 5, "note")
    svg = pictures.map_picture([one, pictures.Map("Second", true, true)])
    assert len(_marks(svg, "circle")) == 2 * 40 * 2 + 3 and "A &lt;map&gt; &amp; more" in svg and "nan" not in svg
    assert svg.count(pictures.ORANGE) == 5 * 2 + 1
    many = np.tile(true, (20, 1))
    assert len(_marks(pictures.map_picture([pictures.Map("", many, many)]), "circle")) == 2 * 267 + 2
    coast = pictures.coast()
    assert 100 < len(coast) < 200 and all((np.abs(ring[:, 1]) <= 90).all() for ring in coast)
    assert max(np.abs(np.diff(ring[:, 0])).max() for ring in coast if ring[:, 1].min() > -89) < 60  # none round Earth
    for point, land in (([2.35, 46], True), ([134, -25], True), ([178, 66], True), ([-178, 67.5], True),
                        ([-30, 40], False)):  # France, Australia, Siberia on both sides of the date line, the Atlantic
        assert any(_holds(ring, point) for ring in coast) == land


def _holds(ring, point) -> bool:
    """Whether a point lies in a ring, by the number of edges to its right."""
    (x, y), (a, b) = point, (ring, np.roll(ring, -1, 0))
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    at = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / np.where(crosses, b[:, 1] - a[:, 1], 1)
    return bool((crosses & (at > x)).sum() % 2)


def test_regions_times_and_errors_are_drawn():
    places = RNG.uniform(-1, 1, (30, 2))
    svg = pictures.map_picture([pictures.Map("World", places, places)], land=False, regions={"A": places[:9]})
    assert len(_marks(svg, "circle")) == 62 and ">A</text>" in svg
    t = RNG.random(50)
    svg = pictures.time_picture(t, t + 0.1, title="Events", unit="time", marked=t > 0.9)
    assert len(_marks(svg, "circle")) == 100 and svg.count(pictures.ORANGE) == 3 * (t > 0.9).sum()
    svg = pictures.errors_picture({"probe": np.abs(RNG.normal(size=90)), "mean": np.full(90, 5.0)}, unit="km")
    assert "median 5 km" in svg and "nan" not in svg and len(_marks(svg, "path")) > 9
    assert "nan" not in pictures.errors_picture({"perfect": np.zeros(9)}, unit="km")
    svg = pictures.components_picture({"probe": [(1, 0.2), (2, 0.7), (64, 0.9)], "random": [(1, -3.0), (64, 0.1)]})
    assert "all: 0.90" in svg and ">64</text>" in svg and len(_marks(svg, "circle")) == 5


def test_the_study_of_the_world_and_that_of_real_names(tmp_path):
    world = study()
    assert [r.name for r in world.readings] == ["distance", "direction", "gap", "order"] and len(world.changes) == 4
    for change in world.changes:
        cases, (part,) = change.cases(20, 0), change.places["name"]
        before, after = part.before(cases), part.after(cases)
        assert before.shape == after.shape == (20, 2 if change.name[6:] in ("distance", "direction") else 1)
        assert not np.isnan(before).any() and (before != after).any(1).all()
    i = np.arange(300)
    file = tmp_path / "towns.csv"
    towns = {"name": [f"Town {k}" for k in i], "longitude": i / 2, "latitude": i % 80, "land": i % 30 * (i % 7 > 1)}
    pd.DataFrame(towns).to_csv(file, index=False)
    own = study(tiny("byte-level"), data=str(file), block="land")
    prompts = own.readings[0].load(300, 0)
    assert own.readings[0].held_out == ["block"] and prompts.examples["block"].nunique() == BLOCKS + 1
    off = own.readings[0].scores["error_km"](np.array([[0.0, 0]]), np.array([[0.0, 1]]))
    assert off[0] == pytest.approx(111.2, abs=1)
    published = study(tiny("byte-level"))
    assert [r.name for r in published.readings] == ["coords", "empty"] and published.readings[0].transfer == ["empty"]
    assert len(_study_checks.CHECKS) == 12
