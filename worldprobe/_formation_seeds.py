"""`worldprobe formation MODEL MODEL ...`: several runs of one training, each followed by itself, and what all of them
say of what is first.

One run of training is one sample. The order of a relation and a probe (or behaviour) is that of every seed by its own
checkpoints; the verdict is one where all seeds agree, else that they do not. Lags are decades of training, mean over
seeds with a t-interval, so that the interval is one over trainings.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from probing._model_files import find
from tasks._files import write_whole

from ._csv import csv_text
from ._formation_followed import Followed, headline, steps_between
from ._formation_model import asked, follow_one, shape_of, task_of
from ._ink import INK, MUTED, SERIES, Plot, plot, words
from ._report import Exhibit, Section, Table, write_report
from ._run import open_run
from ._study_dynamics import checkpoints

ENOUGH = 3  # seeds, for a claim about training
APART = "seeds disagree"
COLOURS = {"behaviour": SERIES[1], "probe": SERIES[0], "alignment": SERIES[2]}
DID = {"leads": "lead", "follows": "follow", "cannot be told": "cannot be told from it", "does not grow": "do not grow",
       "nothing to lead": "have nothing to lead"}


def follow_seeds(out: str | Path, models: Sequence[str], task: str | None = None, *, prompts: int | None = None,
                 seed: int = 0, quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Follows runs of one training that differ by their seed, each in a folder of its own name; returns the path of the
    report on all. The same call again continues. Arguments as in `worldprobe._formation_model.follow`.

    Raises:
        ValueError: A model named twice, models of several tasks or architectures, or one that cannot be followed.
    """
    of_task = {m: task or task_of(m) for m in models}
    if len(set(of_task.values())) > 1:
        raise ValueError(f"seeds of one training have one task, but {models[0]} is of {of_task[models[0]]} and "
                         f"{next(f'{m} of {x}' for m, x in of_task.items() if x != of_task[models[0]])}; follow models "
                         "of different tasks one by one")
    directories, names = directories_of(models), names_of(models)
    folder = open_run(out, {"followed": names, "models": list(models), "task": of_task[models[0]], "prompts": prompts,
                            "seed": seed, "quick": quick}, log=log)
    runs = [asked(folder.path / name, m, of_task[m], prompts, seed, quick, log)
            for name, m in zip(names, models, strict=True)]  # all is checked before anything is measured
    found: dict[str, Followed] = {}
    for name, run in zip(names, runs, strict=True):
        folder.log(f"{name}: {folder.path / name}")
        found[name] = follow_one(*run)[1]
    orders = orders_of(found)
    over = over_seeds(orders)
    write_whole(folder.path / "lead_or_follow.csv", csv_text(orders).encode())
    said, first = answers(found, orders, over), found[names[0]].first
    more = [end_aligned(over), *step_notes({name: list(checkpoints(d))
                                            for name, d in zip(names, directories, strict=True)})]
    for line in (*said.values(), *more):
        folder.log(line)
    headlines = [said[name] for kind in ("behaviour", "probe") for name in headline(first, kind)["curve"]]
    about = folder.environment()
    return write_report(
        folder.path / "report.html", title=f"What is first, over {len(names)} seeds of training",
        summary=[f"Seeds, in this order: {', '.join(names)}.", *(headlines or said.values()), *more],
        sections=[_section(found, orders, over)],
        run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config), **about})


def directories_of(models: Sequence[str]) -> list[Path]:
    """The directory of every model.

    Raises:
        ValueError: The same weights twice, or two architectures, naming both.
    """
    seen: dict[str, str] = {}
    sources = [find(m) for m in models]
    for m, source in zip(models, sources, strict=True):
        if source.revision in seen:
            raise ValueError(f"{m} and {seen[source.revision]} have the same weights; a run of training counts once, "
                             "so name each of them once")
        seen[source.revision] = m
    shapes = [shape_of(source.path) for source in sources]
    for m, shape in zip(models, shapes, strict=True):
        if odd := sorted(k for k in {*shape, *shapes[0]} if shape.get(k) != shapes[0].get(k)):
            raise ValueError(f"seeds of one training have one architecture, but {odd[0]} is {shapes[0].get(odd[0])} in "
                             f"{models[0]} and {shape.get(odd[0])} in {m}; follow different models one by one")
    return [source.path for source in sources]


