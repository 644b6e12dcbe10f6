"""Does weight decay align states, gradients and weights?

Where training has come to rest, G_out + O(decay) ~ decay² H_out ~ decay² W W', so alignment should grow with weight
decay, and the gradients beside the states with its square. Nets are trained without decay and with six strengths of it,
side by side on the same batches. Of the side of inputs the equation says nothing; it is shown beside. That only outputs
are judged was decided after a first sweep had been seen; judged over all six, the prediction fails on in-GWA.

Whether an alignment grows is asked by Page's test of a trend (seeds in rows, decays in order), which is exact, with
Holm's correction over the six.

Source: Ziyin, Chuang, Galanti & Poggio, arXiv:2410.03006; Page 1963.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import page_trend_test, rankdata

from probing import holm

from ._formation_alignment import MIDDLE, N_TEST, STEPS
from ._formation_checks import together
from ._ink import MUTED, PAPER, SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section, Table

SIX = [(side, relation) for side in ("out", "in") for relation in ("RGA", "RWA", "GWA")]
FOUR = [(matrix, side) for side in ("out", "in") for matrix in "HG"]
GOOD_FIT = 0.9
LEVEL = 0.05


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Of every seed, decay, side and relation, mean over layers at the last step: value, null, gain and null_gain since
    step 0."""
    key = ["seed", "decay", "side", "relation"]
    start, end = (table[table["step"] == step].groupby(key)[["value", "null"]].mean()
                  for step in (0, table["step"].max()))
    return end.assign(gain=end["value"] - start["value"], null_gain=end["null"] - start["null"]).reset_index()


def trends(table: pd.DataFrame) -> pd.DataFrame:
    """Does the gain grow with weight decay? side, relation, rho (Spearman's, mean over seeds), ci_low, ci_high (least
    and most of the seeds), p_value (Page's test, one-sided), p_holm, n (seeds)."""
    rows = []
    for side, relation in SIX:
        of = gains(table).query("side == @side and relation == @relation")
        by_seed = of.pivot_table(index="seed", columns="decay", values="gain").to_numpy()
        order = np.arange(by_seed.shape[1])
        rho = [float(np.corrcoef(rankdata(values), order)[0, 1]) for values in by_seed]
        rows.append(dict(side=side, relation=relation, rho=np.mean(rho), ci_low=min(rho), ci_high=max(rho),
                         p_value=float(page_trend_test(by_seed).pvalue), n=len(rho)))
    return pd.DataFrame(rows).assign(p_holm=lambda t: holm(t["p_value"].to_numpy()))


def shares(powers: pd.DataFrame) -> pd.DataFrame:
    """tr G_out / tr H_out of raw second moments on rows of training, where the equation holds: (seed, layer) by weight
    decay."""
    out = powers[(powers["side"] == "out") & (powers["decay"] > 0)]
    trace = out.pivot_table(index=["seed", "layer", "decay"], columns="matrix", values="trace")
    return (trace["G"] / trace["H"]).unstack("decay")


def slopes(powers: pd.DataFrame) -> pd.Series:
    """Of log(tr G_out / tr H_out) on log weight decay, for every (seed, layer); the equation says 2."""
    found = shares(powers)
    x = np.log(found.columns.to_numpy(float))
    return pd.Series(np.polyfit(x, np.log(found.to_numpy()).T, 1)[0], found.index)


def checks(measured: dict[str, pd.DataFrame]) -> list[dict]:
    """The prediction with its outcome, where training was followed to its end."""
    table = measured["alignments"]
    if table["step"].max() < max(STEPS):
        return []
    parts = []
    for row in trends(table).itertuples():
        grows = row.rho > 0 and row.p_holm < LEVEL
        parts.append({"what": f"{row.side}-{row.relation}: rank correlation with weight decay, p = {row.p_holm:.2g}",
                      "paper": "above 0" if row.side == "out" else None, "ours": row.rho, "ci_low": row.ci_low,
                      "ci_high": row.ci_high, "pass_mark": "above 0, p < 0.05" if row.side == "out" else "none",
                      "pass": bool(grows) or row.side == "in"})
    slope = slopes(measured["powers"])
    parts.append({"what": "slope of log(tr G_out / tr H_out) on log weight decay, rows of training", "paper": 2.0,
                  "ours": float(slope.mean()), "ci_low": float(slope.min()), "ci_high": float(slope.max()),
                  "pass_mark": "none", "pass": True})
    found = together("alignment grows with weight decay: outputs, of which the prediction is; inputs beside them",
                     [part for part in parts if part["pass_mark"] != "none"])
    return [found | {"parts": parts}]


