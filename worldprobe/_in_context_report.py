"""What `worldprobe._in_context` found: figures, tables, checks."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probing.formation import log_steps
from tasks._walks import WORDS

from ._formation_checks import asked
from ._ink import GRID, INK, MUTED, SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section, Table

INKS = dict(zip(WORDS, ("#cf2f2f", "#e8842c", "#dcb10c", "#8cc63f", "#2e9e4f", "#35b8c9", "#2f6fd0", "#4b3fa8",
                        "#8d3fb5", "#e27bb1"), strict=True))
BEYOND = 0.1  # nats more than the best reader
SHOWN = (0, 4, 16, -1)  # cuts in the drawing, the last one last

Tables = Mapping[str, pd.DataFrame]


def checks(tables: Tables) -> list[dict]:
    """Does the network read the ring, do its states come to lie along it, and do answers follow them?"""
    said, structure = tables["said"], tables["structure"]
    nats = said.pivot(index=["seed", "length"], columns="reader", values="nats")
    worst = (nats["network"] - nats["best"]).groupby("seed").max()
    found = [asked("nats beyond the best reader there can be, at the worst cut", None, worst,
                   f"< {BEYOND} on every seed", (worst < BEYOND).all())]
    last, first = structure["length"].max(), structure["length"].min()
    best = drawn_best(structure)

    def energy(network: str, graph: str, length: int) -> pd.DataFrame:
        rows = structure[(structure["network"] == network) & (structure["graph"] == graph)
                         & (structure["length"] == length)]
        return rows[rows["site"].eq(rows["seed"].map(best))].set_index("seed")

    traced, fresh = energy("trained", "traced", last), energy("untrained", "traced", last)
    found.append(asked("energy of the ring of the walk after the last cut, at its best layer", None, traced["energy"],
                       "below rings named at random, interval and all, on every seed",
                       (traced["energy_high"] < traced["energy_null_low"]).all()))
    found.append(asked("the same of random weights", 1.0, fresh["energy"],
                       "inside the interval or the null, on every seed",
                       ((fresh["energy_high"] >= 1) | (fresh["energy"] >= fresh["energy_null_low"])).all()))
    turned = [energy("trained", "usual", n)["energy"] - energy("trained", "traced", n)["energy"] for n in (first, last)]
    found.append(asked("energy of the usual ring minus that of the walk, last cut minus first", None,
                       turned[1] - turned[0], "below 0 before the walk and above 0 at its end, on every seed",
                       ((turned[0] < 0) & (turned[1] > 0)).all()))
    ends = middle_of(tables["moved"])
    ends = ends[ends["length"] == last].groupby(["seed", "arm"])["moved"]
    least, most = ends.mean().unstack(), ends.quantile(0.95).unstack()
    for arm, words in (("random", "random directions of equal length"), ("any ring", "rings named at random")):
        gap = least["map"] - most[arm]
        found.append(asked(f"answers moved along the ring, last block but one, minus the 95th percentile of {words}",
                           None, gap, "> 0 on every seed", (gap > 0).all()))
    return found


def drawn_best(structure: pd.DataFrame) -> dict[int, str]:
    """Seed -> the layer with the lowest energy of the ring of the walk after the last cut."""
    rows = structure[(structure["network"] == "trained") & (structure["graph"] == "traced")
                     & (structure["length"] == structure["length"].max())]
    best = rows.loc[rows.groupby("seed")["energy"].idxmin()]
    return dict(zip(best["seed"], best["site"], strict=True))


def middle_of(moved: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last block but one: what is moved there, a block has yet to read."""
    sites = list(dict.fromkeys(moved["site"]))
    return moved[moved["site"] == sites[max(0, len(sites) - 2)]]


def sections(tables: Tables, drawn: pd.DataFrame) -> list[Section]:
    seeds, n = tables["said"]["seed"].nunique(), int(tables["said"]["n"].iloc[0])
    many = f"mean of {seeds} networks" if seeds > 1 else "one network"
    site = drawn["site"].iloc[0]
    caption = (f"Ten words asked after the same beginning of one walk: their states at {site}, on their own two "
               "principal components, which know of no ring. Lines: what is next to what in this walk; the usual "
               "order is that of the colours of the rainbow.")
    curves = (f"{many[0].upper() + many[1:]}, {n} walks each; thin lines: least and most of the networks. Left: "
              "chances given to the two words that are next on the ring of the walk, and on the usual one; dashed: the "
              "best reader there can be. Middle: energy of the ring of the walk (solid) and of the usual one (dashed) "
              "in the states after each block; 1 is chance; dotted: random weights. Right: chances that follow when "
              f"the state of a word is moved to another one at {middle_of(tables['moved'])['site'].iloc[0]}; bands: "
              "5th to 95th percentile of random directions of equal length, and of rings named at random.")
    return [
        Section("The same words, further and further into a walk", answers(tables), [
            Exhibit("States of ten words in one walk", drawing(drawn), caption, drawn),
            Exhibit("What is said, how states lie, what answers follow", figure(tables), curves, tables["structure"])],
            [Table("Answers", _said(tables["said"]), "Mean of the networks. Nats: lost against one who knows the ring.",
                   tables["said"]),
             Table("How states lie", _structure(tables["structure"]), "Mean of the networks; null: rings named at "
                   "random, 5th to 95th percentile.", tables["structure"]),
             Table("What answers follow", _moved(tables["moved"]), f"After the last cut, {many}; least to most of the "
                   "networks. Random and any ring: 95th percentile of their draws, mean of the networks.",
                   tables["moved"]),
             Table("The ring in the states against the ring in the answers", _order(tables["order"]), _HALFWAY,
                   tables["order"])])]


