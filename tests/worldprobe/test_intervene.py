"""`worldprobe intervene` on the decoy world, small: `end` decides the answers, `mark` is as readable and does not."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tasks
from probing import read_results
from tasks import decoy
from worldprobe import _cli, _intervene, _intervene_bench
from worldprobe import _effect_maps as maps
from worldprobe import _effect_plots as plots
from worldprobe._ink import to_svg
from worldprobe._intervene_report import about, in_words, price_section, verdicts_of
from worldprobe._intervene_task import claims, load_prompts, patching_pairs, single, task_module, witnesses
from worldprobe._rows import pick

SMALL = dict(labels=None, edits=["steer", "project_out", "leace"], directions=["mass_mean.write"], prompts=100,
             n_cases=90, options=None, target=None, windows=False, seed=0, quick=True)
ARGV = ["intervene", "decoy", "--edits", "steer,project_out,leace", "--directions", "mass_mean.write", "--prompts",
        "100", "--n-cases", "90", "--quick", "--out"]
FAST = {"refits": 1, "steps": 5}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder of a finished run, what it printed)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(_intervene, "QUICK", _intervene.QUICK | FAST)
        patch.setattr(_intervene, "PATCHING", ("denoise",))
        patch.setattr(_intervene_bench, "MEDIATORS", ("mass_mean.write",))
        folder = tmp_path_factory.mktemp("runs") / "small"
        assert _cli.main([*ARGV, str(folder)]) == 0
        yield folder


@pytest.fixture(scope="module")
def study(done):
    return _intervene.study(done, "decoy", None, **SMALL, log=lambda text: None)


@pytest.fixture(scope="module")
def rows(study) -> dict[str, pd.DataFrame]:
    """Label -> its rows, scans included."""
    everything = pd.concat([study.table, study.scans], ignore_index=True)
    return {label: pick(everything, label=label) for label in ("end", "mark")}


def call(capsys, *argv) -> tuple[int, list[str], list[str]]:
    code = _cli.main(list(map(str, argv)))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_end_is_used_and_enough_and_mark_reads_but_is_neither(done, rows):
    states = {label: [v.state for v in verdicts_of(table, label)] for label, table in rows.items()}
    assert states == {"end": ["yes", "yes", "yes"], "mark": ["yes", "no", "no"]}
    html = (done / "report.html").read_text()
    assert "end: reads, is used and is enough" in html
    assert "mark: reads, but is not used and is not enough" in html
    assert "No answer depends on mark" in html and "random subspaces" in html
    assert html.count("which is not clearly more than random directions do") == 1  # at equal side effect, mark


def test_the_results_are_valid_and_hold_every_part(done):
    table, metadata = read_results(done / "results.parquet")
    assert metadata["config"]["edits"] == ["steer-mass_mean.write", "project_out-mass_mean.write", "leace"]
    assert {"steer", "project_out", "leace", "erase", "interchange", "ablate", "denoise"} <= set(
        table["intervention"].dropna())
    steer = pick(table, intervention="steer", label="end", metric="set_error")
    assert {"null", "clean", "random_direction", "sign_flip", "shuffled_labels", "other_label:mark",
            "full_patch"} <= set(steer["control"].dropna())
    assert {"kl", "loss", "perplexity_ratio"} <= set(pick(table, intervention="steer", subset="unrelated")["metric"])


def test_the_report_shows_every_figure_with_its_data(done):
    html = (done / "report.html").read_text()
    titles = ("steer: layer and dose", "steer: dose and response", "Effect against side effect",
              "Erased layer by layer", "What is still answered", "Readout and mediator",
              "denoise: layers and positions")
    for title in titles:
        assert f">{title}</h" in html
    assert html.count(">Figure (SVG)<") == html.count("<figure ") == 2 * 7 + 1
    assert html.count(">Data (CSV)<") >= html.count("<figure ")
    assert html.count("<script") == 1 and "http://" not in html.replace("http://www.w3.org", "")
    assert (done / "report.html").stat().st_size < 5e6


KILLED = """
import os, signal, sys
from worldprobe import _cli, _intervene, _run
_intervene.QUICK.update(refits=1, steps=5)
_intervene.PATCHING = ("denoise",)
whole, left = _run.store_stage, [2]
def store(record, result):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(record, result)
_run.store_stage = store
_cli.main(sys.argv[1:])
"""


def test_a_killed_run_continues_with_the_same_command_and_ends_with_the_same_bytes(done, tmp_path, capsys):
    killed = tmp_path / "killed"
    shutil.copytree(done, killed)
    (killed / "results.parquet").unlink()
    whole = files(done)
    for name in ("mark-report-steer-mass_mean.write", "mark-amnesic", "end-scan-leace", "end-report-leace"):
        (killed / "stages" / f"{name}.json").unlink()
    (killed / "stages" / "end-report-leace.parquet").write_bytes(b"half of it")
    dead = subprocess.run([sys.executable, "-c", KILLED, *ARGV, str(killed)], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert not (killed / "results.parquet").exists()
    code, _, err = call(capsys, *ARGV, killed)
    assert code == 0
    assert sum("done before" in line for line in err) == len(whole) // 2 - 2  # the killed one had finished two
    assert files(killed) == whole
    assert (killed / "results.parquet").read_bytes() == (done / "results.parquet").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted((folder / "stages").iterdir())}


def test_another_configuration_is_refused(done, capsys):
    code, _, err = call(capsys, *ARGV, done, "--seed", 3)
    assert code == 2 and "config.seed is 0 there, 3 was asked for" in err[0]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(capsys, tmp_path):
    code, out, _ = call(capsys, *ARGV, tmp_path / "run", "--dry-run")
    text = "\n".join(out)
    assert code == 0 and not (tmp_path / "run").exists()
    assert "labels: end, mark" in text and "arms" in text and "MB" in text and "minutes" in text
    assert "for fitting erasers (leace; at most 1 targets at" in text


@pytest.mark.parametrize(("argv", "message"), [
    (["decoyy"], "no task 'decoyy'; did you mean decoy?"),
    (["decoy", "--labels", "mrk"], "no label with cases 'mrk'; did you mean mark?"),
    (["decoy", "--edits", "stear"], "no edit 'stear'; did you mean steer or"),
    (["decoy", "--target", "queston"], "no target of end 'queston'"),
    (["decoy", "--directions", "lda"], "no direction 'lda'; did you mean lda."),
    (["decoy", "--edits", "steer", "--directions", "lda.pair"], "steer goes with directions *.read, *.write, not with"),
    (["decoy", "--with", "size=6"], "--with takes options of the task, here none; not size"),
    (["othello", "--model", "othello-6x6"], "--with"),
])
def test_what_cannot_be_done_is_one_line(argv, message, capsys, tmp_path):
    if argv[0] == "othello":
        argv, message = [*argv, "--with", "sise=6"], "--with takes options of the task, edit, kind, size; not sise"
    code, out, err = call(capsys, "intervene", *argv, "--out", tmp_path / "run", "--quick")
    assert (code, out, len(err)) == (2, [], 1) and message in err[0]
    assert not (tmp_path / "run").exists()


def test_a_price_is_above_0():
    with pytest.raises(ValueError, match="a number of nats above 0, not -1"):
        _intervene.plan("decoy", price=-1)


def test_a_task_without_cases_is_told_which_have_them(monkeypatch, tmp_path):
    (tmp_path / "plain.py").write_text("def load(n=10, seed=0): ...")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=r"plain has no cases to intervene on; these have: decoy, .*othello"):
        task_module("plain")


def test_a_label_that_decides_nothing_borrows_the_answers_of_one_that_does():
    prompts = load_prompts(decoy, 50, 0, {})
    end, mark = claims(decoy, prompts, None, 30, 0, {})
    assert (end.label, end.borrowed, mark.label, mark.borrowed) == ("end", None, "mark", "end")
    np.testing.assert_array_equal(mark.cases.right_after, end.cases.right_after)
    assert not torch.equal(end.cases.tokens[:30], prompts.tokens[:30])  # other prompts than the probes were fitted on


def test_a_witness_is_read_as_tokens_and_refused_when_it_does_not_fit():
    cases = decoy.cases("end", 20)
    prompts = zip(cases.tokens.tolist(), cases.lengths, strict=True)
    text = [" ".join(decoy.WORDS[t] for t in row[:n]) for row, n in prompts]
    own = replace(cases, cases=cases.cases.assign(witness=text))
    assert torch.equal(witnesses(own, decoy.WORDS), cases.tokens)
    assert witnesses(cases, decoy.WORDS) is None
    with pytest.raises(ValueError, match=r"witness of case 0 is 'k b', wanted \d words"):
        witnesses(replace(cases, cases=cases.cases.assign(witness="k b")), decoy.WORDS)


def test_pairs_for_patching_are_the_tasks_own():
    pairs = patching_pairs(decoy, decoy.load(30), [], 25, 0, {})
    assert len(pairs) == 25 and ((pairs.clean != pairs.corrupted).sum(1) == 1).all()


def test_a_label_with_many_targets_is_asked_about_the_one_with_the_most_cases_or_the_one_that_is_named():
    module, options = task_module("othello"), {"size": 6}
    prompts = load_prompts(module, 20, 0, options)
    (claim,) = claims(module, prompts, None, 30, 0, options)
    count = module.cases(size=6, seed=1).cases["target"].value_counts()
    most = single(module, prompts, claim, None, 0, options)
    assert len(most.cases) == count.max() == count[most.target] and not most.asked
    assert most.label == f"mine_theirs/{most.target}" and prompts.targets("mine_theirs")[most.number] == most.target
    assert set(most.cases.cases["target"]) == {most.target} and len(most.cases.right_after) == len(most.cases)
    assert "of all targets the one with the most" in about(most)
    few = count.index[count < 40][-1]
    with pytest.raises(ValueError, match=f"{count[few]} cases change {few}, wanted 40 or more .*have most"):
        single(module, prompts, claim, few, 0, options)
    with pytest.raises(ValueError, match="no target of mine_theirs 'e66'; did you mean e6"):
        single(module, prompts, claim, "e66", 0, options)


def test_a_label_with_one_target_is_asked_about_whole():
    prompts = load_prompts(decoy, 50, 0, {})
    end, _ = claims(decoy, prompts, None, 30, 0, {})
    one = single(decoy, prompts, end, None, 0, {})
    assert one.cases is end.cases and (one.number, one.label) == (0, "end") and about(one) == "All 30 cases."


def test_the_words_follow_the_states(rows):
    words = verdicts_of(rows["mark"], "mark")
    assert in_words([replace(words[0], state="no"), replace(words[1], state="not tested"),
                     replace(words[2], state="partly")]) == "does not read, is used: not tested and is partly enough"


def drawn(rows, study):
    return {"map": maps.layer_dose_map(rows["end"], "steer"), "doses": plots.dose_curves(rows["end"], "steer"),
            "pareto": plots.pareto(rows["end"], plots.common_price(rows["end"])),
            "erased": plots.erasure_by_layer(rows["end"]), "answers": plots.erased_answers(rows["end"]),
            "positions": maps.position_map(study.table, "denoise")}


def test_figures_are_the_same_every_time_and_carry_their_rows(rows, study):
    for (name, figure), again in zip(drawn(rows, study).items(), drawn(rows, study).values(), strict=True):
        svg = to_svg(figure)
        assert svg == to_svg(again), name
        assert set(figure.frame.columns) == set(study.table.columns) and len(figure.frame), name
        assert not re.search(r'(href|src)="(?!#|data:)', svg)


def test_the_dose_map_frames_what_was_chosen(rows, study):
    figure = maps.layer_dose_map(rows["end"], "steer")
    (frame,), dose = figure.axes[0].patches, study.chosen["end"]["steer-mass_mean.write"]
    doses = [float(t.get_text()) for t in figure.axes[0].get_xticklabels()]
    layers = [int(t.get_text()) for t in figure.axes[0].get_yticklabels()]
    assert frame.get_xy() == (doses.index(dose.alpha) - 0.5, layers.index(dose.layer) - 0.5)
    assert layers == sorted(layers, reverse=True)  # the last layer on top


def test_doses_run_from_the_subtracted_edit_through_none_to_the_edit_with_the_price_below(rows):
    above, below = plots.dose_curves(rows["end"], "steer").axes
    line = next(line for line in above.lines if len(line.get_xdata()) > 4)
    assert list(line.get_xdata()) == [-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4]
    assert line.get_ydata()[4] == 2.0 and line.get_ydata()[6] < 0.1
    assert "nats" in below.get_ylabel() and "class means" in below.get_xlabel()
    assert len(above.collections) and len(below.collections)  # bands


def test_edits_are_compared_where_their_line_first_reaches_the_price(rows):
    table = pick(rows["end"], intervention="steer")
    own = pick(table, control=None, split="report", metric="set_error").set_index("alpha")["value"]
    cost = pick(table, control=None, metric="kl", subset="unrelated").set_index("alpha")["value"]
    price = cost[0.5] / 2  # half way from no edit to the first dose
    (row,) = plots.at_price(table, price).itertuples()
    assert row.alpha == pytest.approx(0.25) and row.value == pytest.approx((2.0 + own[0.5]) / 2)
    assert row.ci_low <= row.value <= row.ci_high and row.band_low <= row.band <= row.band_high
    assert plots.common_price(table) == cost.max()
    exact = plots.at_price(table, cost[0.5]).iloc[0]
    assert (exact["alpha"], exact["value"]) == (0.5, pytest.approx(own[0.5]))
    most = plots.at_price(table, 1e6).iloc[0]  # nothing costs so much: where it costs most
    assert most["side"] == cost.max() and most["alpha"] == cost.idxmax()
    assert plots.side_name(table) == "KL on other prompts (nats)"
    here = pick(table, subset="all")
    assert plots.side_name(here) == "KL on these prompts (nats)" and plots.common_price(here) > cost.max()


def test_the_price_is_the_one_that_was_asked_for(rows):
    (exhibit,), (table,) = (getattr(price_section(rows["end"], 0.01), name) for name in ("exhibits", "tables"))
    assert "Dashed: 0.01 nats, as asked for" in exhibit.caption and "0.01 nats" in table.title
    assert table.data["side"].max() <= 0.01 + 1e-9
    assert "the largest price of the median edit" in price_section(rows["end"]).exhibits[0].caption


def test_cells_that_are_not_significant_are_hatched(study):
    figure = maps.position_map(study.table, "denoise")
    shown = pick(study.table, intervention="denoise", metric="nie", control=None)
    hatched = sum(patch.get_hatch() is not None for ax in figure.axes for patch in ax.patches)
    assert hatched == (shown["p_adjusted"] >= 0.05).sum() and 0 < hatched < len(shown)
    one = shown.iloc[0]
    assert maps.significant(one) == (one["p_adjusted"] < 0.05)
    bare = one.copy()
    bare["p_adjusted"], bare["ci_low"], bare["ci_high"] = np.nan, 0.1, 0.2
    assert maps.significant(bare)
    bare["ci_low"] = -0.1
    assert not maps.significant(bare)


def test_a_figure_without_rows_says_what_there_is(rows):
    with pytest.raises(KeyError, match=r"single layers edited by 'flip'; it has intervention: .*steer"):
        maps.layer_dose_map(rows["end"], "flip")
