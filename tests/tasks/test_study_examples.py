"""Examples of a reading, drawn by their task with what a probe read of them."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tasks._study import Found, Read
from tasks.maze.study import study as maze
from tasks.space_time.study import study as space_time
from tasks.truthfulness.study import study as truthfulness

NAMES = ["best 1", "best 2", "worst 1", "worst 2"]


@pytest.mark.parametrize(("study", "reading", "label", "said"), [
    (maze, "path_start", "passage", NAMES), (space_time, "distance", "place", ["Best read", "Worst read"]),
    (space_time, "gap", "time", ["Blue: best read; orange: worst"]), (truthfulness, "object", "truth", NAMES)])
def test_examples_are_drawn_with_what_is_read_of_them(study, reading, label, said):
    whole = study()
    asked = next(r for r in whole.readings if r.name == reading)
    prompts = asked.load(200 if study is space_time else 60, 0)
    rows = np.flatnonzero(prompts.rows("test"))
    values = prompts.labels(label)[rows].astype(np.float64)
    found = Found("m", pd.DataFrame(), pd.DataFrame(), None, {}, {reading: Read(prompts, rows, values, "ridge")}, {})
    text = "".join(ElementTree.fromstring(whole.draws(found, reading, [0, 3, 2, 1], NAMES)).itertext())
    assert all(words in text for words in said)


def test_where_no_map_is_read_the_maze_leaves_the_picture_to_others():
    whole = maze()
    prompts = whole.readings[-1].load(40, 0)
    rows = np.flatnonzero(prompts.rows("test"))
    found = Found("m", pd.DataFrame(), pd.DataFrame(), None, {}, {
        "path": Read(prompts, rows, np.zeros((len(rows), 4)), "probe")}, {})
    assert whole.draws(found, "path", [0, 1], NAMES[:2]) is None