def section(measured: dict[str, pd.DataFrame]) -> Section:
    table, powers = measured["alignments"], measured["powers"]
    seeds, steps, slope = table["seed"].nunique(), table["step"].max(), slopes(powers)
    at = (f"Step {steps:,}, mean of two middle layers and {seeds} seeds; whiskers: least and most of the seeds. No "
          f"decay stands at the left. {N_TEST:,} rows that were not trained on.")
    return Section("Does weight decay align them?", " ".join(__doc__.split("\n\n")[1].split()), [
        Exhibit("Six alignments against weight decay", _drawn(gains(table), "value", "null"),
                f"{at} Dotted: the same with rotated eigenvectors.", gains(table)),
        Exhibit("Gain since step 0 against weight decay", _drawn(gains(table), "gain", "null_gain"),
                f"{at} Dotted: gain of the same with rotated eigenvectors.", gains(table)),
        Exhibit("Gradients beside states against weight decay", _proportion(powers),
                f"tr G_out / tr H_out of raw second moments on rows of training, step {steps:,}: every seed. Dashed: "
                f"the square of weight decay, as the equation has it. Slope {slope.mean():.2f} (least and most of "
                f"seeds and layers: {slope.min():.2f}, {slope.max():.2f}).", powers),
        Exhibit("Exponents of H and G against Z, by weight decay", _exponents(powers),
                f"Step {steps:,}, mean of {seeds} seeds; whiskers: least and most of them. Filled: R² of the power law "
                f"is {GOOD_FIT:g} or more, hollow: less, and the exponent means little.", powers)], [
        Table("Alignment at the end of training, by weight decay", _by_decay(table),
              "Mean over seeds. Rank correlation of the gain (mean of both layers) with weight decay, in brackets the "
              "least and most of the seeds; p by Page's test, Holm over six. Last line: rows classified as the teacher "
              "does.", table),
        Table("Exponents of H and G against Z, by weight decay", _powers(powers),
              "Mean over seeds; in brackets: least and most of their 95 % bootstrap bounds over singular values. A "
              "power law holds where R² is near 1 over more than a few singular values.", powers)])


def _places(decays: pd.Index) -> np.ndarray:
    """log10, with 0 to the left of the others."""
    log = np.log10(np.where(decays > 0, decays, np.nan))
    return np.where(decays > 0, log, np.nanmin(log) - 0.6)


def _axis(ax: Axes, decays: pd.Index) -> None:
    ax.set_xticks(_places(decays), [_named(d) for d in decays])
    ax.set_xlabel("weight decay (log scale, none at the left)")


def _named(decay: float) -> str:
    return f"{decay:.0e}".replace("-0", "-") if decay else "0"


def _drawn(of: pd.DataFrame, column: str, null: str) -> Plot:
    figure, axes = plot(of, 2, (8.2, 3.5))
    low, high = of[[column, null]].min(axis=None), of[[column, null]].max(axis=None)
    for ax, side in zip(axes, ("out", "in"), strict=True):
        names = []
        for i, relation in enumerate(("RGA", "RWA", "GWA")):
            rows = of[(of["side"] == side) & (of["relation"] == relation)]
            by_seed, beside = (rows.pivot_table(index="decay", columns="seed", values=c) for c in (column, null))
            x = _places(by_seed.index)
            ax.plot(x, by_seed.mean(axis=1), marker="o", ms=3.5, color=SERIES[i], lw=1.8, zorder=3)
            ax.vlines(x, by_seed.min(axis=1), by_seed.max(axis=1), color=SERIES[i], lw=1.2, alpha=0.7)
            ax.plot(x, beside.mean(axis=1), color=SERIES[i], lw=1.2, ls=(0, (1, 1.5)))
            names.append((float(by_seed.mean(axis=1).iloc[-1]), f"{side}-{relation}", SERIES[i]))
        names.append((float(beside.mean(axis=1).iloc[-1]), "rotated", MUTED))
        _axis(ax, by_seed.index)
        ax.set_ylabel(f"{'alignment' if column == 'value' else 'gain since step 0'}, {side}put side")
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        name_lines(ax, names)
    return figure


