import numpy as np
import pytest
import torch

from probing import load_model
from tasks.maze import _carriers
from tasks.maze._cases import pairs
from tasks.maze._study_pictures import carriers
from tasks.maze._tokens import to_text


@pytest.fixture(scope="module")
def asked():
    return pairs("add", 20, seed=3)


def test_every_token_belongs_to_one_group(asked):
    groups = _carriers.groups_of(asked)
    parts = sum(groups[name].int() for name in ("passage", "neighbours", "list", "ends", "path", "cell"))
    inside = torch.arange(asked.clean.shape[1]) < asked.lengths[:, None]
    assert (parts[inside] == 1).all() and (parts[~inside] == 0).all()
    together = groups["passage"] | groups["neighbours"] | groups["list"]
    assert torch.equal(together, groups["whole list"]) and not (groups["whole list"] & groups["ends"]).any()


def test_neighbours_are_the_passages_that_share_a_cell(asked):
    groups, case = _carriers.groups_of(asked), 0
    words = to_text(asked.clean[case : case + 1].numpy())[0].split()
    told = to_text(asked.corrupted[case : case + 1].numpy())[0].split()
    slot = int(asked.cases["pos:slot"].iloc[case])
    changed = {words[slot - 3], words[slot - 1], told[slot - 3], told[slot - 1]}
    for start in range(1, words.index("<ADJLIST_END>"), 4):
        shares = bool({words[start], words[start + 2]} & changed) and start != slot - 3
        assert (groups["neighbours"][case, start : start + 4] == shares).all()


def test_the_passage_carries_all_at_the_embedding_and_the_current_cell_after_the_last_block(monkeypatch):
    monkeypatch.setattr(_carriers, "N", 5)
    rows = _carriers.carrier_rows(load_model("maze"), 0)
    value = rows.set_index(["subset", "stream", "layer"])["value"]
    for kind in ("add", "remove"):
        assert value[f"{kind}: passage", "resid_pre", 0] == 1 == value[f"{kind}: cell", "resid_post", 5]
        assert value[f"{kind}: cell", "resid_pre", 0] == 0 == value[f"{kind}: whole list", "resid_post", 5]
    assert ((rows["ci_low"] <= rows["value"]) & (rows["value"] <= rows["ci_high"])).all() and (rows["n"] > 2).all()
    svg = carriers(rows.assign(control=None)).svg
    assert svg.count("<rect") == 2 * 2 * 7 * len(_carriers.GROUPS) and "the current cell" in svg
    assert np.isfinite(rows["value"]).all()
