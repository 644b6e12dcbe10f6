"""The whole study, small, on the shipped 6x6 model: once for all tests of this file."""

import json

import numpy as np
import pandas as pd
import pytest

from probing import read_results, validate
from worldprobe import _othello, _othello_edits
from worldprobe._run import RunError
from worldprobe._submission import read_submission

SMALL = dict(model="othello-6x6", games=40, cases="natural", n_cases=40, quick=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("WORLDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
    lines: list[str] = []
    path = _othello.reproduce(tmp_path_factory.mktemp("runs") / "small", **SMALL, log=lines.append)
    yield path.parent, lines
    patch.undo()


def test_the_results_are_valid_and_name_model_and_data(done):
    table, metadata = read_results(done[0] / "results.parquet")
    validate(table)
    assert metadata["config"]["games"] == 40
    assert set(table["intervention"].dropna()) == {"flip", "erase", "ablate"}
    assert table["data_hash"].notna().all()


def test_the_report_stands_beside_them(done):
    html = (done[0] / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "") and html.count("<script") == 1
    assert "flip" in html and "95 %" in html and "Board by board" in html and "@software{worldprobe" in html
    assert (done[0] / "report.html").stat().st_size < 5e6


def test_the_accuracy_of_the_linear_probe_is_made_again_from_its_samples(done):
    found = read_submission(done[0] / "results.json")
    (row,) = found.table[found.recomputed].to_dict("records")
    assert (row["label"], row["probe"], row["metric"], row["split"]) == ("mine_theirs", "logistic", "accuracy", "test")
    assert found.metadata["set_aside"]["mine_theirs"]["last"][0].split()[0] in ("flip", "erase")


def test_checks_are_objects_with_the_agreed_fields(done):
    checks = json.loads((done[0] / "checks.json").read_text())
    assert {c["id"] for c in checks} >= {3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14}
    for check in checks:
        assert {"id", "what", "paper", "ours", "ci_low", "ci_high", "pass_mark", "pass"} <= set(check)
        if check["ci_low"] is not None:
            assert check["ci_low"] <= check["ours"] <= check["ci_high"]


def test_a_second_run_computes_nothing_and_changes_nothing(done):
    folder, _ = done
    before = {f.name: f.read_bytes() for f in (folder / "stages").iterdir()}
    results = (folder / "results.parquet").read_bytes()
    (folder / "stages" / "erase-after.json").unlink()  # a kill between the data and its record
    lines: list[str] = []
    _othello.run(folder, **SMALL, log=lines.append)
    assert sum("done before" in line for line in lines) == len(before) // 2 - 1
    assert {f.name: f.read_bytes() for f in (folder / "stages").iterdir()} == before
    assert (folder / "results.parquet").read_bytes() == results


def test_another_configuration_is_refused_by_name(done):
    with pytest.raises(RunError, match="config.games is 40 there, 41 was asked for"):
        _othello.run(done[0], **{**SMALL, "games": 41})


def test_a_model_with_other_tokens_is_refused(gpt2_like):
    with pytest.raises(ValueError, match="Othello moves need 61"):
        _othello.run("unused", model=str(gpt2_like))


@pytest.fixture(scope="module")
def gpt2_like(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_other_squares_hold_the_same_disc():
    before = np.array([[0, 2, 2, 1], [0, 1, 1, 1]])
    other = _othello_edits._other_squares(before, np.array([1, 0]), np.array([2, 0]), seed=0)
    assert other[0] == 2  # the only other square with a 2
    assert other[1] != 0 or before[1, other[1]] == 0  # nothing else holds a 0: any square will do


def test_the_plan_says_what_a_run_would_do():
    text = _othello.plan("othello-6x6", games=40, quick=True)
    assert "40 games" in text and "MB" in text and "minutes" in text


def test_bands_hold_the_draws():
    row = {"ci_low": 0.0, "ci_high": 0.0, "n": 5, "n_groups": 3}
    draws = [pd.DataFrame({"value": [float(i), 1.0], **row}) for i in range(21)]
    band = _othello.band(draws)
    assert band["value"].tolist() == [10.0, 1.0]
    assert band.loc[0, ["ci_low", "ci_high", "n"]].tolist() == [1.0, 19.0, 21]
