"""Labelled prompts say at a glance what they are, as text and as HTML that needs no network and runs nothing."""

import re
from xml.etree import ElementTree

import pandas as pd
import pytest
from tiny_tokenizers import tiny

import tasks

WORLDS = {"othello": dict(n=6, size=6), "maze": dict(n=8, size=4), "space_time": {}, "decoy": dict(n=12),
          "truthfulness": dict(n=30)}


@pytest.mark.parametrize("world", WORLDS)
def test_every_task_shows_its_prompts(world):
    prompts = tasks.load(world, **WORLDS[world])
    text, page = repr(prompts), prompts._repr_html_()
    assert set(WORLDS) == set(tasks.available())
    for part in (world, f"{len(prompts):,} examples", "train", "test", prompts.schemes[0]):
        assert part in text and part in page
    assert len(text.splitlines()) < 16 and max(map(len, text.splitlines())) < 250
    root = ElementTree.fromstring(f"<body>{page}</body>")  # well-formed
    assert not re.search(r"<script|<link|<img|<iframe|url\(|@import| on\w+=", page)
    assert all(a.endswith("www.w3.org/2000/svg") for a in re.findall(r'https?://[^"\s]+', page))
    assert (root.find(".//{http://www.w3.org/2000/svg}svg") is not None) == (world not in ("decoy", "truthfulness"))
    assert len(root.findall(".//mark")) == 3  # the probed token of the first three prompts


def test_the_board_drawn_is_the_board_labelled():
    prompts = tasks.load("othello", n=6, size=6)
    for row in (0, 17):
        drawn = tasks.picture(prompts, [row])
        black, white = drawn.count("#20242b;stroke"), drawn.count("#ffffff;stroke")
        codes = prompts.labels("black_white")[row]
        assert (black, white) == ((codes == 2).sum(), (codes == 0).sum())


def test_the_walls_drawn_are_the_walls_labelled():
    prompts = tasks.load("maze", n=8, size=4)
    assert "prompt 3" in (drawn := tasks.picture(prompts, [3]))
    walls = int((prompts.labels("passage")[3] == 0).sum())
    assert len(re.findall("stroke-width:3.4", drawn)) == walls + 1  # the border is drawn alike


def test_events_are_shown_on_the_axis_of_time():
    prompts = tasks.load("space_time", prompt="gap")
    page = prompts._repr_html_()
    assert all(name in page for name in prompts.examples["entity"][:3]) and "<svg" in page


def test_texts_of_others_are_shown_as_text():
    frame = pd.DataFrame({"text": [f"<script>alert({i})</script> {i}" for i in range(9)], "label": [0, 1, 1] * 3,
                          "year": [1900.0 + i for i in range(9)]})
    prompts = tasks.from_table(frame, tiny("byte-level"), labels=["label", "year"], name="<b>mine</b>")
    page = prompts._repr_html_()
    assert "<script" not in page and "<b>mine" not in page and "&lt;script&gt;alert(0)" in page
    assert "numbers, 1900 to 1908" in page and "label: 1" in repr(prompts)
    assert "<mark" in tasks.picture(prompts, [0, -1]) and tasks.picture(prompts, []) == ""
    with pytest.raises(IndexError, match="no row 9, the prompts have 9"):
        tasks.picture(prompts, [9])
    with pytest.raises(ValueError, match="name of a task of ours"):
        tasks.from_table(frame, tiny("byte-level"), name="maze")


def test_cases_fit_on_a_line():
    assert repr(tasks.decoy.cases("end", 10)).startswith("Counterfactuals: decoy, end, end changed, 10 cases")
