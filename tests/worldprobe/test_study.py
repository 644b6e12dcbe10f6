"""The engine of studies, on the decoy world with everything that a study can ask for, small."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interventions import knockout_effect
from probing import Site, load_model, read_results, validate
from tasks import LabelledPrompts, decoy
from tasks._checks import check
from tasks._study import Behaviour, Change, Found, Measure, Part, Picture, Read, Reading, Study, codes
from tasks.decoy import study as decoy_study
from tests.worldprobe.test_report import Page, unpacked
from worldprobe._board_rows import board_rows
from worldprobe._cli import main, studies
from worldprobe._rows import pick
from worldprobe._study import with_repeat
from worldprobe._study_items import ends, scores
from worldprobe._submission import read_submission

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="5" height="5" fill="#1f2430"/></svg>'
WHOLE = decoy_study.study()
ARGV = ["reproduce", "decoy", "--quick", "--out"]


def head_norms(model, seed):
    """A made-up measure: how large the output weights of every head are."""
    rows = [{"metric": "head_norm", "layer": layer, "stream": "z", "head": head, "value": float(norm), "n": 1,
             "ci_low": float(norm), "ci_high": float(norm)}
            for layer in range(model.cfg.n_layers)
            for head, norm in enumerate(model.blocks[layer].attn.W_O.detach().flatten(1).norm(dim=1).tolist())]
    return pd.DataFrame(rows)


def in_thirds(n, seed):
    prompts = decoy.load(n, seed)
    return replace(prompts, examples=prompts.examples.assign(third=(prompts.examples["prompt"] % 3).astype(str)))


def small(model: str = "decoy") -> Study:
    end = replace(WHOLE.readings[0], load=in_thirds, quick=240, probes=("logistic", "mass_mean"), held_out=("third",),
                  transfer=("again",), components=True, scores={"wrong": lambda truth, said: (truth != said).mean(1)})
    again = Reading("again", "end", "the same, from other prompts", lambda n, seed: decoy.load(n, seed), quick=240,
                    given=True)
    return replace(WHOLE, behaviour=replace(WHOLE.behaviour, quick=100), readings=[end, again],
                   changes=[replace(WHOLE.changes[0], quick=48)],
                   measures=[Measure("norms", "How large heads are. Made up.", head_norms, heads="head_norm",
                                     picture=lambda rows: Picture("Norms", SVG, f"{len(rows)} rows."))],
                   contrasts={"decoy-1": ["again"], "decoy-9": ["again"]},
                   checks=[*WHOLE.checks, lacking], pictures=lambda found: [Picture("All", SVG, found.model)],
                   shows=lambda found: f"drawn for {found.model}")


def lacking(found: Found):
    raise LookupError("no checkpoints")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder of a finished run, exit code, the function that runs it again)."""
    folder = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(decoy_study, "study", small)
        yield folder, main([*ARGV, str(folder)]), lambda: main([*ARGV, str(folder)])


def test_a_study_runs_from_the_command_line_and_its_results_hold_every_control(done):
    folder, code, _ = done
    table, _ = read_results(folder / "results.parquet")
    validate(table)
    assert code == 0
    checks = {c["id"]: c for c in json.loads((folder / "checks.json").read_text())}
    log = (folder / "run.log").read_text()
    assert list(checks) == [2] and checks[2]["pass"] and "check 4 (lacking) left out: no checkpoints" in log
    assert "there is no reference model decoy-9" in log
    read = pick(table, positions="end", label="end", metric="accuracy", split="test")
    assert {"majority", "shuffled_labels", "random_init", "input_only"} <= set(read["control"].dropna())
    assert {"third held out", "to again", "to again, centred", "32 components"} <= set(read["subset"])
    assert set(pick(table, label="end", control=None, positions="again")["model"]) == {"decoy", "decoy-1"}


def test_the_change_of_what_decides_is_enough_and_random_directions_are_not(done):
    table, _ = read_results(done[0] / "results.parquet")
    rows = pick(table, label="end", intervention="steer", metric="flip_rate", subset="solved", alpha=1.0)
    assert pick(rows, control=None)["value"].max() > 0.9 > 0.3 > pick(rows, control="random_direction")["value"].min()
    full = pick(table, label="end", intervention="patch", metric="flip_rate", control=None, subset="solved")
    assert full["value"].max() == 1