_HALFWAY = ("Halfway: the cuts between which a curve crosses half of its rise, by 95 % of resampled walks. Lag in "
            "decades of words, below 0 where states are first. Halves of two scales are not the same knowledge.")


def answers(tables: Tables) -> list[str]:
    """What was found, in lines."""
    structure, last = tables["structure"], tables["structure"]["length"].max()
    best = drawn_best(structure)
    rows = structure[structure["site"].eq(structure["seed"].map(best)) & (structure["network"] == "trained")]
    by = rows.groupby(["graph", "length"])["energy"].agg(["min", "max"])
    moved = middle_of(tables["moved"])
    ends = moved[moved["length"] == last].groupby(["arm", "seed"])["moved"].mean().groupby("arm").agg(["min", "max"])

    def span(table: pd.DataFrame, key: object) -> str:
        low, high = table.loc[key]
        return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"

    return [f"Before the walk, states lie as the usual ring does (energy {span(by, ('usual', 0))}, ring of the walk "
            f"{span(by, ('traced', 0))}); after {last} words as that of the walk ({span(by, ('traced', last))}, usual "
            f"{span(by, ('usual', last))}). Chance is 1.",
            f"Moved along the ring in a plane of two dimensions, {span(ends, 'map')} of chances follow (moved "
            f"altogether {span(ends, 'patch')}; random directions of that length {span(ends, 'random')}, rings named "
            f"at random {span(ends, 'any ring')})."]


def drawing(drawn: pd.DataFrame) -> Plot:
    """A panel per cut."""
    lengths = sorted(drawn["length"].unique())
    shown = [n for n in lengths if n in SHOWN[:-1]] + lengths[SHOWN[-1]:]
    picture, axes = plot(drawn, len(shown), (2.8 * len(shown), 2.7))
    for ax, length in zip(axes, shown, strict=True):
        at = drawn[drawn["length"] == length].sort_values("node")
        ring = np.r_[np.arange(len(at)), 0]
        ax.plot(at["x"].to_numpy()[ring], at["y"].to_numpy()[ring], color=MUTED, lw=1.0, zorder=1)
        for _, row in at.iterrows():
            ax.plot(row["x"], row["y"], "o", color=INKS[WORDS[row["word"]]], ms=9, mew=0, zorder=2)
        ax.set_title("no walk" if not length else f"{length} words", size=9.5, color=INK)
        ax.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xticks=[], yticks=[], aspect="equal")
        ax.grid(visible=False)
        ax.spines[["left", "bottom"]].set_visible(False)
    return picture


def figure(tables: Tables) -> Plot:
    """Three panels over the words of the walk."""
    picture, (left, middle, right) = plot(tables["structure"], 3, (11.4, 3.4))
    lengths = np.array(sorted(tables["said"]["length"].unique()))
    x = log_steps(lengths)
    _said_panel(left, tables["said"], x)
    _structure_panel(middle, tables["structure"], x)
    _moved_panel(right, middle_of(tables["moved"]), x)
    for ax in (left, middle, right):
        ax.set_xticks(x, [f"{n}" if i + 2 != len(x) else "" for i, n in enumerate(lengths)])  # the last two are close
        ax.set_xlabel("words of the walk before")
    return picture


def _said_panel(ax: Axes, said: pd.DataFrame, x: np.ndarray) -> None:
    names = []
    for column, words, colour in (("traced", "next in the walk", SERIES[0]), ("usual", "next as usual", SERIES[1])):
        for reader, style in (("best", (0, (4, 2))), ("network", "-")):
            low, mean, high = _over_seeds(said[said["reader"] == reader], column)
            ax.plot(x, mean, ls=style, color=colour, lw=1.8 if style == "-" else 1.1)
            if style == "-":
                ax.vlines(x, low, high, color=colour, lw=1.0)
                names.append((float(mean[-1]), words, colour))
    ax.set_ylim(0, 0.8)
    ax.set_ylabel("chances of both neighbours")
    name_lines(ax, names)