def names_of(models: Sequence[str]) -> list[str]:
    """What tells paths apart: their last parts, as few as that takes."""
    parts = [Path(m).absolute().parts[1:] for m in models]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


def orders_of(found: Mapping[str, Followed]) -> pd.DataFrame:
    """One row per seed, relation and probe or behaviour (`other`): `order`, `halfway_from`, `halfway_to` and
    `half_rise` of both, `half_rise_lag` (missing where one of them does not grow), `lag` of their steps (missing where
    one has no step of its own), and of the relation `gain` with its interval and whether it ends `aligned`: above its
    value at step 0 and above rotated eigenvectors, by 95 % of resamples.

    What is halfway before the first saved step counts as halfway there, which makes lags smaller: `bound` says so."""
    tables = []
    for name, followed in found.items():
        about = pd.concat([followed.first, followed.transitions]).drop_duplicates("curve").set_index("curve")
        rows = followed.lags[["curve", "other", "order", "lag"]].copy()
        for whose in ("curve", "other"):
            for column in ("halfway_from", "halfway_to", "half_rise"):
                rows[f"{column}_of_{whose}"] = about.loc[rows[whose], column].to_numpy()
        for column in ("gain", "gain_low", "gain_high", "last"):
            rows[column] = about.loc[rows["curve"], column].to_numpy()
        both = rows["order"].isin(["leads", "follows", "cannot be told"]).to_numpy()
        sharp = [bool(about.loc[a, "sharp"] and about.loc[b, "sharp"])
                 for a, b in zip(rows["curve"], rows["other"], strict=True)]
        own, theirs = (rows[f"half_rise_of_{whose}"].clip(lower=followed.steps[1]) for whose in ("curve", "other"))
        rows["half_rise_lag"] = np.log10(own / theirs).where(both)
        rows["bound"] = rows["half_rise_of_curve"] < followed.steps[1]
        rows["lag"] = rows["lag"].where(both & np.array(sharp))
        rows["aligned"] = rows["curve"].map(aligned(followed))
        tables.append(rows.assign(seed=name))
    return pd.concat(tables, ignore_index=True).rename(columns={"curve": "relation"})


def aligned(followed: Followed) -> dict[str, bool]:
    """Relation -> whether its mean over layers ends above step 0 and above rotated eigenvectors, on rows that were not
    trained on, by 95 % of resamples."""
    return {relation.name: bool(
        np.percentile(curve.draws[:, -1], 2.5) > relation.null_high[-1].mean()
        and np.percentile(curve.draws[:, -1] - curve.draws[:, 0], 2.5) > 0)
        for relation, curve in zip(followed.relations, followed.curves, strict=True)}


def over_seeds(orders: pd.DataFrame) -> pd.DataFrame:
    """One row per other and relation: `verdict`, the order of all seeds or `seeds disagree`; `counts` in words;
    `half_rise_lag` and `lag`, decades, mean over the seeds that have one (`..._n`), with a 95 % t-interval where there
    are two; `bound`, whether the former is one; `aligned`, in how many seeds; `seeds`."""
    rows = []
    for (other, relation), part in orders.groupby(["other", "relation"], sort=False):
        counts = part["order"].value_counts()
        row = {"other": other, "relation": relation, "seeds": len(part), "aligned": int(part["aligned"].sum()),
               "bound": bool(part["bound"].any()),
               "verdict": counts.index[0] if len(counts) == 1 else APART,
               "counts": ", ".join(f"{n} {DID[kind]}" for kind, n in counts.items())}
        for name in ("half_rise_lag", "lag"):
            row |= dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), t_interval(part[name]), strict=True))
        rows.append(row)
    found = pd.DataFrame(rows)
    return found.sort_values("other", key=lambda o: o.map({name: i for i, name in enumerate(o.unique())}),
                             kind="stable", ignore_index=True)