def test_the_heads_of_a_measure_are_knocked_out_beside_others_of_their_layers(done):
    table, _ = read_results(done[0] / "results.parquet")
    cut = pick(table, intervention="knock_out", metric="set_error")
    assert set(cut["control"].dropna()) == {"null", "random_heads"} and (cut["probe"].dropna().nunique()) == 4
    norms = pick(table, metric="head_norm")
    assert len(norms) == 2 * 12 and set(norms["control"].dropna()) == {"random_init"}


def test_what_was_computed_is_kept_and_what_is_missing_is_computed_to_the_same_bytes(done):
    folder, _, again = done
    before = (folder / "results.parquet").read_bytes()
    for name in ("reading-end", "end-last-patch", "measure-norms"):
        (folder / "stages" / f"{name}.json").unlink()
    again()
    assert (folder / "results.parquet").read_bytes() == before


def test_the_report_shows_every_part(done):
    page = (done[0] / "report.html").read_text()
    for words in ("What it does", "How far it goes", "Other models", "Knocked out", "Pictures",
                  "the end that is asked for", "What can be read: end, from the last token"):
        assert words in page, words
    assert page.count("<script") == 1


def test_the_report_shows_the_best_and_worst_examples_and_holds_all(done):
    page = (done[0] / "report.html").read_text()
    assert "Example by example" in page and re.search(r'class="prose">[^<]*\[[^<]+\]', page)
    button = next(a for a in Page(page).all("button") if a.get("data-name") == "best-and-worst-end.csv")
    rows = pd.read_csv(io.StringIO(unpacked(button)))
    known = pick(read_results(done[0] / "results.parquet")[0], positions="end", label="end", metric="accuracy",
                 split="test", subset="all", control=None, model="decoy")
    assert len(rows) == known["n"].iloc[0] and rows["probability of the truth"].is_monotonic_increasing
    assert ((rows["read/answer"] > 0.5) == rows["end/answer"]).mean() in known["value"].to_list()


def test_anyone_can_make_the_numbers_of_a_run_again_from_its_samples(done):
    found = read_submission(done[0] / "results.json")
    again = found.table[found.recomputed]
    assert {"accuracy", "flip_rate"} <= set(again["metric"]) and again["control"].isna().all()
    rows = board_rows(found.table, found.metadata)
    own = rows[(rows["model"] == "decoy") & rows["score"].notna() & (rows["place"] == "end")]
    assert found.recomputed[own["score_row"].astype(int)].any()


def test_what_a_change_writes_and_which_way_did_best_aside_are_told_to_the_leaderboard(done):
    table, metadata = read_results(done[0] / "results.parquet")
    assert metadata["changes"] == {"end": {"last": ["end", "end"]}}
    ways = metadata["set_aside"]["end"]["last"]
    assert len(ways) == len(set(ways)) >= 2 and all(len(way.split(" ")) == 2 for way in ways)
    row = board_rows(table, metadata).query("place == 'end' and probe == 'mass_mean' and model == 'decoy'").iloc[0]
    assert row["edit"] == next(way for way in ways if " mass_mean" in way)
    assert row["chosen"] == "on cases set aside"


@pytest.mark.parametrize(("classes", "values", "truth", "score"), [
    (("no", "yes"), [[0.9, 0.2]], [[1, 0]], 0.85), (("a", "b", "c"), [[2, 1, 0]], [[2, 1, 1]], 2 / 3),
    (None, [[1.5, -1.0]], [[1.0, 1.0]], 1.25)])
def test_an_example_is_scored_by_what_its_label_is(classes, values, truth, score):
    names = "pqr"[: len(values[0])]
    table = pd.DataFrame({"prompt": [0], "pos": [0], "group": [0], "split": "test"} | {
        f"x/{t}": [v] for t, v in zip(names, truth[0], strict=True)})
    prompts = LabelledPrompts("none", torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long), table,
                              {"x": classes} if classes else {})
    read = Read(prompts, np.array([0]), np.array(values, float), "probe")
    assert scores(read, "x")[0] == pytest.approx([score])


def test_best_and_worst_are_of_different_groups_and_worst_are_worse():
    score, groups = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.3, 0.5]), np.array(list("aabcbde"))
    best, worst = ends(score, groups)
    assert best.tolist() == [0, 2, 6] and worst.tolist() == [5, 3]
    assert ends(np.ones(4), np.arange(4))[1].tolist() == []


