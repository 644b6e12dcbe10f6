"""Time of logistic probes of every Othello square at every layer, against a scikit-learn loop at the same objective.

    python -m benchmarks.logistic                             # all squares and sites, scikit-learn on 12 random cells
    python -m benchmarks.logistic --sites 1 --cells 4 --workers 1

A cell is one square at one site: three classes (empty, mine, theirs), or two where the square is never empty. Ours
solves all squares of a site together and is timed on every cell, whitening and certificates included. scikit-learn
fits `LogisticRegression` on standardised activations cell by cell, as many at a time as there are workers, on random
cells; its time for all cells is scaled from their mean, as if the workers were never idle, and leaves out the
standardisation. It runs at its default stopping, and, in float32 and in float64, with `tol` lowered tenfold until the
gap is at most --gap; of these the fastest run that gets there counts.

The gap is (objective - optimum) / optimum: one function evaluates the objective of both in float64, and the optimum is
ours at a certified gap of 1e-11. Every process has the threads of one worker; ours has those of all.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import tasks
from probing import extract, fit_logistic, load_model
from probing._threads import n_cores


def objective(X: np.ndarray, y: np.ndarray, W: np.ndarray, b: np.ndarray, C: float) -> float:
    """Summed log-loss plus the penalty, in float64; W (class, d_model) on standardised X, over the classes of y."""
    log_p = log_softmax(X @ W.T + b, axis=1)
    share = 2 if len(W) == 2 else 1  # of two classes scikit-learn penalises the difference of their weights
    return -log_p[np.arange(len(y)), y].sum() + share * (W**2).sum() / (2 * C)


def fit_scikit_learn(X: np.ndarray, y: np.ndarray, C: float, **settings) -> tuple[float, float]:
    """(seconds, objective)"""
    model = LogisticRegression(C=C, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at its defaults it may stop at 100 iterations, as a user's loop would
        start = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - start
    W, b = model.coef_, model.intercept_
    W, b = (np.stack([-W[0], W[0]]) / 2, np.array([-b[0], b[0]]) / 2) if len(W) == 1 else (W, b)
    return seconds, objective(X.astype(np.float64), y, W, b, C)


def one_cell(X: np.ndarray, y: np.ndarray, C: float, optimum: float, wanted: float) -> dict[str, float]:
    """Seconds and gap at the default stopping, and of the fastest run that reaches the gap wanted."""
    seconds, value = fit_scikit_learn(X, y, C)
    found = {"default": seconds, "default gap": value / optimum - 1, "equal": np.inf, "equal gap": np.inf}
    for dtype, tols in ((np.float32, (1e-5, 1e-6)), (np.float64, (1e-5, 1e-6, 1e-7, 1e-8))):
        for tol in tols:
            seconds, value = fit_scikit_learn(X.astype(dtype), y, C, tol=tol, max_iter=100_000)
            if value / optimum - 1 <= wanted:
                if seconds < found["equal"]:
                    found |= {"equal": seconds, "equal gap": value / optimum - 1}
                break
    return found


def compare(sites: dict, Y: np.ndarray, C: float, gap: float, n_cells: int, workers: int, seed: int) -> pd.DataFrame:
    """One row per solver; X of every site standardised."""
    codes = torch.from_numpy(Y)
    seconds, coarse, gaps, optima, coarse_gaps = 0.0, 0.0, [], {}, []
    for name, X in sites.items():
        x = torch.from_numpy(X)
        start = time.perf_counter()
        fit = fit_logistic(x, codes, C, tol=gap)
        seconds += time.perf_counter() - start
        start = time.perf_counter()
        quick = fit_logistic(x, codes, C, tol=1e-3)
        coarse += time.perf_counter() - start
        best = fit_logistic(x, codes, C, tol=1e-11, start=fit)
        wide = X.astype(np.float64)
        for column in range(Y.shape[1]):
            classes, y = np.unique(Y[:, column], return_inverse=True)
            values = [objective(wide, y, f.coef[column, classes].numpy(), f.intercept[column, classes].numpy(), C)
                      for f in (fit, quick, best)]
            gaps.append(values[0] / values[2] - 1)
            coarse_gaps.append(values[1] / values[2] - 1)
            optima[name, column] = values[2]
        print(f"{name}: {seconds:.1f} s so far, worst gap {max(gaps):.1e}", flush=True)
    picked = [list(optima)[i] for i in np.random.default_rng(seed).permutation(len(optima))[:n_cells]]
    cells = Parallel(n_jobs=workers)(
        delayed(one_cell)(sites[name], np.unique(Y[:, column], return_inverse=True)[1], C, optima[name, column], gap)
        for name, column in picked)
    table, total = pd.DataFrame(cells), len(optima) / workers
    rows = [("ours", seconds, max(gaps), len(gaps)), ("ours, tol 1e-3", coarse, max(coarse_gaps), len(gaps)),
            ("scikit-learn, equal gap", table["equal"].mean() * total, table["equal gap"].max(), len(cells)),
            ("scikit-learn, default stopping", table["default"].mean() * total, table["default gap"].max(), len(cells))]
    frame = pd.DataFrame(rows, columns=["solver", "seconds", "largest gap", "cells timed"])
    frame["seconds / ours"] = frame["seconds"] / seconds
    return frame


def markdown(table: pd.DataFrame) -> str:
    shown = table.assign(**{"seconds": table["seconds"].map("{:.1f}".format),
                            "largest gap": table["largest gap"].map("{:.0e}".format),
                            "seconds / ours": table["seconds / ours"].map("{:.1f}".format)})
    lines = [shown.columns.tolist(), ["---"] * shown.shape[1], *shown.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="othello")
    parser.add_argument("--games", type=int, default=300)
    parser.add_argument("--sites", type=int, default=None, help="the last so many sites (default: all)")
    parser.add_argument("--cells", type=int, default=12, help="cells on which scikit-learn is timed")
    parser.add_argument("--C", type=float, default=1.0)
    parser.add_argument("--gap", type=float, default=1e-6)
    parser.add_argument("--workers", type=int, default=n_cores(), help="processes, and threads of ours")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    prompts = tasks.load("othello", n=args.games)
    acts = extract(load_model(args.model), prompts, cache=False, random_init=None)
    train = prompts.rows("train")
    Y = prompts.labels("mine_theirs")[train].astype(np.int64)
    sites = {str(site): StandardScaler().fit_transform(np.asarray(acts[site])[train])
             for site in list(acts)[-args.sites if args.sites else None :]}
    torch.set_num_threads(args.workers)
    table = compare(sites, Y, args.C, args.gap, args.cells, args.workers, args.seed)
    n, d_model = next(iter(sites.values())).shape
    print(f"\n{len(sites)} sites x {Y.shape[1]} squares, {n:,} rows, d_model {d_model}, C = {args.C:g}, "
          f"{args.workers} worker(s)\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
