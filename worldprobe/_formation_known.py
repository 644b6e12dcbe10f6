"""Numbers that are known: what similarity gives by chance, and the dimension of cubes, on every seed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probing.formation import cka, debiased_cka, mutual_knn, neural_collapse, two_nn

from ._formation_checks import another_seed, asked, known, together
from ._ink import INK, MUTED, SERIES, Plot, plot
from ._report import Exhibit, Section, Table

D = 512
BIASED, UNBIASED = {100: 0.84, 1000: 0.34}, {100: 0.010, 1000: 0.0003}  # rows -> the card's figure
CUBES = {2: 1.95, 5: 4.57, 10: 8.05, 20: 15.6}  # dimension -> the card's estimate at 2,000 rows
KNN = 0.0096


def measure(seeds: Sequence[int], n_cube: int = 2000) -> pd.DataFrame:
    """One row per seed and number: metric, n, d, value."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for n in BIASED:
            A, B = rng.normal(size=(2, n, D))
            rows += [dict(seed=seed, metric=f.__name__, n=n, d=D, value=f(A, B)) for f in (cka, debiased_cka)]
            if n == 1000:
                rows.append(dict(seed=seed, metric="mutual_knn", n=n, d=D, value=mutual_knn(A, B, 10)))
        for d in CUBES:
            value, low, high = two_nn(rng.random((n_cube, d)))
            rows.append(dict(seed=seed, metric="two_nn", n=n_cube, d=d, value=value, ci_low=low, ci_high=high))
    return pd.DataFrame(rows)


def checks(table: pd.DataFrame) -> list[dict]:
    def of(metric: str, **where) -> pd.Series:
        keep = table["metric"] == metric
        for column, value in where.items():
            keep &= table[column] == value
        return table[keep]["value"]

    knn = of("mutual_knn")
    corners = np.eye(5) - 0.2
    collapse = neural_collapse(np.repeat(corners, 3, 0), np.repeat(np.arange(5), 3))
    return [
        another_seed("mutual k-NN of independent rows, k = 10 of 1,000", KNN, knn, 4),
        asked("the same, beside k / (n - 1)", 10 / 999, knn, "k / (n - 1) within 0.002 of every seed",
              (abs(knn - 10 / 999) < 0.002).all()),
        together("linear CKA of independent Gaussians of 512 dimensions: biased", [
            another_seed(f"{n:,} rows", card, of("cka", n=n)) for n, card in BIASED.items()]),
        together("the same, unbiased", [
            another_seed(f"{n:,} rows", card, of("debiased_cka", n=n), 3) for n, card in UNBIASED.items()]),
        together("dimension of uniform cubes by TwoNN", [
            another_seed(f"{d} dimensions", card, of("two_nn", d=d), 1) for d, card in CUBES.items()]),
        known("cosines of the corners of a simplex: mean |cos + 1 / (K - 1)|", 0.0, collapse["nc2_angles"], 1e-9),
    ]


def section(table: pd.DataFrame) -> Section:
    shown = table[table["metric"] != "two_nn"].groupby(["metric", "n", "d"], sort=False)["value"].agg(
        ["mean", "min", "max"]).reset_index().round(5)
    return Section("What chance and known spaces give", __doc__.partition("\n")[0], [
        Exhibit("Dimension of cubes", _plot(table[table["metric"] == "two_nn"]),
                "TwoNN on 2,000 uniform rows, one mark per seed with its 95 % interval; line: the truth. It falls "
                "short above 8 dimensions or so, so layers are compared at equal numbers of rows.")], [
        Table("Similarity of independent Gaussians", shown, "Mean, least and most of the seeds.", table)])


def _plot(cubes: pd.DataFrame) -> Plot:
    figure, (ax,) = plot(cubes, 1, (4.6, 3.4))
    true = np.array(sorted(CUBES))
    ax.plot(true, true, color=MUTED, lw=1.1, ls=(0, (4, 2)))
    place = cubes["d"] + 0.25 * (cubes["seed"].rank(method="dense") - 2)
    ax.vlines(place, cubes["ci_low"], cubes["ci_high"], color=INK, lw=1.1)
    ax.plot(place, cubes["value"], "o", color=SERIES[0], ms=5, mew=0)
    ax.set_xticks(true)
    ax.set(xlabel="dimension of the cube", ylabel="estimate (TwoNN)")
    return figure
