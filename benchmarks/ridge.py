"""Time of choosing ridge penalties by leave-group-out for many targets, against a scikit-learn loop.

    python -m benchmarks.ridge
    python -m benchmarks.ridge --games 600 --targets 500 --sites 7

Real activations of the Othello model at every site, 500 numeric targets (random directions of the last layer's stream,
with noise of many sizes), 20 penalties. Three ways of leaving out, each checked to give the same scores and choice:

  5 folds of games     ours from rows (moments of the folds, subtracted); scikit-learn: GroupKFold x `Ridge` per penalty
  every game           ours from one factorisation; scikit-learn: LeaveOneGroupOut x `Ridge`, on a few of the games and
                       scaled to all of them
  every example        ours; scikit-learn: `RidgeCV`, which has the same identity, once per site

`Ridge` gets all targets of a fold in one call, its fastest way; scikit-learn runs on all threads.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

import tasks
from probing import RidgeProbe, extract, load_model
from probing._ridge import Rows

ALPHAS = np.logspace(-1, 5, 20)


def timed(run: Callable[[], object]) -> tuple[object, float]:
    began = time.perf_counter()
    made = run()
    return made, time.perf_counter() - began


def data(n_games: int, n_targets: int, n_sites: int, seed: int = 0):
    """Activations (example, d_model) of each site, targets, and the game of every example."""
    prompts = tasks.load("othello", n=n_games)
    acts = extract(load_model("othello"), prompts, cache=False, random_init=None)
    X = [acts[site].double().numpy() for site in list(acts)[:n_sites]]
    rng, last = np.random.default_rng(seed), acts[list(acts)[-1]].double().numpy()
    Y = last @ rng.normal(size=(last.shape[1], n_targets))
    Y += rng.normal(size=Y.shape) * Y.std(0) * np.geomspace(0.1, 10, n_targets)  # best penalties differ
    return X, Y, np.unique(prompts.examples["group"].to_numpy(), return_inverse=True)[1]


def loop(X, Y, splits):
    """(alpha, target) summed squared errors of left-out predictions, by refits."""
    errors = np.zeros((len(ALPHAS), Y.shape[1]))
    for train, test in splits:
        for i, alpha in enumerate(ALPHAS):
            errors[i] += ((Y[test] - Ridge(alpha).fit(X[train], Y[train]).predict(X[test])) ** 2).sum(0)
    return errors


def compare(X: list, Y, game, refits: int):
    """A row per way of leaving out: seconds of both for all sites, ratio, and the largest difference of scores."""
    variance = ((Y - Y.mean(0)) ** 2).sum(0)
    folds = np.empty(len(Y), int)
    splits = list(GroupKFold(5).split(Y, groups=game))
    for i, (_, test) in enumerate(splits):
        folds[test] = i

    ours, seconds = timed(lambda: [RidgeProbe(ALPHAS).fit(x, Y, folds) for x in X])
    theirs, slow = timed(lambda: [1 - loop(x, Y, splits) / variance for x in X])
    gap = max(np.abs(a.scores_ - b).max() for a, b in zip(ours, theirs, strict=True))
    yield row("5 folds of games", seconds, slow, gap,
              all((a.alpha_ == ALPHAS[b.argmax(0)]).all() for a, b in zip(ours, theirs, strict=True)))

    ours, seconds = timed(lambda: [RidgeProbe(ALPHAS).fit(x, Y, game) for x in X])
    few = list(LeaveOneGroupOut().split(Y, groups=game))[:refits]
    n_games = game.max() + 1
    theirs, slow = timed(lambda: loop(X[0], Y, few))
    check = left_out(X[0], Y, [test for _, test in few])
    yield row(f"every game ({n_games})", seconds, slow / refits * n_games * len(X),
              np.abs(check - theirs).max() / theirs.max(), "")

    ours, seconds = timed(lambda: [RidgeProbe(ALPHAS).fit(x, Y) for x in X])
    theirs, slow = timed(lambda: [RidgeCV(ALPHAS, alpha_per_target=True).fit(x, Y) for x in X])
    best = max(np.abs(a.scores_.max(0) - (1 + b.best_score_ * len(Y) / variance)).max()
               for a, b in zip(ours, theirs, strict=True))
    yield row("every example", seconds, slow, best,
              all((a.alpha_ == b.alpha_).all() for a, b in zip(ours, theirs, strict=True)))


def left_out(X, Y, tests):
    """Our summed squared errors on these games alone, from one factorisation of all rows."""
    rows = Rows(X, Y, True)
    return sum(rows.errors_without(test[None], ALPHAS) for test in tests)


def row(how: str, ours: float, theirs: float, difference: float, choice) -> dict:
    return {"left out": how, "ours s": ours, "scikit-learn s": theirs, "ratio": theirs / ours,
            "largest difference": f"{difference:.0e}", "same penalties": choice}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=300, help="games read (default %(default)s)")
    parser.add_argument("--targets", type=int, default=500, help="(default %(default)s)")
    parser.add_argument("--sites", type=int, default=7, help="sites at most (default %(default)s, all)")
    parser.add_argument("--refits", type=int, default=2, help="games refitted without (default %(default)s)")
    args = parser.parse_args()
    X, Y, game = data(args.games, args.targets, args.sites)
    print(f"{len(X)} sites of {X[0].shape[1]}, {len(Y):,} examples, {Y.shape[1]} targets, {len(ALPHAS)} penalties, "
          f"{torch.get_num_threads()} threads")
    print(pd.DataFrame(compare(X, Y, game, args.refits)).to_string(index=False, float_format="%.2f".__mod__))


if __name__ == "__main__":
    main()
