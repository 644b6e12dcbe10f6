"""Random Othello games per second and core: the vectorised engine beside the slow one of the tests.

    python benchmarks/othello_engine.py                    # speed; goal: 20,000 8x8 games per second
    python benchmarks/othello_engine.py --check 100000     # also compares games move for move (12 minutes)

Both engines play on one core. The slow engine only replays the games (it need not draw moves), which favours it.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tasks")]

import slow_othello as slow  # noqa: E402

from tasks.othello import random_games, replay  # noqa: E402

GOAL = 20_000
SHARES = {8: 0.6, 6: 0.3, 4: 0.1}  # of the games compared


def seconds(play) -> tuple[float, float]:
    """Wall and CPU time of one call; on a busy machine the CPU time is the engine's own."""
    wall, cpu = time.perf_counter(), time.process_time()
    play()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(size: int, n: int, n_slow: int, repeats: int = 5) -> None:
    """Print one line: the best of some runs."""
    random_games(2048, size)  # warm the caches
    fast_wall, fast_cpu = np.min([seconds(lambda r=r: random_games(n, size, seed=r)) for r in range(repeats)], axis=0)
    boards_wall, _ = np.min([seconds(lambda: replay(random_games(2048, size)[0], size)) for _ in range(repeats)], 0)
    games = [[s for s in g if s >= 0] for g in random_games(n_slow, size)[0].tolist()]
    slow_wall, slow_cpu = seconds(lambda: [slow.history(g, size) for g in games])
    print(f"{size}x{size}  vectorised {n / fast_wall:9,.0f} games/s (per CPU second {n / fast_cpu:9,.0f})   "
          f"with every board {2048 / boards_wall:8,.0f}   slow {n_slow / slow_wall:5,.0f} "
          f"(per CPU second {n_slow / slow_cpu:5,.0f})   ratio {n / fast_cpu * slow_cpu / n_slow:6,.0f} x", flush=True)


def compare(size: int, n: int, seed: int = 77, chunk: int = 2048) -> int:
    """Compare games move for move with the slow engine; returns the number of positions compared."""
    positions = 0
    for start in range(0, n, chunk):
        squares, _ = random_games(min(chunk, n - start), size, seed, start)
        fast = replay(squares, size)
        states = np.stack([fast.black, fast.white, fast.flipped, fast.legal], -1).tolist()
        movers = np.stack([fast.last_mover, fast.to_move], -1).tolist()
        for game, moves in enumerate(squares.tolist()):
            history = slow.history([s for s in moves if s >= 0], size)
            assert history[-1][5] is None, f"game {start + game} stops before its end"
            for ply, (*boards, last, following) in enumerate(history):
                who = [int(last == "b"), int((following or slow.OTHER[last]) == "b")]
                assert (states[game][ply], movers[game][ply]) == (boards, who), f"{size}x{size} {start + game=} {ply=}"
            positions += len(history)
        print(f"{size}x{size}  {min(start + chunk, n):,} games, {positions:,} positions equal", flush=True)
    return positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=20 * 2048, help="games per timed run")
    parser.add_argument("--slow-games", type=int, default=100)
    parser.add_argument("--check", type=int, default=0, metavar="N", help="compare N games move for move")
    args = parser.parse_args()
    for size in (8, 6, 4):
        speed(size, args.games, args.slow_games)
    print(f"goal: {GOAL:,} 8x8 games per second and core")
    if args.check:
        total = sum(compare(size, round(share * args.check)) for size, share in SHARES.items())
        print(f"{args.check:,} games, {total:,} positions: no difference")


if __name__ == "__main__":
    main()
