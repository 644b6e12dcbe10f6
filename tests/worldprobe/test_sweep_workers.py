"""Workers in other processes and on a cluster: killed, cancelled and queued again, they end with the same table."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter

import pytest

from worldprobe._run import RunError
from worldprobe._sweep import settings_of, sweep
from worldprobe._sweep_executors import ONE_THREAD, worker_command
from worldprobe._sweep_folder import DEATHS, SweepFolder
from worldprobe._sweep_plan import plan_cells
from worldprobe._sweep_status import STATES, as_line, as_table, state_of
from worldprobe._sweep_work import work

ASKED = dict(tasks=["decoy"], models=["decoy", "decoy-1"], labels=["end", "mark"], probes=["mass_mean"],
             layers=["embed", "0-1"], prompts=60, shuffles=1, seeds=[0, 1], log=lambda text: None)
WAIT = 300  # seconds, of a machine that does other things too


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A sweep that nobody disturbed."""
    return sweep(tmp_path_factory.mktemp("whole") / "sweep", **ASKED, cache=cache)


def counted(folder: SweepFolder, event: str) -> Counter[str]:
    return Counter(e["cell"] for log in folder.units.glob("*.log") for e in folder.events(log.stem)
                   if e["event"] == event)


def test_killed_workers_are_replaced_and_no_finished_cell_is_computed_again(whole, tmp_path, cache):
    folder, rng, over, killed = SweepFolder(tmp_path / "sweep"), random.Random(0), threading.Event(), []

    def kill() -> None:
        """Whoever works, each time that a few more cells are done."""
        while not over.wait(0.02) and len(killed) < 4:
            if len(folder.done()) > 6 * len(killed):
                held = [h for u in whole.cells["unit"].unique() if (h := folder.held(u)) and h.get("cell")]
                if held:
                    os.kill(rng.choice(held)["pid"], signal.SIGKILL)
                    killed.append(folder.done())

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        done = sweep(folder.path, **ASKED, cache=cache, executor="processes", workers=2, retries=9)
    finally:
        over.set()
        thread.join()
    assert (folder.path / "results.parquet").read_bytes() == (whole.folder.path / "results.parquet").read_bytes()
    assert len(killed) == 4 and done.failed.empty
    assert set(counted(folder, "done").values()) == {1}
    again = {c for c, n in counted(folder, "begin").items() if n > 1}
    assert len(again) <= len(killed) and not again & killed[0]