def test_the_plan_names_what_will_be_done_before_any_work(capsys, tmp_path):
    assert main(["run", "decoy", "--dry-run", "--prompts", "50", "--out", str(tmp_path / "x")]) == 0
    said = capsys.readouterr().out
    assert "reading end: 50 prompts" in said and "change end" in said and "minutes" in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("argv", "message"), [
    (["run", "decoi"], "no task 'decoi'; did you mean decoy?"),
    (["run", "decoy", "--with", "sise=6"], "decoy has no option 'sise' for --with; it takes none"),
    (["run", "decoy", "--games", "6"], "run decoy does not take --games; it takes --model, --prompts, --n-cases, "
                                       "--with, --seed, --quick"),
])
def test_what_cannot_be_run_is_said_in_one_line(argv, message, capsys, tmp_path):
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_study_names_readings_that_it_has():
    part = Part("nowhere", -1, codes, codes)
    with pytest.raises(ValueError, match="the study of x has no reading 'nowhere'; its readings are here"):
        Study("x", "", "", "m", readings=[Reading("here", "y", "", decoy.load)],
              changes=[Change("c", "", decoy.cases, {"p": [part]})])
    with pytest.raises(ValueError, match="two readings of x are called 'here'"):
        Study("x", "", "", "m", readings=[Reading("here", "y", "", decoy.load)] * 2)


def test_a_check_passes_when_it_does_on_every_repeat_of_the_model(monkeypatch, capsys, tmp_path):
    def right(found: Found):
        row = pick(found.table, metric="right").iloc[0]
        return check("answers", None, (row["value"],), "given", found.model == "decoy" or not strict)

    def study(model: str = "decoy") -> Study:
        answers = Behaviour(lambda bridge, n, seed: pd.DataFrame({"right": np.ones(n), "group": np.arange(n)}),
                            {"right": "right answers"}, n=30, quick=30)
        return Study("decoy", "{model}", "", model, behaviour=answers, repeats=["decoy-1"] if model == "decoy" else (),
                     checks=[right])

    monkeypatch.setattr(decoy_study, "study", study)
    for strict, code in ((False, 0), (True, 1)):
        out = tmp_path / str(strict)
        assert main([*ARGV, str(out)]) == code
        (found,) = json.loads((out / "checks.json").read_text())
        assert found["pass"] is not strict and [p["what"] for p in found["parts"]] == ["the same of decoy-1"]
        assert "the same of decoy-1" in capsys.readouterr().out and (out / "decoy-1" / "report.html").exists()
        page = (out / "report.html").read_text()
        assert f"{0 if strict else 1} of 1 pass" in page and "the same of decoy-1" in page


def test_a_check_that_a_repeat_has_no_rows_for_is_that_of_the_first_model_alone():
    one = {"id": 1, **check("curve", None, (0.2,), "<= 1", True)}
    two = {"id": 2, **check("answers", None, (0.9,), ">= 1", True)}
    found = with_repeat([one, two], [two | {"ours": 0.1, "pass": False}], "decoy-1")
    assert found[0] == one and not found[1]["pass"] and found[1]["parts"][0]["ours"] == 0.1


def test_every_task_with_a_study_is_listed():
    assert {"decoy", "othello"} <= set(studies())


def test_a_reading_says_what_its_best_probe_says(done):
    assert {f.name for f in Read.__dataclass_fields__.values()} == {"prompts", "rows", "values", "where", "apart"}
    from safetensors.numpy import load_file

    said = load_file(done[0] / "stages" / "said-end.safetensors")
    assert said["values"].shape == (len(said["rows"]), 1) and ((said["values"] >= 0) & (said["values"] <= 1)).all()
    truth = in_thirds(240, 0).labels("end")[said["rows"]]
    assert ((said["values"] > 0.5) == truth).mean() > 0.95


def test_knocking_out_asks_for_heads():
    model, cases = load_model("decoy"), decoy.cases("end", 8)
    with pytest.raises(ValueError, match="heads are sites"):
        knockout_effect(model, cases, [Site("resid_post", 1)])
    with pytest.raises(ValueError, match="choose at most half of the heads"):
        knockout_effect(model, cases, [Site("z", layer, head) for layer in range(3) for head in range(4)][:7])
    whole = knockout_effect(model, cases, [Site("z", 0, 0)])
    assert np.isfinite(whole["value"]).all() and len(whole) == 6
