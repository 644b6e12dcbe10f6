"""Attention heads that follow the passages of a maze, and heads that gather the two cells of each passage.

    table = adjacency_attention(model, mazes)          # maze x layer x head, and the same in shuffled mazes
    scores = adjacency_scores(table)                   # score and contrast of every head, with interval and null
    gathers = gathering_scores(edge_gathering(model, mazes))
    mass = attention_over_cells(model, mazes, 0, layer=3, head=1, step=2)

At a cell of the path, attention is added up over the *context*: the tokens of other cells before `<PATH_START>`, in the
list of passages and as origin and target. Those are of three kinds: joined to the current cell by a passage
(connected), its neighbour on the lattice behind a wall (adjacent), or neither.

    score    = A_connected / A_all
    contrast = (A_connected / n_connected) / (A_adjacent / n_adjacent),  n: how many such tokens there are

both with sums over the cells of all paths. A head that looks at neighbours on the lattice, whatever the maze, has
contrast 1. Source: the heads are those of Ivanitskiy et al., arXiv:2312.02566, section 3.3, who show them as plots; the
two numbers are ours.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from ._lattice import Shape, edges, identities, open_edges
from ._mazes import Mazes
from ._tokens import CELL, Tokens, tokenise

SUMS = ("connected", "adjacent", "all", "n_connected", "n_adjacent", "n_nodes")
METRICS = ("adjacency_score", "adjacency_contrast", "cell_attention", "connected_attention")


def adjacency_attention(model, mazes: Mazes, seed: int | Sequence[int] = 0, *, n_shuffles: int = 20,
                        batch_size: int = 32) -> pd.DataFrame:
    """Where each head looks from the cells of the path: one row per draw, maze, layer and head.

    Draw 0 is the maze itself. In the others the same attention to the same tokens is read with the maze's passages
    dealt anew among all edges of its lattice: what a head scores there owes nothing to the passages.

    Returns:
        `draw`, `maze` (row of `mazes`), `group` (equal mazes share one), `layer`, `head`, and sums over the path:
        attention `connected`, `adjacent` and `all`, the numbers of tokens `n_connected` and `n_adjacent`, and
        `n_nodes`, the cells of the path.
    """
    text, rng = tokenise(mazes, seed), np.random.default_rng([*np.atleast_1d(seed).tolist(), 1])
    is_open = open_edges(mazes.connections)
    draws = np.stack([is_open, *(rng.permuted(is_open, axis=1) for _ in range(n_shuffles))])

    def reduce(pattern: Tensor, rows: slice) -> ndarray:
        told, part = _part(text, rows), mazes[rows]
        return passage_sums(attention_to_cells(pattern, told, part), told, part, draws[:, rows])

    sums = np.stack(_by_layer(model, text, reduce, batch_size))  # layer, maze, head, draw, sum
    return _frame(sums.transpose(3, 1, 0, 2, 4), ("draw", "maze", "layer", "head"), SUMS, mazes)


def adjacency_scores(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Score and contrast of every head, from the rows of `adjacency_attention`: one row per number.

    Where a head hardly looks at cells, its score says little. `cell_attention` is its A_all, `connected_attention` its
    A_connected, each per cell of the path.

    Returns:
        `layer`, `head`, `metric` (one of `METRICS`), `control` (missing, or `shuffled_maze`), `value`, `ci_low`,
        `ci_high`, `n`. The interval is a 95 % bootstrap over different mazes; the value of the control is that of all
        draws together, its band the 5th to 95th percentile of single draws; n counts mazes, and draws. Missing where a
        head has no neighbour behind a wall to be compared with.
    """
    true, shuffled = table[table["draw"] == 0], table[table["draw"] > 0]
    heads = true[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    by_maze = _summed(true, "group")
    resampled = _ratios(np.tensordot(_resamples(len(by_maze), n_bootstrap, seed), by_maze, 1))
    out = [_rows(heads, None, METRICS, _ratios(by_maze.sum(0)), resampled, (2.5, 97.5), len(by_maze))]
    if len(shuffled):
        sums = _summed(shuffled, "draw")
        out.append(_rows(heads, "shuffled_maze", METRICS, _ratios(sums.sum(0)), _ratios(sums), (5, 95), len(sums)))
    return pd.concat(out, ignore_index=True)


def edge_gathering(model, mazes: Mazes, seed: int | Sequence[int] = 0, *, batch_size: int = 32) -> pd.DataFrame:
    """Attention from the `;` that closes a passage to its two cells: one row per maze, layer and head.

    Returns:
        `maze`, `group`, `layer`, `head`, and means over the list: `first_cell` (3 tokens back), `second_cell` (the
        token before), `gathers` (their sum), and `previous`, the same to the cells of the passage before (missing
        where a list has one passage only).
    Source: Spies et al., arXiv:2412.11867 (project page), find that early heads collect both cells there.
    """
    text = tokenise(mazes, seed)

    def reduce(pattern: Tensor, rows: slice) -> ndarray:
        return passage_attention(pattern, _part(text, rows))

    shares = np.stack(_by_layer(model, text, reduce, batch_size))  # layer, maze, head, how far back
    first, second, previous = shares[..., 0], shares[..., 1], shares[..., 2] + shares[..., 3]
    columns = np.stack([first, second, first + second, previous], -1).transpose(1, 0, 2, 3)
    return _frame(columns, ("maze", "layer", "head"), ("first_cell", "second_cell", "gathers", "previous"), mazes)


def gathering_scores(table: pd.DataFrame, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Means of `edge_gathering` over mazes, in the columns of `adjacency_scores`; control `previous_passage`."""
    heads = table[["layer", "head"]].drop_duplicates().sort_values(["layer", "head"])
    names = ["gathers", "first_cell", "second_cell", "previous"]
    means = table.groupby(["group", "layer", "head"])[names].mean().to_numpy().reshape(
        table["group"].nunique(), len(heads), len(names))
    n = len(means)
    resampled = np.tensordot(_resamples(n, n_bootstrap, seed) / n, means, 1)
    rows = _rows(heads, None, names, means.mean(0), resampled, (2.5, 97.5), n)
    rows["control"] = rows["metric"].map({"previous": "previous_passage"})
    return rows.assign(metric=rows["metric"].replace("previous", "gathers"))


def attention_over_cells(model, mazes: Mazes, row: int, layer: int, head: int, step: int,
                         seed: int | Sequence[int] = 0) -> Float[ndarray, " cell"]:
    """Attention of one head from step `step` of the path of one maze to the tokens of each cell in the context, the
    current cell included.

    Raises:
        ValueError: The path has no such step, or the model no such head.
    """
    if not 0 <= step < (n := int(mazes.n_nodes[row])):
        raise ValueError(f"the path of maze {row} has the steps 0 to {n - 1}, not {step}")
    one = mazes[row]
    text = tokenise(one, seed)
    mass = _by_layer(model, text, lambda pattern, rows: attention_to_cells(pattern, text, one).numpy(), 1)
    if not (0 <= layer < len(mass) and 0 <= head < mass[0].shape[1]):
        raise ValueError(f"the model has {len(mass)} layers of {mass[0].shape[1]} heads, counted from 0; there is no "
                         f"head {head} in layer {layer}")
    return mass[layer][0, head, step]


def attention_to_cells(pattern: Float[Tensor, "maze head query key"], text: Tokens, mazes: Mazes,
                       ) -> Float[Tensor, "maze head node cell"]:
    """Attention from each cell of the path to the tokens of each cell in the context; 0 past the end of a path."""
    real = mazes.paths >= 0
    query = np.where(real, text.path_start[:, None] + 1 + np.arange(mazes.paths.shape[1]), 0)
    rows = torch.from_numpy(query).to(pattern.device)[:, None, :, None].expand(-1, pattern.shape[1], -1,
                                                                               pattern.shape[3])
    tokens = torch.from_numpy(_context(text, mazes.shape)).to(pattern.device, pattern.dtype)
    mass = pattern.gather(2, rows) @ tokens[:, None, : pattern.shape[3]]
    return mass.double().cpu() * torch.from_numpy(real)[:, None, :, None]


def passage_sums(mass: Float[Tensor, "maze head node cell"], text: Tokens, mazes: Mazes,
                 is_open: Bool[ndarray, "draw maze edge"]) -> Float[ndarray, "maze head draw 6"]:
    """The columns `SUMS` with each draw's passages in place of the maze's own."""
    here, maze = np.maximum(mazes.paths, 0), np.arange(len(mazes))[:, None]
    real = (mazes.paths >= 0)[..., None]
    others = (np.arange(mass.shape[3]) != here[..., None]) & real
    around = joined(np.ones((1, is_open.shape[2]), bool), mazes.shape)[0][here] & real
    connected = np.stack([joined(draw, mazes.shape)[maze, here] & real for draw in is_open])
    kinds = torch.from_numpy(np.stack([connected, around & ~connected, np.broadcast_to(others, connected.shape)]))
    counts = torch.from_numpy(_context(text, mazes.shape).sum(1)).double()
    attention = torch.einsum("mhnc,kdmnc->mhdk", mass, kinds.double())
    numbers = torch.einsum("mc,kdmnc->mdk", counts, kinds[:2].double())[:, None].expand(-1, mass.shape[1], -1, -1)
    n_nodes = torch.from_numpy(mazes.n_nodes).double()[:, None, None, None].expand(*attention.shape[:3], 1)
    return torch.cat([attention, numbers, n_nodes], -1).numpy()


def passage_attention(pattern: Float[Tensor, "maze head query key"], text: Tokens) -> Float[ndarray, "maze head 4"]:
    """Mean attention from the `;` of a list to the tokens 3, 1, 7 and 5 places before; the last two not from the
    first `;`."""
    out = []
    closes = torch.from_numpy(text.closes[:, : pattern.shape[2]] >= 0).to(pattern.device)
    for back in (3, 1, 7, 5):
        asked = closes[:, back:].clone()
        asked[:, : max(0, 8 - back)] &= back < 4  # the first `;` stands at 4
        there = pattern.diagonal(-back, 2, 3).double() * asked[:, None]
        out.append(there.sum(-1) / asked.sum(-1)[:, None])
    return torch.stack(out, -1).cpu().numpy()


def joined(is_open: Bool[ndarray, "maze edge"], shape: Shape) -> Bool[ndarray, "maze cell cell"]:
    """Which cells are joined by a passage."""
    a, b = edges(shape).T
    out = np.zeros((len(is_open), shape[0] * shape[1], shape[0] * shape[1]), bool)
    out[:, a, b] = out[:, b, a] = is_open
    return out


def _context(text: Tokens, shape: Shape) -> Bool[ndarray, "maze pos cell"]:
    """The tokens of each cell before `<PATH_START>`."""
    before = np.arange(text.tokens.shape[1]) < text.path_start[:, None]
    return before[..., None] & (text.tokens[..., None] == CELL + np.arange(shape[0] * shape[1]))


def _part(text: Tokens, rows: slice) -> Tokens:
    return Tokens(text.tokens[rows], text.lengths[rows], text.closes[rows], text.path_start[rows])


@torch.inference_mode()
def _by_layer(model, text: Tokens, reduce: Callable[[Tensor, slice], ndarray], batch_size: int) -> list[ndarray]:
    """What `reduce` makes of the attention patterns of each layer, (maze, ...): only one pattern is in memory."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    if lacking := [name for name in names if name not in model.hook_dict]:
        raise ValueError(f"the model has no {lacking[0]}, so where it looks cannot be read; load it with eager "
                         "attention")
    found: list[list[ndarray]] = [[] for _ in names]
    for start in range(0, len(text.tokens), batch_size):
        rows = slice(start, min(start + batch_size, len(text.tokens)))
        tokens = torch.from_numpy(text.tokens[rows, : int(text.lengths[rows].max())]).to(model.cfg.device)
        hooks = [(name, _reading(reduce, rows, out)) for name, out in zip(names, found, strict=True)]
        with model.hooks(fwd_hooks=hooks):
            model(tokens)
    return [np.concatenate(out) for out in found]


def _reading(reduce: Callable[[Tensor, slice], ndarray], rows: slice, out: list[ndarray]) -> Callable:
    """A hook that adds what it sees, reduced, to `out` and changes nothing."""
    def read(pattern, hook=None):
        out.append(reduce(pattern, rows))
    return read


def _frame(values: Float[ndarray, "*index column"], index: Sequence[str], columns: Sequence[str],
           mazes: Mazes) -> pd.DataFrame:
    """One row per index, the group of the maze behind its number."""
    where = np.indices(values.shape[:-1]).reshape(len(index), -1)
    table = pd.DataFrame(dict(zip(index, where, strict=True)))
    table.insert(table.columns.get_loc("maze") + 1, "group", identities(mazes.connections)[table["maze"]])
    return table.assign(**dict(zip(columns, values.reshape(-1, len(columns)).T, strict=True)))


def _summed(table: pd.DataFrame, by: str) -> Float[ndarray, "cluster head 6"]:
    """Sums of every cluster and head, heads in order of layer and head."""
    sums = table.groupby([by, "layer", "head"])[list(SUMS)].sum()
    return sums.to_numpy().reshape(table[by].nunique(), -1, len(SUMS))


def _resamples(n: int, n_bootstrap: int, seed: int) -> Int[ndarray, "draw cluster"]:
    """How often each cluster is in each bootstrap sample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_bootstrap)


def _ratios(sums: Float[ndarray, "*some 6"]) -> Float[ndarray, "*some 4"]:
    """The `METRICS`, missing where nothing can be compared."""
    connected, adjacent, everything, n_connected, n_adjacent, n_nodes = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        score, contrast = connected / everything, (connected / n_connected) / (adjacent / n_adjacent)
    return np.stack([np.where(everything > 0, score, np.nan),
                     np.where((adjacent > 0) & (n_connected > 0), contrast, np.nan), everything / n_nodes,
                     connected / n_nodes], -1)


def _rows(heads: pd.DataFrame, control: str | None, metrics: Sequence[str], value: Float[ndarray, "head metric"],
          drawn: Float[ndarray, "draw head metric"], percent: tuple[float | int, float | int], n: int) -> pd.DataFrame:
    """One row per head and metric; the interval spans the draws in which the value is not missing, and the value."""
    frame = pd.DataFrame(drawn.reshape(len(drawn), -1))
    low, high = (frame.quantile(q / 100).to_numpy().reshape(value.shape) for q in percent)
    low, high = np.fmin(low, value), np.fmax(high, value)
    return pd.concat([heads.assign(metric=metric, control=control, value=value[:, k], ci_low=low[:, k],
                                   ci_high=high[:, k], n=n) for k, metric in enumerate(metrics)], ignore_index=True)
