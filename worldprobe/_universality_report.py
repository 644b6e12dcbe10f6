"""What `worldprobe._universality` found, in one figure, a table and checks."""

import numpy as np
import pandas as pd

from ._ink import GRID, INK, MARKERS, MUTED, SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section, Table
from ._universality import KINDS

NAMES = {"mutual_knn": "mutual\nk-NN", "cycle_knn": "cycle\nk-NN", "cknna": "CKNNA", "debiased_cka": "CKA\n(unbiased)",
         "svcca": "SVCCA", "procrustes": "Procrustes", "rsa": "RSA", "topological_rsa": "topological\nRSA",
         "matched_neurons": "matched\nneurons", "excess_correlation": "excess of\nneurons",
         "stitched_probe": "stitched\nprobe"}
_OTHERS = {"other task": "a seed and one of another task", "other world": "a seed and one of another world",
           "untrained": "a seed and an untrained one", "two untrained": "two untrained ones"}


def by_pair(table: pd.DataFrame) -> pd.DataFrame:
    """One row per pair and metric: the mean over parts of the rows, its null, and whether every part is above all of
    its random orders."""
    keys = ["family", "metric", "kind", "a", "b"]
    floor = table.groupby("metric")["p_value"].transform("min")
    found = table.assign(above=table["p_value"] <= floor).groupby(keys, sort=False)
    return found.agg(value=("value", "mean"), least=("value", "min"), most=("value", "max"), null=("null", "mean"),
                     null_high=("null_high", "mean"), above=("above", "all")).reset_index()


def checks(table: pd.DataFrame) -> list[dict]:
    """Are seeds of one task more alike than chance, than untrained networks, than those of other tasks and worlds?"""
    pairs, found = by_pair(table), []
    for family, rows in pairs.groupby("family", sort=False):
        above = rows[rows["kind"] == "seeds"].groupby("metric")["above"].all()
        found.append(_check(f"{family}: every two seeds are more alike than their rows in random order", above))
        found += [_check(f"{family}: every two seeds are more alike than {_OTHERS[kind]}", more)
                  for kind, more in more_alike(rows).items()]
    return found


def more_alike(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Kind of pair -> metric -> whether all pairs of seeds are above all of that kind."""
    least = rows[rows["kind"] == "seeds"].groupby("metric")["value"].min()
    most = rows.groupby(["kind", "metric"])["value"].max()
    return {kind: least > most[kind] for kind in KINDS[1:] if kind in set(rows["kind"])}


def _check(what: str, held: pd.Series) -> dict:
    return {"what": what, "paper": None, "ours": f"by {int(held.sum())} of {len(held)} metrics", "ci_low": None,
            "ci_high": None, "pass_mark": "all metrics", "pass": bool(held.all())}


def section(table: pd.DataFrame) -> Section:
    pairs = by_pair(table)
    rows = ", ".join(f"{n:,} ({family})" for family, n in table.groupby("family", sort=False)["n"].first().items())
    caption = (f"One mark per pair of networks, mean over {table['part'].nunique()} disjoint parts; thin lines: least "
               f"and most of the parts. Rows of a part: {rows}. Grey: rows (of the stitched probe, anchors) in random "
               "order, mean and 95th percentile. Streams and matched neurons at their best pair of layers, in the null "
               "too. Neurons' excess: largest correlation with a neuron of the other network, less that with its "
               "neurons mixed at random. A network of another world sees the same symbols under other ids.")
    return Section("Seeds, tasks, worlds, and untrained networks", answers(pairs), [
        Exhibit("Similarity of two networks, by what they share", figure(pairs), caption, table)], [
        Table("Least to most of the pairs", shown(pairs), "Null: the 95th "
              "percentile of random orders, mean over pairs of seeds.", pairs),
        Table("The pairs of seeds", seeds_shown(pairs), "Mean over parts.")])


def answers(pairs: pd.DataFrame) -> list[str]:
    """A line per family."""
    lines = []
    for family, rows in pairs.groupby("family", sort=False):
        said = [f"than {_OTHERS[kind]} by {int(more.sum())} of {len(more)} metrics"
                + (f" ({', '.join(_flat(m) for m in NAMES if more[m])})" if 0 < more.sum() < len(more) else "")
                for kind, more in more_alike(rows).items()]
        lines.append(f"{family}: every two seeds are more alike {'; '.join(said)}.")
    return lines


def shown(pairs: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (family, metric), rows in pairs.groupby(["family", "metric"], sort=False):
        spans = {kind: f"{each['value'].min():.3f} to {each['value'].max():.3f}"
                 for kind, each in rows.groupby("kind", sort=False)}
        null = rows[rows["kind"] == "seeds"]["null_high"].mean()
        lines.append({"family": family, "metric": _flat(metric),
                      **{kind: spans.get(kind, "–") for kind in KINDS}, "null": f"{null:.3f}"})
    return pd.DataFrame(lines)


def seeds_shown(pairs: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of seeds, a column per metric."""
    seeds = pairs[pairs["kind"] == "seeds"]
    wide = seeds.pivot(index=["family", "a", "b"], columns="metric", values="value")[list(NAMES)].round(3)
    return wide.rename(columns=lambda metric: _flat(metric)).reset_index()


def figure(pairs: pd.DataFrame) -> Plot:
    """A panel per family, a group of marks per metric, a column per kind of pair."""
    families = list(dict.fromkeys(pairs["family"]))
    picture, axes = plot(pairs, len(families), (9.6, 2.9 * len(families)), stacked=True)
    colours = dict(zip(KINDS, SERIES, strict=False))
    for ax, family in zip(axes, families, strict=True):
        rows = pairs[pairs["family"] == family]
        kinds = [kind for kind in KINDS if kind in set(rows["kind"])]
        for x, metric in enumerate(NAMES):
            each = rows[rows["metric"] == metric]
            null, high = each["null"].mean(), each["null_high"].max()
            ax.fill_between([x - 0.42, x + 0.42], min(null, 0.0), high, color=GRID, lw=0)
            ax.hlines(null, x - 0.42, x + 0.42, color=MUTED, lw=0.9)
            for i, kind in enumerate(kinds):
                of_kind = each[each["kind"] == kind]
                at = x + 0.15 * (i - (len(kinds) - 1) / 2) + np.linspace(-0.04, 0.04, len(of_kind))
                ax.vlines(at, of_kind["least"], of_kind["most"], color=colours[kind], lw=0.8, alpha=0.7)
                ax.plot(at, of_kind["value"], MARKERS[KINDS.index(kind)], color=colours[kind], ms=4.2, mew=0)
        ax.set_xlim(-0.55, len(NAMES) - 0.45)
        ax.set_xticks(range(len(NAMES)), list(NAMES.values()) if ax is axes[-1] else [""] * len(NAMES))
        ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.04)
        ax.set_ylabel("similarity")
        ax.set_title(family, loc="left", size=9.5, color=INK)
        last = rows[rows["metric"] == list(NAMES)[-1]].groupby("kind")["value"].mean()
        name_lines(ax, [(float(last[kind]), kind, colours[kind]) for kind in kinds], gap=0.09)
    return picture


def _flat(metric: str) -> str:
    return NAMES[metric].replace("\n", " ")