def test_a_unit_that_another_process_works_on_is_passed_over(whole, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    folder.make()
    folder.write_plan(whole.settings, whole.cells)
    units = whole.cells["unit"].unique()
    with folder.claimed(units[0]) as claim:
        claim.on(whole.cells["cell"].iloc[0])
        if not (child := os.fork()):
            work(SweepFolder(folder.path), [units[0]])
            os._exit(0 if not SweepFolder(folder.path).done() else 1)
        assert os.waitpid(child, 0)[1] == 0
        state = state_of(folder)
        assert (state["running"], state["waiting"]) == (1, len(whole.cells) - 1)
        assert ">" in as_table(state) and "1 running" in as_line(state)
    assert state_of(folder)["running"] == 0


def test_a_cell_over_which_workers_die_fails_and_the_others_are_computed(whole, tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    folder.make()
    cells = whole.cells[whole.cells["unit"] == whole.cells["unit"].iloc[0]].head(3)
    folder.write_plan(whole.settings, cells)
    unit, bad = cells["unit"].iloc[0], cells["cell"].iloc[1]
    for _ in range(DEATHS + 1):  # a process that ends while the lock still names a cell
        if not os.fork():
            with folder.claimed(unit) as claim:
                claim.on(bad)
                os._exit(9)
        os.wait()
    work(folder)
    assert folder.done() == set(cells["cell"]) - {bad}
    assert "5 workers died over it" in folder.failures()[bad]["error"]
    state = state_of(folder)
    assert [state[name] for name in STATES] == [2, 0, 0, 1, 0] and "!" in as_table(state)
    folder.forgive()
    work(folder)
    assert folder.has(bad)


def test_the_state_of_a_sweep_is_told_by_its_folder(whole, capsys):
    import json

    from worldprobe import _cli

    assert _cli.main(["status", str(whole.folder.path), "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["cells"] == state["done"] == len(whole.cells) and state["executor"] == "serial"
    assert [row["strip"] for row in state["rows"]] == ["#" * 10] * 4
    assert _cli.main(["status", str(whole.folder.path)]) == 0
    assert f"{len(whole.cells)} of {len(whole.cells)} cells done" in capsys.readouterr().out
    assert _cli.main(["status", str(whole.folder.path.parent)]) == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err


# --- SLURM -----------------------------------------------------------------------------------------------------------


def no_cluster() -> str:
    """Why the tests of SLURM cannot run here; nothing where they can."""
    if missing := [name for name in ("sbatch", "squeue", "srun", "scontrol") if shutil.which(name) is None]:
        return f"no SLURM here: {missing[0]} is not found"
    found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
    return "" if found.returncode == 0 else f"SLURM does not answer: {found.stderr.strip()}"


def queue(folder: SweepFolder, state: str, what: str) -> list[str]:
    return subprocess.run(["squeue", "-h", "-r", "-t", state, "-n", f"worldprobe-{folder.path.name}", "-o", what],
                          capture_output=True, text=True, check=True).stdout.split()


def wait_for(what, seconds: float = WAIT):
    began = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - began < seconds, "SLURM took too long"
        time.sleep(0.1)
    return found


@pytest.mark.skipif(bool(no_cluster()), reason=no_cluster())
def test_jobs_that_are_queued_again_or_cancelled_lose_nothing(whole, tmp_path, cache):
    folder, did = SweepFolder(tmp_path / "cluster"), []

    def disturb() -> None:
        for goal, words in ((3, ("scontrol", "requeue")), (12, ("scancel",))):
            wait_for(lambda goal=goal: len(folder.done()) >= goal)
            (job,) = wait_for(lambda: queue(folder, "RUNNING", "%i"))
            subprocess.run([*words, job], check=True)
            did.append((words[-1], folder.done(), counted(folder, "begin")))
            if "requeue" in words:  # SLURM would let it wait for two minutes
                wait_for(lambda: "BeginTime" in queue(folder, "PENDING", "%r"))
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)

    thread = threading.Thread(target=disturb)
    thread.start()
    done = sweep(folder.path, **ASKED, cache=cache, executor="slurm", workers=1, retries=9,
                 slurm={"time_limit": 30, "mem": "2G"})
    thread.join()
    assert [what for what, *_ in did] == ["requeue", "scancel"] and done.failed.empty
    assert (folder.path / "results.parquet").read_bytes() == (whole.folder.path / "results.parquet").read_bytes()
    assert set(counted(folder, "done").values()) == {1}
    end = counted(folder, "begin")
    assert all(end[cell] == begun[cell] for _, finished, begun in did for cell in finished)


def test_without_a_cluster_the_executor_says_what_is_missing(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="there is no SLURM on this machine: sbatch is not found"):
        sweep(tmp_path / "sweep", **ASKED, cache=cache, executor="slurm")


SEES = """
import os
from pathlib import Path
from probing import MassMeanProbe
class Sees(MassMeanProbe):
    def fit(self, X, y):
        with open(Path(__file__).with_name("seen"), "a") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "all") + os.linesep)
        return super().fit(X, y)
"""


@pytest.mark.slow
def test_every_worker_sees_one_gpu(tmp_path, cache, monkeypatch):
    (tmp_path / "sees.py").write_text(SEES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.getcwd()]))
    monkeypatch.syspath_prepend(tmp_path)
    folder = SweepFolder(tmp_path / "sweep")
    folder.make()
    asked = {k: ASKED[k] for k in ("labels", "layers", "prompts", "shuffles", "seeds")}
    settings = settings_of(["decoy"], ["decoy", "decoy-1"], **asked, probes=["sees:Sees"], block=1, quick=False,
                           options={}, doses=None, cases=9, correction="none", dtype="float32", device="auto",
                           device_map=None, cache=cache, retries=1)
    folder.write_plan(settings, plan_cells(settings))
    words = [*worker_command(folder), "--workers", "2", "--devices", "3,7"]
    assert subprocess.run(words, env={**os.environ, **ONE_THREAD}).returncode == 0
    assert len(folder.done()) == len(folder.plan())
    assert set((tmp_path / "seen").read_text().split()) == {"3", "7"}
