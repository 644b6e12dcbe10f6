"""Sparse probing of the MLP neurons of the Othello model, beside a scikit-learn loop over the features.

    python -m benchmarks.sparse
    python -m benchmarks.sparse --layer 3 --games 150 --loop-features 8

Features are "this square holds my disc", one per square. Ours ranks all neurons for all features at once, then refits
balanced logistic regression on the k best for every k of the grid. The loop does the same feature by feature with
the calls of the published code at scikit-learn's settings, and with the same objective solved by its fastest solver
(newton-cholesky); it runs on a few features and is scaled up to all. Times are CPU seconds, all threads summed.
`agreement` compares the results: Spearman's correlation of the scores for a ranking, the largest objective gap of the
loop's fits over ours for the refits.
"""

import argparse
import time
import warnings

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import tasks
from probing import Site, extract, load_model, rank_neurons
from probing._rankings import k_grid, neuron_scale, top
from probing._support_logistic import fit_on_supports


def data(layer: int, games: int):
    """Neurons (example, d_mlp) and features (example, 64), those that hold on at least 1 % of the examples."""
    prompts = tasks.load("othello", n=games)
    site = Site("mlp_post", layer)
    acts = extract(load_model("othello"), prompts, sites=[site], cache=False, random_init=None)
    X = np.asarray(acts[site], dtype=np.float64)
    codes = prompts.labels("mine_theirs")
    Y = codes == 2 if codes.max() == 2 else codes == codes.max()
    return X, Y[:, (Y.mean(0) > 0.01) & (Y.mean(0) < 0.99)]


def loop_ranking(X, y, ranking: str):
    """The published calls, one feature."""
    if ranking == "mean_dif":
        return np.abs(X[y].mean(0) - X[~y].mean(0))
    if ranking == "f_stat":
        return f_classif(X, y)[0]
    if ranking == "mi":
        return mutual_info_classif(X, y, random_state=0)
    if ranking == "lr":
        return np.abs(LogisticRegression(l1_ratio=1, C=0.1, solver="saga", class_weight="balanced").fit(X, y).coef_[0])
    return np.abs(LinearSVC(loss="hinge").fit(X, y).coef_[0])


def objective(X, y, coef, intercept):
    margin = np.where(y, 1, -1) * (X @ coef + intercept)
    c = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    return (c * np.logaddexp(0, -margin)).sum() + 0.5 * (coef**2).sum()


def timed(run):
    began = time.process_time()
    return run(), time.process_time() - began


def compare(X, Y, n_loop: int, rankings):
    """Rows: what, CPU seconds of ours and of the loop (scaled to all features), their ratio, agreement."""
    Z, some = X / neuron_scale(X), np.linspace(0, Y.shape[1] - 1, n_loop).astype(int)
    scale = Y.shape[1] / n_loop
    for ranking in rankings:
        ours, seconds = timed(lambda ranking=ranking: rank_neurons(X, Y, ranking))
        theirs, loop = timed(lambda ranking=ranking: [loop_ranking(Z, Y[:, f], ranking) for f in some])
        rank = np.mean([spearmanr(ours[f], scores).statistic for f, scores in zip(some, theirs, strict=True)])
        yield dict(what=f"ranking {ranking}", ours=seconds, loop=loop * scale, ratio=loop * scale / seconds,
                   agreement=rank)
    ks, scores = k_grid(X.shape[1]), rank_neurons(X, Y)
    supports = np.stack([top(scores, k) for k in ks])
    cells = np.tile(np.arange(Y.shape[1]), len(ks))
    fit, seconds = timed(lambda: fit_on_supports(Z, Y, cells, supports.reshape(len(cells), -1)))
    coef, intercept = fit.coef.reshape(supports.shape), fit.intercept.reshape(supports.shape[:2])
    for name, settings in {"lbfgs, default": {}, "saga, 200 steps": dict(solver="saga", max_iter=200),
                           "newton-cholesky": dict(solver="newton-cholesky", tol=1e-6)}.items():
        gaps, loop = [], 0.0
        for f in some:
            for i in range(len(ks)):
                S, y = supports[i, f], Y[:, f]
                model, took = timed(lambda S=S, y=y, settings=settings: LogisticRegression(
                    class_weight="balanced", **settings).fit(Z[:, S], y))
                loop += took
                best = objective(Z[:, S], y, coef[i, f, S], intercept[i, f])
                gaps.append(objective(Z[:, S], y, model.coef_[0], model.intercept_[0]) / best - 1)
        yield dict(what=f"refits, {len(ks)} k ({name})", ours=seconds, loop=loop * scale, ratio=loop * scale / seconds,
                   agreement=max(gaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", type=int, default=3, help="layer of the neurons (default %(default)s)")
    parser.add_argument("--games", type=int, default=100, help="games read (default %(default)s)")
    parser.add_argument("--loop-features", type=int, default=4, help="features in the loop (default %(default)s)")
    parser.add_argument("--rankings", nargs="+", default=["mean_dif", "f_stat", "mi", "lr", "svm"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's solvers stop at their limits, as in the published code
    X, Y = data(args.layer, args.games)
    print(f"{X.shape[0]} examples, {X.shape[1]} neurons of layer {args.layer}, {Y.shape[1]} features", flush=True)
    for row in compare(X, Y, args.loop_features, args.rankings):
        print(pd.DataFrame([row]).to_string(index=False, header=row["what"].endswith("mean_dif"),
                                            float_format="{:.3g}".format), flush=True)


if __name__ == "__main__":
    main()
