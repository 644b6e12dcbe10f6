"""The leaderboard: a folder with one page that opens from disk, made from results files and from nothing else.

    site/index.html          the page: its rows, its look and its script in one file
    site/leaderboard.csv     the same rows
    site/reports/NAME.html   the reports of the runs, to which the rows lead

A board is a folder of submissions: results files that `validate` accepted and `add` put there. A run folder's own rows
are marked `run`, those of a submission `recomputed` where the scores of its examples gave the same numbers, else
`self-reported`.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tasks._files import write_whole

from . import __version__
from ._board_effects import AT_KL
from ._board_rows import board_rows
from ._csv import csv_text
from ._export import read_run, results_file
from ._page import digest, environment, source
from ._paper_rows import shown_model
from ._submission import MAX_SAMPLE_BYTES, SubmissionError, read_submission
from ._terminal import plain

_COMPARED = ["task", "label", "place", "metric"]  # rows that are asked the same


def build(results: Sequence[str | Path], out: str | Path = "site") -> Path:
    """Writes the page, its CSV and the reports into folder `out`; returns the page.

    Args:
        results: Run folders, results files, and boards (folders of submissions), in the order in which their rows come.
    Raises:
        ValueError: One of them holds no results, or nothing can be shown.
        ResultsError: One of them is damaged or breaks a rule.
    """
    folder = Path(out)
    frames = [frame for source in results for frame in _rows_of(Path(source), folder)]
    rows = named(ranked(pd.concat(frames, ignore_index=True))) if frames else pd.DataFrame()
    if rows.empty:
        raise ValueError("there is nothing to show: the results hold no probe and no edit; run a study first")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "leaderboard.csv", csv_text(rows).encode())
    write_whole(folder / "index.html", page(rows).encode())
    return folder / "index.html"


def validate(file: str | Path, samples: str | Path | None = None) -> str:
    """A line that says what a submission holds.

    Raises:
        SubmissionError: It is refused; with the reason.
    """
    found = read_submission(file, samples)
    models = ", ".join(dict.fromkeys(plain(m) for m in found.table["model"].dropna()))
    return (f"valid: {len(found.table):,} rows of {models} (schema {found.version}); {int(found.recomputed.sum()):,} "
            "recomputed from samples, the others are shown as self-reported")


def add(file: str | Path, board: str | Path, samples: str | Path | None = None) -> Path:
    """Puts a valid submission, with its samples, into a board; returns its place there.

    Raises:
        SubmissionError: It is refused, or the board has it.
    """
    found = read_submission(file, samples)
    folder = Path(board)
    name = "-".join(re.sub(r"[^\w.]+", "_", shown_model(str(v))).strip("._")[:40] or "_" for v in (
        found.table["task"].iloc[0], found.table["model"].dropna().iloc[0])) + f"-{found.digest[:12]}"
    path = folder / f"{name}.json"
    if path.exists():
        raise SubmissionError(f"{plain(path)} has these results already")
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(samples) if samples else Path(file).with_suffix(".samples.json")
    if beside.is_file() and beside.stat().st_size <= MAX_SAMPLE_BYTES:
        write_whole(path.with_suffix(".samples.json"), beside.read_bytes())
    write_whole(path, Path(file).read_bytes())
    return path


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `best_rank` and `worst_rank` among the `of` probes that were asked the same: ranks that overlapping
    intervals leave open. A probe is behind another where its whole interval is below the other's."""
    rows = rows.assign(best_rank=np.nan, worst_rank=np.nan, of=np.nan)
    for _, group in rows[rows["score"].notna()].groupby(_COMPARED, dropna=False):
        low, high = group["score_low"].to_numpy(), group["score_high"].to_numpy()
        rows.loc[group.index, "best_rank"] = 1 + (low[None] > high[:, None]).sum(1)
        rows.loc[group.index, "worst_rank"] = len(group) - (high[None] < low[:, None]).sum(1)
        rows.loc[group.index, "of"] = len(group)
    return rows


