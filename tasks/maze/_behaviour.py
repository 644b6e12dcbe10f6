"""Does a model solve mazes? Its paths beside the shortest ones, its single tokens, and a walker who knows the maze.

Metrics of Ivanitskiy et al., arXiv:2312.02566, table 1. With cycles there can be several shortest paths: `exact` then
asks for the stored one, as published, and a token counts as right if it is a step of any shortest path.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from ._lattice import distances, neighbours, ways
from ._mazes import Mazes
from ._tokens import CELL, PADDING, PATH_END, tokenise

Model = Callable[[Tensor], Tensor]  # (prompt, pos) token ids -> (prompt, pos, d_vocab) logits
NO_CELL = -2  # in a path: the model wrote a word that is neither a cell nor <PATH_END>


def behaviour(model: Model, mazes: Mazes, seed: int | Sequence[int] = 0, *, roll: bool = True, batch_size: int = 64,
              listed: str = "random") -> pd.DataFrame:
    """One row per maze; means over rows are the rates of the papers.

    Greedy paths (a rollout is exact if and only if every token of the true path is the most likely one after those
    before it): `exact`; with `roll` also `valid` (begins at the origin, every step is a passage, going back is
    allowed), `target` (the last cell is the target) and `ended` (with `<PATH_END>`).
    Single tokens, each after the true ones before it: `origin_after_path_start`, `first_path_choice`, `rand_path_token`
    and `rand_path_token_nonend` (shares of the path's cells after the origin, and of those before the target: what a
    random choice of the position gives on average), `final_before_path_end`, `path_end`, `token` (share of all).
    Decisions are path cells with more than one way forward: `n_decisions`, `decision` (share right), `chance` (of a
    uniform choice), and the same at origins with two passages or more: `origin_decision`, `origin_chance`; missing
    where there is none. `walker` is the chance that somebody who knows the maze, never turns back and chooses
    uniformly walks the path. `seed` and `listed` are those of `tokenise`.
    """
    made = tokenise(mazes, seed, listed)
    tokens, n_nodes, maze = torch.from_numpy(made.tokens), mazes.n_nodes, np.arange(len(mazes))
    said = _said(model, tokens, made.path_start, mazes.paths.shape[1] + 1, batch_size)
    right, asked = _right(mazes, said), np.arange(said.shape[1]) <= n_nodes[:, None]
    forward = np.pad(mazes.ways_forward, ((0, 0), (1, 0)))  # token k + 1 is chosen at cell k
    later = asked & (np.arange(said.shape[1]) >= 1) & (np.arange(said.shape[1]) < n_nodes[:, None])
    inner, decision = later & (np.arange(said.shape[1]) < n_nodes[:, None] - 1), forward > 1
    with np.errstate(divide="ignore"):
        odds = np.where(decision, 1 / forward, np.nan)
    out = pd.DataFrame({
        "exact": ((said == _true(mazes)) | ~asked).all(1),
        "walker": np.where(decision, odds, 1).prod(1),
        "token": _share(right, asked),
        "n_decisions": decision.sum(1),
        "decision": _share(right, decision),
        "chance": _share(odds, decision),
        "origin_decision": np.where(decision[:, 1], right[:, 1], np.nan),
        "origin_chance": odds[:, 1],
        "origin_after_path_start": right[:, 0],
        "first_path_choice": right[:, 1],
        "rand_path_token": _share(right, later),
        "rand_path_token_nonend": _share(right, inner),
        "final_before_path_end": right[maze, n_nodes - 1],
        "path_end": right[maze, n_nodes],
    })
    if roll:
        paths, ended = _rollouts(model, mazes, made.tokens, made.path_start, said, batch_size)
        out = out.assign(**score(mazes, paths), ended=ended)
    return out


@torch.inference_mode()
def walk(model: Model, prompt: Int[Tensor, " pos"], most: int) -> list[int]:
    """The path a model walks after a prompt that ends with `<PATH_START>`, greedily: cells, at most `most`. It ends
    before the first word that is no cell."""
    path: list[int] = []
    while len(path) < most:
        word = int(model(torch.cat([prompt, torch.tensor(path, dtype=prompt.dtype) + CELL])[None])[0, -1].argmax())
        if word < CELL:
            break
        path.append(word - CELL)
    return path


def score(mazes: Mazes, paths: Int[ndarray, "maze step"]) -> dict[str, Bool[ndarray, " maze"]]:
    """`valid` and `target` of paths (cells, -1 past the end) through the mazes, see `behaviour`."""
    n_cells = mazes.shape[0] * mazes.shape[1]
    here, there = paths[:, :-1], paths[:, 1:]
    maze, step = np.nonzero(there != -1)
    a, b = np.maximum(here, 0)[maze, step], there[maze, step]
    joined = (neighbours(mazes.shape)[a] == b[:, None]) & ways(mazes.connections)[maze, a] & (b < n_cells)[:, None]
    valid = (paths[:, 0] == mazes.origins) & (paths != NO_CELL).all(1)
    np.logical_and.at(valid, maze, joined.any(1))
    last = paths[np.arange(len(paths)), np.maximum((paths != -1).sum(1) - 1, 0)]
    return {"valid": valid, "target": last == mazes.targets}


def _share(value: ndarray, where: Bool[ndarray, "maze token"]) -> Float[ndarray, " maze"]:
    """Mean of each row over its places, missing where there are none."""
    n = where.sum(1)
    return np.where(n > 0, np.where(where, value, 0).sum(1) / np.maximum(n, 1), np.nan)


def _true(mazes: Mazes) -> Int[ndarray, "maze token"]:
    """The tokens of the path, and `<PATH_END>` after it."""
    return np.pad(np.where(mazes.paths >= 0, CELL + mazes.paths, PATH_END), ((0, 0), (0, 1)), constant_values=PATH_END)


@torch.inference_mode()
def _said(model: Model, tokens: Int[Tensor, "prompt pos"], path_start: Int[ndarray, " prompt"], n: int,
          batch_size: int) -> Int[ndarray, "prompt token"]:
    """The most likely token after `<PATH_START>` and after each of the `n` - 1 tokens that follow it."""
    at = torch.from_numpy(np.minimum(path_start[:, None] + np.arange(n), tokens.shape[1] - 1))
    out = [model(part).argmax(-1).gather(1, where.to(part.device)).cpu()
           for part, where in zip(tokens.split(batch_size), at.split(batch_size), strict=True)]
    return torch.cat(out).numpy()


def _right(mazes: Mazes, said: Int[ndarray, "maze token"]) -> Bool[ndarray, "maze token"]:
    """Whether each token is right after the true ones before it; past `<PATH_END>` nothing is."""
    n_cells, maze = mazes.shape[0] * mazes.shape[1], np.arange(len(mazes))
    right = np.zeros(said.shape, bool)
    right[:, 0] = said[:, 0] == CELL + mazes.origins
    right[maze, mazes.n_nodes] = said[maze, mazes.n_nodes] == PATH_END
    left = np.pad(distances(mazes.connections, mazes.targets), ((0, 0), (0, 1)), constant_values=-9)
    maze, node = np.nonzero(mazes.paths[:, 1:] >= 0)
    here, there = mazes.paths[maze, node], said[maze, node + 1] - CELL
    cell = np.where((there >= 0) & (there < n_cells), there, n_cells)
    joined = ((neighbours(mazes.shape)[here] == cell[:, None]) & ways(mazes.connections)[maze, here]).any(1)
    right[maze, node + 1] = joined & (left[maze, cell] == left[maze, here] - 1)
    return right


@torch.inference_mode()
def _rollouts(model: Model, mazes: Mazes, tokens: Int[ndarray, "prompt pos"], path_start: Int[ndarray, " prompt"],
              said: Int[ndarray, "prompt token"], batch_size: int,
              ) -> tuple[Int[ndarray, "maze step"], Bool[ndarray, " maze"]]:
    """Greedy paths (cells, -1 past the end, at most as many as the maze has) and whether they ended.

    While a model says what the true path says, its rollout is the true path, which has been run already; so only what
    follows its first other word is written token by token.
    """
    most, n = mazes.shape[0] * mazes.shape[1], len(mazes)
    same = np.minimum(np.cumprod(said == _true(mazes), 1).sum(1), mazes.n_nodes)
    written, count = np.full((n, most + 1), PADDING), same + 1
    run = np.arange(said.shape[1]) < count[:, None]
    written[:, : said.shape[1]][run] = said[run]
    going = np.flatnonzero((written[np.arange(n), count - 1] >= CELL) & (count <= most))
    while len(going):
        for rows in np.array_split(going, -(-len(going) // batch_size)):
            width = int((path_start + 1 + count)[rows].max())
            prompt = np.full((len(rows), width), PADDING)
            for i, row in enumerate(rows):
                start = path_start[row] + 1
                prompt[i, :start] = tokens[row, :start]
                prompt[i, start : start + count[row]] = written[row, : count[row]]
            last = torch.from_numpy((path_start + count)[rows])
            logits = model(torch.from_numpy(prompt))
            written[rows, count[rows]] = logits[torch.arange(len(rows)), last].argmax(-1).cpu().numpy()
        count[going] += 1
        going = going[(written[going, count[going] - 1] >= CELL) & (count[going] <= most)]
    ended = written[np.arange(n), count - 1] == PATH_END
    over = (np.arange(most + 1) >= count[:, None]) | (written == PATH_END)
    paths = np.where(over, -1, np.where(written >= CELL, written - CELL, NO_CELL))
    return paths, ended