def t_interval(values: pd.Series) -> tuple[float, float, float, int]:
    """(mean, low, high, n) of the values that are there: 95 %, Student's t; no interval of fewer than two."""
    there = values.dropna().to_numpy(float)
    n = len(there)
    if n < 2:
        return (float(there[0]) if n else np.nan), np.nan, np.nan, n
    half = t.ppf(0.975, n - 1) * there.std(ddof=1) / np.sqrt(n)
    return float(there.mean()), float(there.mean() - half), float(there.mean() + half), n


def answers(found: Mapping[str, Followed], orders: pd.DataFrame, over: pd.DataFrame) -> dict[str, str]:
    """A sentence or two per behaviour and probe."""
    n, lines = len(found), {}
    for other, rows in over.groupby("other", sort=False):
        own = orders[(orders["other"] == other) & (orders["relation"] == orders["relation"].iloc[0])]
        parts = [f"{', '.join(each['relation']) if len(each) < len(rows) else 'all six alignments'} {DID[kind]}"
                 for kind, each in rows[rows["verdict"] != APART].groupby("verdict", sort=False)]
        text = f"{other} is halfway {', '.join(_halfway(row, 'other') for _, row in own.iterrows())}. "
        text += f"In all {n} seeds {'; '.join(parts)}." if parts else "On no alignment do all seeds agree."
        if len(apart := rows[rows["verdict"] == APART]):
            text += " Seeds disagree on " + "; ".join(
                f"{row['relation']} ({row['counts']}; lag {_lag(row, 'half_rise_lag')} decades)"
                for _, row in apart.iterrows()) + "."
        lines[str(other)] = text
    return lines


def end_aligned(over: pd.DataFrame) -> str:
    """In how many seeds every relation ends aligned."""
    per, n = over.drop_duplicates("relation"), int(over["seeds"].iloc[0])
    counts = {k: ", ".join(each["relation"]) if len(each) < len(per) else "all six" for k, each in
              per.groupby("aligned", sort=False)}
    said = "Aligned at the end (above step 0 and above rotated eigenvectors, on rows that were not trained on): " + (
        "; ".join(f"{who} in {k} of {n} seeds" for k, who in counts.items()) + ".")
    return said if n >= ENOUGH else f"{said} {n} seeds are too few for a claim, {ENOUGH} are the least."


def step_notes(steps: Mapping[str, Sequence[int]]) -> list[str]:
    """Nothing where all were saved at the same steps; else what is compared."""
    first = next(iter(steps.values()))
    if odd := [name for name, own in steps.items() if list(own) != list(first)]:
        return [f"Seeds were saved at different steps ({odd[0]}: {len(steps[odd[0]])}, {next(iter(steps))}: "
                f"{len(first)}): each is ordered by its own checkpoints, and lags are of the points at which curves "
                "are halfway, on straight lines between checkpoints. One that was saved at fewer steps tells less "
                "apart."]
    return []


def _section(found: Mapping[str, Followed], orders: pd.DataFrame, over: pd.DataFrame) -> Section:
    text = ("Every seed has a report of its own, in the folder of its name. An alignment that leads a representation "
            "is not its cause: that takes an intervention before and after.")
    return Section("Does the alignment lead or follow?", text, [
        Exhibit("When curves are halfway, seed by seed", seeds_plot(found, orders), CAPTION, orders)], [
        Table("Which is first, over all seeds", _shown(orders, over), _CAPTION, over)])


CAPTION = ("Bars, one per seed from above to below: between which checkpoints a curve is halfway from its first to "
           "its last value, 95 % of resamples; marks: where, on straight lines between checkpoints. Step 0 is the left "
           "end. Orange: behaviour; blue: probe, new at each checkpoint; green: mean of the alignments over all linear "
           "layers. A curve that does not grow has no bar.")
_CAPTION = ("Of each seed, between which checkpoints the alignment is halfway, and whether it leads or follows. "
            "Verdict: that of all seeds, where they agree. Lag: decades of training from the point where the other "
            "curve is halfway to that where the alignment is, on straight lines between checkpoints, below 0 the "
            "alignment is first; mean over seeds that grow, 95 % t-interval over seeds of training. At most (≤): the "
            "alignment is halfway before the first saved step, and counts as halfway there. Lag of steps: the same of "
            "the centres of sigmoids, of seeds where both curves have a step of their own. Aligned: in how many seeds "
            "it ends above step 0 and above rotated eigenvectors.")