def named(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with an `id` that stays the same when the board is built again, for links to them."""
    who = rows[["run", "task", "model", "revision", "label", "place", "probe"]].fillna("").agg("\0".join, axis=1)
    who += who.groupby(who).cumcount().astype("str")
    return rows.assign(id=[hashlib.sha256(w.encode()).hexdigest()[:10] for w in who])


def page(rows: pd.DataFrame) -> str:
    """The page of some rows: one HTML file that asks for nothing, runs its own script and no other."""
    fields = [c for c in rows if c not in ("score_row", "effect_row")]
    cells = [[_plain_cell(v) for v in rows[c].astype(object)] for c in fields]
    data = {"fields": fields, "rows": [list(row) for row in zip(*cells, strict=True)]}
    look, script = (source(f"leaderboard.{kind}") for kind in ("css", "js"))
    policy = (f"default-src 'none'; style-src '{digest(look)}'; script-src '{digest(script)}'; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    return environment().get_template("leaderboard.html").render(
        policy=policy, look=look, script=script, data=data, price=f"{AT_KL:g}", version=__version__, n=len(rows),
        models=rows["model"].nunique(), tasks=rows["task"].nunique())


def _rows_of(source: Path, folder: Path) -> Iterator[pd.DataFrame]:
    """Board rows of each results file that `source` is or holds."""
    if source.is_dir() and not any((source / f"results.{kind}").exists() for kind in ("parquet", "json")):
        files = sorted(f for f in source.glob("*.json") if not f.name.endswith(".samples.json"))
        if not files:
            raise ValueError(f"{source} is no run folder and no board: it has no results")
        for file in files:
            found = read_submission(file)
            yield _marked(found.table, found.metadata, found.recomputed, file.stem, None)
        return
    table, metadata = read_run(source)
    file = results_file(source)
    name = file.parent.resolve().name if file.stem == "results" else file.stem
    yield _marked(table, metadata, None, name, _report(file.with_name("report.html"), name, folder))


def _marked(table: pd.DataFrame, metadata: dict, recomputed: np.ndarray | None, name: str,
            report: tuple[str, str] | None) -> pd.DataFrame:
    rows = board_rows(table, metadata)
    if recomputed is None:
        origin = ["run"] * len(rows)
    else:
        done = [[pd.notna(r) and bool(recomputed[int(r)]) for r in pair]
                for pair in zip(rows["score_row"], rows["effect_row"], strict=True)]
        names = {(True, True): "recomputed", (True, False): "score recomputed", (False, True): "effect recomputed"}
        origin = [names.get((score, effect), "self-reported") for score, effect in done]
    versions = metadata.get("versions")
    version = str(versions.get("worldprobe", "")) if isinstance(versions, dict) else ""
    links = [_link(report, row) for _, row in rows.iterrows()]
    return rows.assign(model=rows["model"].map(shown_model), origin=origin, run=name, version=version or None,
                       report=pd.Series(links, index=rows.index, dtype="str"))


def _report(file: Path, name: str, folder: Path) -> tuple[str, str] | None:
    """(address of a run's report in the site, its text); None without one, or where it could run or load anything."""
    if not file.exists():
        return None
    text = file.read_text(encoding="utf-8")
    if not _harmless(text):
        return None
    safe = re.sub(r"[^\w.-]+", "_", name).strip(".") or "run"
    address = f"reports/{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.html"
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    write_whole(folder / address, text.encode())
    return address, text


def _harmless(text: str) -> bool:
    """Whether a report opens with a policy under which it loads nothing and runs no script but one it names."""
    found = re.match(r'\s*<!DOCTYPE html>\s*<html lang="en">\s*<head>\s*<meta charset="utf-8">\s*'
                     r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    policy = html.unescape(found[1]) if found else ""
    rules = {r.split()[0]: r.split()[1:] for r in reversed(policy.split(";")) if r.strip()}  # of two the first holds
    scripts = all(source.startswith("'sha256-") for source in rules.get("script-src", []))
    return rules.get("default-src") == ["'none'"] and scripts


def _link(report: tuple[str, str] | None, row: pd.Series) -> str | None:
    """The address of the section of a report that is about a row: its reading where it has a score, else its edit; of
    an older report, whose sections do not say, the first whose heading names it; else the top."""
    if report is None:
        return None
    address, text = report
    said = {"reading": row["place"], "label": row["label"], "change": row["change"]}
    for kind in ("reading", "label", "change") if pd.notna(row["score"]) else ("change", "reading", "label"):
        about = html.escape(f"{kind}:{said[kind]}", quote=True)
        if found := re.search(rf'<section id="(s[\d-]+)" data-about="{re.escape(about)}"', text):
            return f"{address}#{found[1]}"
    heads = re.findall(r'<h[2-4] id="(s[\d-]+)-h">([^<]*)</h', text)
    for word in [html.escape(str(v)) for v in (said["change"], said["reading"], said["label"]) if pd.notna(v)]:
        for anchor, head in heads:
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", head):
                return f"{address}#{anchor}"
    return f"{address}#main"


def _plain_cell(value: object) -> object:
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if isinstance(value, str) else json.loads(json.dumps(value))
