"""Heads that read a label best, pushed together: rows, controls and the sentence, in the decoy world."""

import pandas as pd
import pytest

from probing import load_model, validate
from tasks import decoy
from tasks._study import Heads, Study
from tasks.decoy.study import study as decoy_study
from worldprobe._rows import pick
from worldprobe._run import open_run
from worldprobe._study import sized
from worldprobe._study_heads import ACCURACY, DOSES, chosen_dose, finding, head_section, head_stages, pushed


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(study, rows, scans, the log) of both changes of the decoy world, small."""
    model, said = load_model("decoy", device="cpu"), []
    whole = sized(decoy_study(), None, 60, True)
    study = Study("decoy", "", "", "decoy", changes=whole.changes, readings=whole.readings, heads=[
        Heads(name, name, decoy.load, n_heads=4, quick=300) for name in ("end", "mark")])
    folder = open_run(tmp_path_factory.mktemp("heads") / "run", {}, fingerprints={}, log=said.append)
    tables, scans = head_stages(folder, model, study, seed=0, quick=True)
    return study, pd.concat(tables, ignore_index=True), scans, said


def test_every_head_is_scored_beside_a_random_model_and_every_dose_beside_other_heads(done):
    study, table, scans, _ = done
    validate(table)
    for change in study.changes:
        read = pick(table, metric=ACCURACY, positions=change.name)
        assert len(pick(read, control=None)) == len(pick(read, control="random_init")) == 12
        rows = pick(table, label=pushed(change), metric="flip_rate", intervention="iti")
        assert set(rows["control"].dropna()) >= {"null", "random_heads", "random_direction", "sign_flip"}
        assert set(pick(rows, control="random_heads")["alpha"]) == set(DOSES)
        assert chosen_dose(scans, change) in DOSES and (pick(rows, control="random_heads")["n"] == 20).all()


def test_the_heads_of_what_decides_move_the_answer_and_the_sentence_says_so(done):
    study, table, scans, said = done
    end, mark = study.changes
    assert finding(table, scans, end).startswith("the 3 heads that read it best")
    assert ", more than as many other heads do" in finding(table, scans, end)
    assert any(finding(table, scans, end) in line for line in said)
    assert "more than" not in finding(table, scans, mark).replace("no more than", "")
    section = head_section(table, scans, study.heads[0], end)
    assert len(section.tables) == 2 and "other heads" in section.tables[0].shown
    assert section.text[0].startswith("The 3 heads")


def test_heads_are_pushed_for_a_change_that_there_is():
    with pytest.raises(ValueError, match="pushes heads for 'nothing', which is no change of it; its changes are none"):
        Study("x", "", "", "m", heads=[Heads("nothing", "y", decoy.load)])
