import json
import sys

import numpy as np
import pandas as pd
import pytest

import probing
import tasks
from probing import MassMeanProbe, RidgeProbe
from tasks.space_time.study import study
from worldprobe import _cli
from worldprobe._export import export
from worldprobe._leaderboard import build
from worldprobe._run import RunError
from worldprobe._sweep import settings_of, sweep
from worldprobe._sweep_folder import SweepFolder
from worldprobe._sweep_plan import UNIT_SECONDS, in_turn, plan_cells, sites_of
from worldprobe._sweep_work import work

SMALL = dict(models=["decoy"], labels=["end"], probes=["mass_mean"], layers=["embed", "1"], prompts=120)


def swept(out, **more):
    return sweep(out, ["decoy"], **SMALL | dict(seeds=[0, 1], log=lambda text: None) | more)


def table(folder):
    return folder.path / "results.parquet"


def begun(folder: SweepFolder) -> list[str]:
    """Cells in the order in which some process began them, once for each time."""
    logs = sorted(folder.units.glob("*.log"))
    return [e["cell"] for log in logs for e in folder.events(log.stem) if e["event"] == "begin"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    return swept(tmp_path_factory.mktemp("whole") / "sweep", cache=cache)


def test_every_cell_is_computed_once_and_the_table_is_valid(whole):
    assert len(whole.cells) == 8 and sorted(begun(whole.folder)) == sorted(whole.cells["cell"])
    rows, about = probing.read_results(table(whole.folder))
    assert set(rows["control"].dropna()) == {"majority", "majority_by_position", "shuffled_labels", "random_init",
                                             "input_only"}
    assert sorted(rows["seed"].unique()) == [0, 1] and about["command"][:3] == ["worldprobe", "sweep", "decoy"]
    assert whole.failed.empty and whole.report.read_text().count("<svg") > 0


def test_the_rows_are_those_of_probing_sweep(whole, cache):
    prompts, model = tasks.load("decoy", n=120, seed=1), probing.load_model("decoy")
    sites = sites_of(["embed", "1"], model.cfg.n_layers, "decoy")
    acts = probing.extract(model, prompts, sites, cache=cache, random_init=1)
    wanted = probing.sweep(acts, prompts, ["end"], {"mass_mean": MassMeanProbe()}, seed=1).rows
    rows = probing.read_results(table(whole.folder))[0]
    rows = rows[rows["seed"] == 1].drop(columns=["positions", "p_adjusted"])
    order = [c for c in ("control", "probe", "stream", "layer", "metric", "split", "subset") if c in rows]
    first, second = (t[rows.columns].sort_values(order).reset_index(drop=True) for t in (rows, wanted))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.slow
def test_the_choice_of_a_layer_is_held_against_shuffled_labels_as_in_probing_sweep(tmp_path, cache):
    done = sweep(tmp_path / "s", ["space_time"], labels=["distance"], probes=["ridge"], layers=["0-1"], prompts=60,
                 shuffles=20, cache=cache, log=lambda text: None)
    rows = probing.read_results(table(done.folder))[0]
    (reading,) = (r for r in study().readings if r.name == "distance")
    prompts, model = reading.load(60, 0), probing.load_model("space_time")
    acts = probing.extract(model, prompts, sites_of(["0-1"], model.cfg.n_layers, ""), cache=cache)
    wanted = probing.sweep(acts, prompts, [reading.label], {"ridge": RidgeProbe()}, shuffles=20).rows
    both = [t[t["control"] == "best_of_layers_null"][["split", "value", "ci_low", "ci_high", "n"]]
            for t in (rows, wanted)]
    pd.testing.assert_frame_equal(*(t.reset_index(drop=True) for t in both), check_exact=False)


def test_a_sweep_that_was_stopped_goes_on_and_ends_with_the_same_bytes(whole, tmp_path, cache):
    first = SweepFolder(tmp_path / "sweep")
    first.make()
    first.write_plan(whole.settings, whole.cells)
    asked = iter(range(100))
    work(first, stop=lambda: next(asked) > 4)
    done = first.done()
    assert 0 < len(done) < len(whole.cells)
    again = swept(first.path, cache=cache)
    assert table(again.folder).read_bytes() == table(whole.folder).read_bytes()
    assert again.report.read_bytes() == whole.report.read_bytes()
    assert sorted(begun(first)) == sorted(whole.cells["cell"])


def test_a_larger_sweep_computes_only_what_is_new(whole, tmp_path, cache):
    out = tmp_path / "sweep"
    one = swept(out, seeds=[1], cache=cache)
    assert len(begun(one.folder)) == 4
    both = swept(out, cache=cache)
    assert len(begun(both.folder)) == 8 and table(both.folder).read_bytes() == table(whole.folder).read_bytes()


def test_other_numbers_are_other_cells_and_workers_change_none():
    base = dict(seeds=[0], block=1, quick=False, options={}, shuffles=None, doses=None, cases=9, cache=None,
                correction="none", dtype="float32", device="auto", device_map=None, retries=1)
    small = {k: v for k, v in SMALL.items() if k != "models"}

    def ids(**more):
        return set(plan_cells(settings_of(["decoy"], ["decoy"], **base | small | more))["cell"])

    same = ids()
    assert same == ids(retries=7, cache="elsewhere", correction="holm")
    for other in (dict(seeds=[1]), dict(prompts=121), dict(shuffles=3), dict(dtype="bfloat16"), dict(cases=10)):
        assert not same & ids(**other)
    assert len(same & ids(layers=["embed", "0"])) == 3  # baseline, input, embedding


def test_units_are_cut_by_time_and_taken_group_by_group():
    cells = pd.DataFrame({"cell": [f"{i:04d}" for i in range(60)], "group": np.repeat(["a", "b", "c"], 20),
                          "seconds": UNIT_SECONDS / 9.5})
    from worldprobe._sweep_plan import _units

    cells["unit"] = _units(cells)
    sizes = cells.groupby("unit", sort=False).size()
    assert sizes.tolist() == [9, 9, 2] * 3 and (cells.groupby("unit")["group"].nunique() == 1).all()
    groups = cells.drop_duplicates("unit").set_index("unit")["group"]
    assert groups[in_turn(cells)].tolist() == ["a", "b", "c"] * 3


PROBE = """
from pathlib import Path
from probing import MassMeanProbe
class Odd(MassMeanProbe):
    def fit(self, X, y):
        file = Path(__file__).with_name("fits")
        file.write_text(file.read_text() + "x" if file.exists() else "x")
        if len(file.read_text()) in FAILS:
            raise ValueError("no fit today")
        return super().fit(X, y)
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """odd(fails) -> a probe whose fits of these numbers (from 1) fail."""
    def make(fails):
        (tmp_path / "odd_probe.py").write_text(PROBE.replace("FAILS", repr(fails)))
        monkeypatch.syspath_prepend(tmp_path)
        return "odd_probe:Odd"

    yield make
    sys.modules.pop("odd_probe", None)


def test_a_cell_that_fails_once_is_tried_again(odd, tmp_path, cache):
    done = swept(tmp_path / "s", probes=[odd([2])], seeds=[0], cache=cache)
    assert done.failed.empty and len(begun(done.folder)) == 5 and not list(done.folder.failed.iterdir())


def test_cells_that_fail_for_good_hide_no_others_and_the_next_command_tries_them_again(odd, tmp_path, cache, capsys,
                                                                                       monkeypatch):
    argv = ["sweep", "decoy", "--labels", "end", "--probes", f"mass_mean,{odd([2, 3])}", "--layers", "embed,1",
            "--prompts", "120", "--cache", str(cache), "--out", str(tmp_path / "s")]
    monkeypatch.setattr(sys, "argv", ["worldprobe", *argv])
    assert _cli.main(argv) == 1
    out, err = capsys.readouterr()
    assert "failed: probe decoy decoy end odd_probe:Odd resid_pre.0, seed 0: ValueError: no fit today" in err
    assert f"1 of 7 cells failed; their tracebacks are in {tmp_path / 's' / 'failed'}. To try them again: worldprobe " \
        f"sweep decoy --labels end" in err
    (file,) = (tmp_path / "s" / "failed").iterdir()
    assert "raise ValueError" in json.loads(file.read_text())["traceback"]
    rows = probing.read_results(out.strip().replace("report.html", "results.parquet"))[0]
    assert set(rows.loc[rows["probe"] == "odd_probe:Odd", "stream"].dropna()) == {"resid_post"}
    assert set(rows.loc[rows["probe"] == "mass_mean", "stream"].dropna()) == {"resid_pre", "resid_post"}
    assert _cli.main(argv) == 0 and not (tmp_path / "s" / "failed" / file.name).exists()


@pytest.mark.slow
def test_a_probe_without_its_control_is_kept_back(odd, tmp_path, cache):
    done = swept(tmp_path / "s", probes=["mass_mean", odd([1, 2])], seeds=[0], cache=cache)
    assert done.failed["kind"].tolist() == ["input_only"]
    rows = probing.read_results(table(done.folder))[0]
    assert set(rows["probe"].dropna()) == {"mass_mean"}


def test_a_damaged_cell_is_an_error_that_names_the_file(whole, tmp_path, cache):
    import shutil

    shutil.copytree(whole.folder.path, tmp_path / "s")
    file = next((tmp_path / "s" / "cells").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(RunError, match=f"{file.name} is damaged"):
        swept(tmp_path / "s", cache=cache)


@pytest.mark.slow
def test_effects_stand_beside_their_random_band_and_the_leaderboard_and_exports_take_them(tmp_path, cache):
    done = swept(tmp_path / "s", seeds=[0], doses=[1.0], cases=20, layers=["1"], cache=cache)
    assert done.failed.empty and done.cells["kind"].tolist() == ["baseline", "input_only", "probe", "effect"]
    rows = probing.read_results(table(done.folder))[0]
    assert {"null", "random_direction", "sign_flip"} <= set(rows.loc[rows["intervention"] == "steer", "control"])
    page = build([done.folder.path], tmp_path / "site").read_text()
    assert "mass_mean" in page
    assert len(export(done.folder.path, ["csv", "latex"])) == 2


@pytest.mark.parametrize(("asked", "message"), [
    (dict(tasks=["decoi"]), "no task 'decoi'; did you mean decoy"),
    (dict(labels=["and"]), "no label of decoy 'and'; did you mean end"),
    (dict(probes=["mean_mass"]), "no probe 'mean_mass'; did you mean mass_mean"),
    (dict(probes=["ridge"]), "no probe for 'end', a label of classes: it needs a classifier"),
    (dict(probes=["nowhere:Probe"]), "no probe 'nowhere:Probe': No module named"),
    (dict(layers=["9"]), "decoy has layers 0 to . and embed, not 9"),
    (dict(layers=["first"]), "'first' is no layer; say embed, 3, -1 or 2-5"),
    (dict(models=["decoy", "decoy"]), "decoy is named twice"),
    (dict(options={"size": 6}), "--with takes options of the task"),
    (dict(executor="cloud"), "no executor 'cloud'"),
    (dict(seeds=[]), "name each seed once, and at least one; none came"),
])
def test_what_is_not_there_is_said_before_any_work(tmp_path, asked, message):
    given = dict(SMALL, tasks=["decoy"], seeds=[0]) | asked
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path / "s", given.pop("tasks"), **given)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_sweep_is_left_alone(tmp_path):
    (tmp_path / "chapter.tex").write_text("kept")
    with pytest.raises(RunError, match="is not the folder of a sweep: it has no sweep.json, but chapter.tex"):
        swept(tmp_path)
    SweepFolder(tmp_path).discard()
    assert (tmp_path / "chapter.tex").exists()


def test_layers_are_named_from_either_end():
    assert [str(s) for s in sites_of(["-1", "embed", "0-1"], 4, "m")] == [
        "resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.3"]


def test_a_dry_run_measures_a_few_cells_and_writes_nothing(tmp_path, cache, capsys, monkeypatch):
    argv = ["sweep", "decoy", "--labels", "end", "--probes", "mass_mean", "--layers", "embed,1", "--prompts", "50",
            "--seeds", "0-2", "--cache", str(cache), "--out", str(tmp_path / "s"), "--dry-run"]
    assert _cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "12 cells in 3 units: 3 baseline, 3 input_only, 6 probe" in out
    # 3 seeds x 50 examples x 2 sites x 32 numbers of 4 bytes, of the model and of its random twin
    assert f"activations on disk: {3 * 50 * 2 * 32 * 4 * 2 / 1e6:.1f} MB in {cache}" in out
    assert "of one core, by a measurement on this machine" in out and not (tmp_path / "s").exists()


def test_a_law_of_cost_goes_through_what_was_measured():
    from worldprobe._sweep_cost import _line

    points = [np.array([1.0, 70, 900]), np.array([2.0, 70, 1000])]
    assert _line([50, 100], points, 300).tolist() == [6.0, 70, 1400]
    assert _line([50, 100], points[::-1], 300).tolist() == [1.0, 70, 900]  # noise never makes more prompts cheaper
    assert _line([30], points[:1], 30).tolist() == [1.0, 70, 900]


@pytest.mark.parametrize(("argv", "message"), [
    (["--seeds", "0-"], "'0-' is no seed; say 0,1,2 or 0-9"),
    (["--seeds", "5-2"], "'5-2' is no seed"),
    (["--doses", "one"], "'one' is no list of doses"),
    (["--time-limit", "1:30"], "'1:30' is no time; say minutes, H:MM:SS or D-HH:MM:SS"),
    (["--workers", "0"], "'0' is not a whole number from 1"),
])
def test_a_wrong_option_is_said_with_the_remedy(tmp_path, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        _cli.main(["sweep", "decoy", "--out", str(tmp_path), *argv])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_options_of_jobs_want_the_executor_that_has_jobs(tmp_path, capsys):
    assert _cli.main(["sweep", "decoy", "--out", str(tmp_path / "s"), "--time-limit", "30"]) == 2
    assert "--time-limit is for --executor slurm, the executor is serial" in capsys.readouterr().err


def test_times_are_minutes():
    from worldprobe._cli_sweep import _minutes

    assert [_minutes(t) for t in ("90", "2:30:00", "1-12:00:00", "0:00:30")] == [90, 150, 2160, 1]
