"""One call shows what was measured: `plot` and `report`, as functions and as methods of a sweep."""

import importlib

import pandas as pd
import pytest

import worldprobe
from probing import Sweep
from probing._results import results_frame
from probing._views import view
from tests.worldprobe.board_table import edit_rows, probe_rows


def probes() -> pd.DataFrame:
    return results_frame(probe_rows("end", {"lda": [0.7, 0.9], "ridge": [0.7, 0.8]})
                         + probe_rows("mark", {"lda": [0.6, 0.6]}))


def edits() -> pd.DataFrame:
    return results_frame(edit_rows("end", "lda.write"))


def test_a_sweep_is_drawn_by_layer_and_effects_by_dose():
    probe, effect = worldprobe.plot(Sweep(probes())), worldprobe.plot(edits())
    assert set(probe.frame["label"]) == {"end"} and "majority" in set(probe.frame["control"].dropna())
    assert set(effect.frame["metric"]) == {"set_error", "kl"} and "random_direction" in set(effect.frame["control"])
    both = pd.concat([probes(), edits()])
    assert set(worldprobe.plot(both, intervention="steer").frame["intervention"]) == {"steer"}
    with pytest.raises(ValueError, match="no rows"):
        worldprobe.plot(probes()[:0])
    with pytest.raises(KeyError, match="nobody"):
        worldprobe.plot(probes(), "nobody")


def test_a_report_holds_verdicts_for_every_label(tmp_path):
    path = Sweep(probes()).report(edits(), out=tmp_path / "new" / "r.html", title="Mine")
    page = path.read_text()
    for part in ("Mine", "What the states say of end", "What the states say of mark",
                 "What the model does with end", "is enough", "random directions", "worldprobe contributors"):
        assert part in page
    alone = worldprobe.report(edits(), out=tmp_path / "e.html").read_text()
    assert "is enough" in alone and "What toy-1 knows of toy, and uses" in alone
    with pytest.raises(ValueError, match="nothing to report"):
        worldprobe.report()


def test_a_sweep_finds_its_views_without_importing_them():
    assert view("plot") is worldprobe.plot and view("report") is worldprobe.report
    assert Sweep(probes()).plot("mark").frame["label"].unique().tolist() == ["mark"]
    assert "worldprobe" not in importlib.import_module("probing._sweep").__dict__
