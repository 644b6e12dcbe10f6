"""Solved mazes per second and core, beside maze-dataset in the same run; and the generators beside theory.

    python benchmarks/mazes.py                      # speed; goal: 5,000 solved 6x6 dfs mazes per second and core
    python benchmarks/mazes.py --check 100000       # passages, uniformity and rates over 100,000 mazes (two minutes)

maze-dataset is timed where it is installed (`pip install --no-deps maze-dataset==1.4.2 "muutils<0.9" "zanj<0.6" tqdm`).
Both run in one process on one core, and both solve every maze between two random cells.
"""

import argparse
import itertools
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binom, chisquare

sys.path.insert(0, str(Path(__file__).parent.parent))

from tasks import maze

GOAL = 5_000
TREES = ("dfs", "prim", "wilson", "kruskal")
THEIRS = {"dfs": "gen_dfs", "wilson": "gen_wilson", "kruskal": "gen_kruskal", "percolation": "gen_percolation",
          "dfs_percolation": "gen_dfs_percolation"}


def per_second(make: Callable[[int], object], n: int, repeats: int) -> tuple[float, float]:
    """Mazes per second of wall and of CPU time, the best of some runs; on a busy machine the latter is its own."""
    best = [np.inf, np.inf]
    for repeat in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        make(repeat)
        best = np.minimum(best, [time.perf_counter() - wall, time.process_time() - cpu]).tolist()
    return n / best[0], n / best[1]


def theirs(generator: str, n: int, size: int) -> Callable[[int], object] | None:
    """maze-dataset doing the same, if it is there and can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from maze_dataset.generation.generators import LatticeMazeGenerators
        except ImportError:
            return None
    if generator not in THEIRS:
        return None
    make = getattr(LatticeMazeGenerators, THEIRS[generator])
    options = {"p": 0.4} if generator == "percolation" else {"p": 0.1} if generator == "dfs_percolation" else {}

    def run(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        for _ in range(n):
            make(np.array([size, size]), **options).generate_random_path(except_on_no_valid_endpoint=False)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(0)
    except (TypeError, ValueError, AssertionError) as error:
        print(f"  maze-dataset's {generator} fails: {str(error)[:80]}")
        return None
    return run


def speed(size: int, n: int, n_theirs: int, repeats: int) -> None:
    """A line per generator."""
    for generator in maze.GENERATORS:
        maze.random_mazes(min(n, 2048), size, generator)  # warm the caches
        wall, cpu = per_second(lambda r, g=generator: maze.random_mazes(n, size, g, seed=r), n, repeats)
        line = f"{size}x{size} {generator:16} {wall:9,.0f} solved mazes/s (per CPU second {cpu:9,.0f})"
        if (other := theirs(generator, n_theirs, size)) is not None:
            their_wall, their_cpu = per_second(other, n_theirs, min(repeats, 2))
            line += f"   maze-dataset {their_wall:6,.0f} ({their_cpu:6,.0f})   ratio {cpu / their_cpu:6,.0f} x"
        print(line, flush=True)


def spanning_trees(size: int) -> list[int]:
    """All of a small lattice, as bit masks over its edges."""
    pairs, n_cells, found = maze.edges((size, size)).tolist(), size * size, []
    for kept in itertools.combinations(range(len(pairs)), n_cells - 1):
        part = list(range(n_cells))
        for edge in kept:
            a, b = (part[cell] for cell in pairs[edge])
            part = [a if p == b else p for p in part]
        if len(set(part)) == 1:
            found.append(sum(1 << edge for edge in kept))
    return found


def check(n: int, seed: int = 1) -> dict[str, float]:
    """What theory says of the generators, over `n` mazes in all; p-values of the random ones.

    Raises:
        AssertionError: A tree that is none, a path that is not shortest.
    """
    out, share = {}, max(n // 8, 400)
    for generator in TREES:
        made = maze.random_mazes(share, 6, generator, seed=seed)
        assert (maze.open_edges(made.connections).sum(1) == 35).all(), generator
        assert maze.is_tree(made).all() and (maze.distances(made.connections, made.origins) >= 0).all(), generator
        steps = maze.distances(made.connections, made.origins)[np.arange(share), made.targets]
        assert (made.n_nodes == steps + 1).all(), generator
        assert maze.score(made, made.paths)["valid"].all(), generator
    trees = spanning_trees(3)
    assert len(trees) == 192  # the matrix-tree theorem
    made = maze.random_mazes(2 * share, 3, "wilson", seed=seed)
    masks = maze.open_edges(made.connections) @ (1 << np.arange(12))
    assert set(masks.tolist()) <= set(trees)
    out["wilson, 192 trees of 3x3 equally likely: p"] = chisquare([(masks == tree).sum() for tree in trees]).pvalue
    for p in (0.3, 0.7):
        raw = maze.GENERATORS["percolation"](share, (6, 6), np.random.default_rng(seed), p=p)[0]
        n_open = maze.open_edges(raw).sum(1)
        bins = np.flatnonzero(share * binom.pmf(np.arange(61), 60, p) >= 5)
        expected = np.r_[binom.cdf(bins[0] - 1, 60, p), binom.pmf(bins, 60, p), binom.sf(bins[-1], 60, p)] * share
        counted = np.r_[(n_open < bins[0]).sum(), (n_open[:, None] == bins).sum(0), (n_open > bins[-1]).sum()]
        out[f"percolation {p}, number of passages binomial: p"] = chisquare(counted, expected).pvalue
        by_edge = maze.open_edges(raw).sum(0)
        z = (by_edge - share * p) / np.sqrt(share * p * (1 - p))
        out[f"percolation {p}, 60 edges alike, largest |z|"] = float(np.abs(z).max())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mazes", type=int, default=4 * 2048, help="mazes per timed run")
    parser.add_argument("--theirs", type=int, default=200, help="mazes per timed run of maze-dataset")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=6)
    parser.add_argument("--check", type=int, default=0, metavar="N", help="compare N mazes with theory")
    args = parser.parse_args()
    speed(args.size, args.mazes, args.theirs, args.repeats)
    print(f"goal: {GOAL:,} solved 6x6 depth-first mazes per second and core")
    if args.check:
        start = time.perf_counter()
        for what, value in check(args.check).items():
            print(f"{what} = {value:.3g}")
        print(f"{args.check:,} mazes agree with theory, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