def _proportion(powers: pd.DataFrame) -> Plot:
    of = shares(powers)
    figure, (ax,) = plot(powers, 1, (5.2, 3.2))
    names = []
    for i, (layer, name) in enumerate(MIDDLE.items()):
        rows = of.xs(layer, level="layer")
        x, mean = _places(of.columns), np.log10(rows).mean()
        for values in rows.to_numpy():
            ax.plot(x, np.log10(values), "o", ms=3.5, color=SERIES[i])
        ax.plot(x, mean, color=SERIES[i], lw=1.4)
        ax.plot(x, mean.mean() + 2 * (x - x.mean()), color=MUTED, lw=1.2, ls=(0, (4, 2)), zorder=1)
        names.append((float(mean.iloc[-1]), f"{name} layer", SERIES[i]))
    low, high = ax.get_ylim()
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    ax.set_yticks(ticks, [f"1e{tick:.0f}" for tick in ticks])
    ax.set_xticks(x, [_named(d) for d in of.columns])
    ax.set_xlabel("weight decay (log scale)")
    ax.set_ylabel("gradients / states, log scale")
    name_lines(ax, names)
    return figure


def _exponents(powers: pd.DataFrame) -> Plot:
    figure, axes = plot(powers, 2, (8.2, 3.5))
    spread = powers.groupby(["layer", "matrix", "side", "decay"])["exponent"]
    low, high = spread.min().min(), spread.max().max()
    for ax, layer in zip(axes, MIDDLE, strict=True):
        names = []
        for i, (matrix, side) in enumerate(FOUR):
            rows = powers[(powers["layer"] == layer) & (powers["matrix"] == matrix) & (powers["side"] == side)]
            by_seed = rows.pivot_table(index="decay", columns="seed", values="exponent")
            x, y = _places(by_seed.index), by_seed.mean(axis=1)
            fits = rows.groupby("decay")["r2"].mean().to_numpy() >= GOOD_FIT
            ax.plot(x, y, color=SERIES[i], lw=1.4, zorder=2)
            ax.vlines(x, by_seed.min(axis=1), by_seed.max(axis=1), color=SERIES[i], lw=1.2, alpha=0.7)
            for filled in (True, False):
                ax.plot(x[fits == filled], y[fits == filled], "o", ms=5, color=SERIES[i],
                        mfc=SERIES[i] if filled else PAPER, zorder=3)
            names.append((float(y.iloc[-1]), f"{matrix}_{side}", SERIES[i]))
        _axis(ax, by_seed.index)
        ax.set_ylabel(f"exponent, {MIDDLE[layer]} layer")
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        name_lines(ax, names)
    return figure


def _by_decay(table: pd.DataFrame) -> pd.DataFrame:
    end = table[table["step"] == table["step"].max()]
    found = trends(table).set_index(["side", "relation"])
    lines = []
    for side, relation in SIX:
        for layer, name in MIDDLE.items():
            rows = end[(end["side"] == side) & (end["relation"] == relation) & (end["layer"] == layer)]
            line = {"relation": f"{side}-{relation}", "layer": name}
            line |= {_named(decay): f"{part['value'].mean():.2f}" for decay, part in rows.groupby("decay")}
            about = found.loc[(side, relation)]
            first = layer == next(iter(MIDDLE))
            lines.append(line | {"rank correlation": f"{about['rho']:.2f} [{about['ci_low']:.2f}, "
                                                     f"{about['ci_high']:.2f}]" if first else "",
                                 "p": f"{about['p_holm']:.2g}" if first else ""})
    right = {_named(decay): f"{part['accuracy'].mean():.2f}" for decay, part in end.groupby("decay")}
    return pd.DataFrame([*lines, {"relation": "accuracy", "layer": "", **right, "rank correlation": "", "p": ""}])


def _powers(powers: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (layer, decay), part in powers.groupby(["layer", "decay"]):
        line = {"layer": MIDDLE[layer], "weight decay": _named(decay),
                "singular values": f"{part['n'].min()} to {part['n'].max()}"}
        for matrix, side in FOUR:
            rows = part[(part["matrix"] == matrix) & (part["side"] == side)]
            line[f"{matrix}_{side}"] = (f"{rows['exponent'].mean():.2f} [{rows['ci_low'].min():.2f}, "
                                        f"{rows['ci_high'].max():.2f}], R² {rows['r2'].mean():.2f}")
        lines.append(line)
    return pd.DataFrame(lines)