def seeds_plot(found: Mapping[str, Followed], orders: pd.DataFrame) -> Plot:
    """A line per behaviour, probe and relation, a bar per seed."""
    one = next(iter(found.values()))
    kinds = one.first[one.first["kind"].isin(["behaviour", "probe"])][["curve", "kind"]]
    curves = [*kinds.itertuples(index=False, name=None), *((r.name, "alignment") for r in one.relations)]
    figure, (ax,) = plot(orders, 1, (7.2, 0.9 + 0.36 * len(curves)))
    trained = [step for f in found.values() for step in f.steps if step > 0]
    left = float(np.log10(min(trained))) - 0.25
    thick = 0.7 / len(found)
    for y, (curve, kind) in enumerate(curves):
        for i, followed in enumerate(found.values()):
            about = pd.concat([followed.first, followed.transitions]).drop_duplicates("curve").set_index("curve")
            row, at = about.loc[curve], y + (i - (len(found) - 1) / 2) * thick
            if not row["gain_low"] > 0:
                continue
            low, high = (max(float(np.log10(max(row[c], 1e-9))), left) for c in ("halfway_from", "halfway_to"))
            ax.hlines(at, low, high, color=COLOURS[kind], lw=0.62 * 26 * thick, alpha=0.35)
            ax.plot(max(np.log10(row["half_rise"]), left), at, "o", color=COLOURS[kind], ms=3.4, mew=0)
    ax.set_ylim(len(curves) - 0.4, -0.6)
    ax.set_yticks(range(len(curves)), [words(name) for name, _ in curves])
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=MUTED, lw=0.3)
    for y, (a, b) in enumerate(zip(curves, curves[1:], strict=False)):
        if a[1] != b[1]:
            ax.axhline(y + 0.5, color=INK, lw=0.6)
    ticks = [int(step) for step in np.unique(trained)]
    shown = [ticks[0]]
    for step in ticks[1:]:
        if np.log10(step / shown[-1]) > 0.055 * (np.log10(ticks[-1]) - left):
            shown.append(step)
    ax.set_xticks([left, *np.log10(shown)], ["0", *(f"{step:,}" for step in shown)])
    ax.set_xlim(left, float(np.log10(ticks[-1])))
    ax.set_xlabel("training step (log scale, step 0 at the left)")
    return figure


def _shown(orders: pd.DataFrame, over: pd.DataFrame) -> pd.DataFrame:
    lines, steps = [], bool((over["lag_n"] > 1).any())
    for _, row in over.iterrows():
        own = orders[(orders["relation"] == row["relation"]) & (orders["other"] == row["other"])]
        line = {"against": row["other"], "relation": row["relation"], "verdict": row["verdict"],
                "lag, decades": _lag(row, "half_rise_lag")} | ({"lag of steps": _lag(row, "lag")} if steps else {})
        line["aligned"] = f"{row['aligned']} of {row['seeds']}"
        line |= {each["seed"]: each["order"] if each["order"] in ("does not grow", "nothing to lead")
                 else f"{_halfway(each, 'curve')}: {each['order']}" for _, each in own.iterrows()}
        lines.append(line)
    return pd.DataFrame(lines)


def _lag(row: pd.Series, name: str) -> str:
    if not row[f"{name}_n"]:
        return "–"
    if row[f"{name}_n"] < 2:
        return f"{row[name]:+.2f} (1 seed)"
    few = "" if row[f"{name}_n"] == row["seeds"] else f" ({row[f'{name}_n']} seeds)"
    at_most = "≤ " if name == "half_rise_lag" and row["bound"] else ""
    return f"{at_most}{row[name]:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]{few}"


def _halfway(row: pd.Series, whose: str) -> str:
    """Of a row of `orders_of`: of the relation (`curve`) or the `other`."""
    ends = {c: row[f"{c}_of_{whose}"] for c in ("halfway_from", "halfway_to")}
    return "nowhere" if pd.isna(ends["halfway_to"]) else steps_between(ends).replace("between steps ", "").replace(
        " and ", " to ").replace("before step", "before")