def _structure_panel(ax: Axes, structure: pd.DataFrame, x: np.ndarray) -> None:
    names = []
    ax.axhline(1, color=GRID, lw=1.2)
    sites = [site for site in dict.fromkeys(structure["site"]) if site.startswith("resid_post")]
    for site, colour in zip(sites, (SERIES[4], SERIES[2], SERIES[3], *SERIES), strict=False):
        for network, graph, style in (("trained", "traced", "-"), ("trained", "usual", (0, (4, 2))),
                                      ("untrained", "traced", (0, (1, 1.5)))):
            rows = structure[(structure["site"] == site) & (structure["network"] == network)
                             & (structure["graph"] == graph)]
            low, mean, high = _over_seeds(rows, "energy")
            ax.plot(x, mean, ls=style, color=MUTED if network == "untrained" else colour,
                    lw=1.8 if style == "-" else 1.1)
            if style == "-":
                ax.vlines(x, low, high, color=colour, lw=1.0)
                names.append((float(mean[-1]), f"block {site.rpartition('.')[2]}", colour))
    ax.set_ylim(0, max(1.1, ax.get_ylim()[1]))
    ax.set_ylabel("energy of the ring (1: chance)")
    name_lines(ax, names)


def _moved_panel(ax: Axes, moved: pd.DataFrame, x: np.ndarray) -> None:
    names = []
    for arm, words, colour in (("patch", "whole state", INK), ("map", "along the ring", SERIES[0]),
                               ("random", "random", MUTED), ("any ring", "any ring", SERIES[1])):
        rows = moved[moved["arm"] == arm]
        low, mean, high = _over_seeds(rows, "moved")
        if arm in ("random", "any ring"):
            of = rows.groupby("length")["moved"]
            ax.fill_between(x, of.quantile(0.05), of.quantile(0.95), color=colour, alpha=0.18, lw=0)
        else:
            ax.vlines(x, low, high, color=colour, lw=1.0)
        ax.plot(x, mean, color=colour, lw=1.8 if arm == "map" else 1.1)
        names.append((float(mean[-1]), words, colour))
    ax.set_ylim(min(-0.05, ax.get_ylim()[0]), None)
    ax.set_ylabel("chances that follow")
    name_lines(ax, names)


def _over_seeds(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(least, mean, most) of the networks at every length."""
    of = rows.groupby(["length", "seed"])[column].mean().groupby("length").agg(["min", "mean", "max"])
    return of["min"].to_numpy(), of["mean"].to_numpy(), of["max"].to_numpy()


def _said(said: pd.DataFrame) -> pd.DataFrame:
    wide = said.pivot_table(index="length", columns="reader", values=["nats", "traced", "usual"]).round(3)
    names = {"network": "network", "best": "best reader", "untrained": "random weights"}
    what = {"nats": "nats", "traced": "next in the walk", "usual": "next as usual"}
    columns = [(k, r) for k in what for r in names if not (k == "nats" and r == "untrained")]
    return pd.DataFrame({f"{what[k]}: {names[r]}": wide[k, r] for k, r in columns}).reset_index().rename(
        columns={"length": "words before"})


def _structure(structure: pd.DataFrame) -> pd.DataFrame:
    lines = []
    cuts = [structure["length"].min(), structure["length"].max()]
    for (network, site, graph), rows in structure.groupby(["network", "site", "graph"], sort=False):
        line = {"network": network, "after": site, "ring": graph}
        for cut in cuts:
            at = rows[rows["length"] == cut].mean(numeric_only=True)
            line[f"energy, {cut} words"] = f"{at['energy']:.3f} (null {at['energy_null_low']:.2f}, " \
                                           f"{at['energy_null_high']:.2f})"
            line[f"RSA, {cut} words"] = f"{at['rsa']:.2f} ({at['rsa_null_low']:.2f}, {at['rsa_null_high']:.2f})"
        lines.append(line)
    return pd.DataFrame(lines)


def _moved(moved: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for site, rows in moved[moved["length"] == moved["length"].max()].groupby("site", sort=False):
        by_seed = rows.groupby(["arm", "seed"])["moved"]
        mean, high = by_seed.mean(), by_seed.quantile(0.95)
        lines.append({"after": site} | {words: _span(mean[arm]) for arm, words in (
            ("patch", "whole state"), ("map", "along the ring"), ("usual", "along the usual ring"))} | {
            words: f"{high[arm].mean():.3f}" for arm, words in (("random", "random directions"),
                                                                ("any ring", "any ring"))})
    return pd.DataFrame(lines)


def _order(order: pd.DataFrame) -> pd.DataFrame:
    lag = [f"{r['half_rise_lag']:+.2f} [{r['half_rise_lag_low']:+.2f}, {r['half_rise_lag_high']:+.2f}]"
           if r["order"] not in ("does not grow", "nothing to lead") else "–" for _, r in order.iterrows()]
    return pd.DataFrame({"network": order["seed"], "states after": order["curve"], "answers": order["order"],
                         "lag": lag})


def _span(values: pd.Series | Sequence[float]) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
