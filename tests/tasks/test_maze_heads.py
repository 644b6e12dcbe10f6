"""Adjacency heads beside a loop over tokens and hand-made attention; the geometry of embeddings planted and found."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from transformer_lens.model_bridge import TransformerBridge

from tasks import maze
from tasks.maze._heads import SUMS, _frame, attention_to_cells, passage_attention, passage_sums
from tasks.maze._tokens import CELL


def tiny(size=4, seed=0):
    model = TransformerBridge.boot_native(dict(
        d_model=32, n_layers=2, n_heads=4, d_head=8, d_mlp=64, d_vocab=len(maze.words(size)), n_ctx=160, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", seed=seed, init_weights=True))
    return model.eval()


def slow_sums(pattern, tokens, path_start, path, passages, shape):
    """The six sums of one maze and head, token by token."""
    sums = dict.fromkeys(SUMS, 0.0)
    for node, cell in enumerate(path):
        sums["n_nodes"] += 1
        for key in range(path_start):
            other = tokens[key] - CELL
            if not 0 <= other < shape[0] * shape[1] or other == cell:
                continue
            weight = float(pattern[path_start + 1 + node, key])
            steps = abs(other // shape[1] - cell // shape[1]) + abs(other % shape[1] - cell % shape[1])
            kind = "connected" if frozenset((cell, other)) in passages else "adjacent" if steps == 1 else None
            sums["all"] += weight
            if kind:
                sums[kind] += weight
                sums[f"n_{kind}"] += 1
    return [sums[name] for name in SUMS]


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_sums_are_those_of_a_loop_over_tokens(shape):
    mazes = maze.random_mazes(12, shape, "dfs_percolation", seed=2)
    text = maze.tokenise(mazes, 5)
    n = text.tokens.shape[1]
    pattern = torch.rand(12, 3, n, n, generator=torch.manual_seed(0)).tril()
    is_open = maze.open_edges(mazes.connections)
    draws = np.stack([is_open, np.random.default_rng(0).permuted(is_open, axis=1)])
    sums = passage_sums(attention_to_cells(pattern, text, mazes), text, mazes, draws)
    assert sums.shape == (12, 3, 2, len(SUMS))
    pairs = [frozenset(pair) for pair in maze.edges(shape).tolist()]
    for row in range(12):
        path = [cell for cell in mazes.paths[row].tolist() if cell >= 0]
        for draw in range(2):
            passages = {pair for pair, there in zip(pairs, draws[draw, row], strict=True) if there}
            for head in range(3):
                slow = slow_sums(pattern[row, head], text.tokens[row], text.path_start[row], path, passages, shape)
                np.testing.assert_allclose(sums[row, head, draw], slow, rtol=1e-5)


def looks_at(mazes, text, wanted):
    """An attention pattern: from each cell of the path, evenly at the context's tokens of the cells it names."""
    n = text.tokens.shape[1]
    pattern = torch.zeros(len(mazes), 1, n, n)
    for row, path in enumerate(mazes.paths.tolist()):
        for node, cell in enumerate(c for c in path if c >= 0):
            cells = wanted(row, cell)
            keys = [k for k in range(text.path_start[row]) if text.tokens[row, k] - CELL in cells]
            pattern[row, 0, text.path_start[row] + 1 + node, keys] = 1 / max(1, len(keys))
    return pattern


def scores_of(mazes, text, pattern, n_shuffles=20):
    is_open, rng = maze.open_edges(mazes.connections), np.random.default_rng(0)
    draws = np.stack([is_open, *(rng.permuted(is_open, axis=1) for _ in range(n_shuffles))])
    sums = passage_sums(attention_to_cells(pattern, text, mazes), text, mazes, draws)
    table = _frame(sums[None].transpose(3, 1, 0, 2, 4), ("draw", "maze", "layer", "head"), SUMS, mazes)
    found = maze.adjacency_scores(table, n_bootstrap=200)
    return {(r.metric, "null" if isinstance(r.control, str) else "own"): r for r in found.itertuples()}


def test_a_head_on_passages_scores_one_and_a_head_on_lattice_neighbours_has_contrast_one():
    mazes = maze.random_mazes(150, 5, "wilson", seed=1)
    text, joined = maze.tokenise(mazes), maze.ways(mazes.connections)
    around = [{cell: [b for pair in maze.edges((5, 5)).tolist() if cell in pair for b in pair if b != cell]}[cell]
              for cell in range(25)]
    step = {(-1, 0): 0, (1, 0): 1, (0, -1): 2, (0, 1): 3}

    def connected(row, cell):
        return {b for b in around[cell] if joined[row, cell, step[b // 5 - cell // 5, b % 5 - cell % 5]]}

    own = scores_of(mazes, text, looks_at(mazes, text, connected))
    assert own["adjacency_score", "own"].value == pytest.approx(1, abs=1e-6)
    assert np.isnan(own["adjacency_contrast", "own"].value), "it never looks through a wall"
    assert own["adjacency_contrast", "null"].value == pytest.approx(1, abs=0.25)
    assert own["cell_attention", "own"].value == pytest.approx(1, abs=1e-6)

    uniform = torch.ones(150, 1, *2 * [text.tokens.shape[1]]) / text.tokens.shape[1]
    even = scores_of(mazes, text, uniform)
    for which in ("own", "null"):
        assert even["adjacency_contrast", which].value == pytest.approx(1, abs=1e-6)
    assert even["adjacency_score", "own"].value < 0.35

    here = scores_of(mazes, text, looks_at(mazes, text, lambda row, cell: {cell}))
    assert np.isnan(here["adjacency_score", "own"].value) and here["cell_attention", "own"].value == 0


def test_the_interval_is_over_mazes_and_the_band_over_shuffled_mazes():
    mazes = maze.random_mazes(40, 4, seed=3)
    table = maze.adjacency_attention(tiny(), mazes, n_shuffles=6, batch_size=7)
    assert len(table) == 7 * 40 * 2 * 4
    np.testing.assert_array_equal(table["group"], maze.identities(mazes.connections)[table["maze"]])
    scores = maze.adjacency_scores(table, n_bootstrap=300)
    assert len(scores) == 2 * 8 * 4 and (scores["ci_low"] <= scores["ci_high"]).all()
    own = scores[scores["control"].isna()]
    assert ((scores["ci_low"] <= scores["value"]) & (scores["value"] <= scores["ci_high"])).all()
    one = table[(table["draw"] == 0) & (table["layer"] == 1) & (table["head"] == 2)]
    row = own[(own["layer"] == 1) & (own["head"] == 2)].set_index("metric")["value"]
    assert row["adjacency_score"] == pytest.approx(one["connected"].sum() / one["all"].sum())
    contrast = one["connected"].sum() / one["n_connected"].sum() / (one["adjacent"].sum() / one["n_adjacent"].sum())
    assert row["connected_attention"] == pytest.approx(one["connected"].sum() / mazes.n_nodes.sum())
    assert row["adjacency_contrast"] == pytest.approx(contrast)
    contrasts = scores[scores["metric"] == "adjacency_contrast"]["value"]
    assert contrasts.between(0.8, 1.25).all(), "random weights know no passages"
    np.testing.assert_array_equal(maze.adjacency_attention(tiny(), mazes, n_shuffles=0, batch_size=40)[list(SUMS[3:])],
                                  table.loc[table["draw"] == 0, list(SUMS[3:])])


def test_gathering_is_attention_from_the_semicolon_to_the_two_cells_before_it():
    mazes = maze.random_mazes(9, (3, 4), seed=1)
    text, model = maze.tokenise(mazes, 0), tiny((3, 4))
    table = maze.edge_gathering(model, mazes, batch_size=4)
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.from_numpy(text.tokens))
    for row in table.itertuples():
        pattern = cache[f"blocks.{row.layer}.attn.hook_pattern"][row.maze, row.head]
        at = np.flatnonzero(text.closes[row.maze] >= 0)
        assert row.first_cell == pytest.approx(np.mean([pattern[i, i - 3] for i in at]), abs=1e-6)
        assert row.second_cell == pytest.approx(np.mean([pattern[i, i - 1] for i in at]), abs=1e-6)
        assert row.previous == pytest.approx(np.mean([pattern[i, i - 5] + pattern[i, i - 7] for i in at[1:]]), abs=1e-6)
    assert len(table) == 9 * 2 * 4 and (table["gathers"] == table["first_cell"] + table["second_cell"]).all()
    scores = maze.gathering_scores(table, n_bootstrap=200)
    means = table[(table["layer"] == 1) & (table["head"] == 3)].groupby("group")[["gathers", "first_cell", "previous"]]
    means = means.mean().mean()  # equal mazes count once
    mine = scores[(scores["layer"] == 1) & (scores["head"] == 3)].set_index(["metric", "control"])["value"]
    np.testing.assert_allclose(mine.loc[["gathers", "first_cell"]].to_numpy()[[0, 2, 1]], means)
    assert ((scores["ci_low"] <= scores["value"]) & (scores["value"] <= scores["ci_high"])).all()
    planted = torch.zeros(9, 1, *2 * [text.tokens.shape[1]])
    for row, pos in zip(*np.nonzero(text.closes >= 0), strict=True):
        planted[row, 0, pos, [pos - 1, pos - 3]] = torch.tensor([0.25, 0.75])
    np.testing.assert_allclose(passage_attention(planted, text)[:, 0], np.tile([0.75, 0.25, 0, 0], (9, 1)))


def test_attention_of_one_head_over_the_cells_is_that_of_its_pattern():
    mazes, model = maze.random_mazes(5, 4, seed=8, min_nodes=4), tiny()
    mass = maze.attention_over_cells(model, mazes, 3, layer=1, head=2, step=1)
    text = maze.tokenise(mazes[3], 0)
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.from_numpy(text.tokens))
    pattern, start = cache["blocks.1.attn.hook_pattern"][0, 2], text.path_start[0]
    for cell in range(16):
        there = [k for k in range(start) if text.tokens[0, k] == CELL + cell]
        assert mass[cell] == pytest.approx(float(pattern[start + 2, there].sum()), abs=1e-6)
    with pytest.raises(ValueError, match=r"the path of maze 3 has the steps 0 to \d+, not 40"):
        maze.attention_over_cells(model, mazes, 3, layer=1, head=2, step=40)
    with pytest.raises(ValueError, match="2 layers of 4 heads, counted from 0; there is no head 4 in layer 1"):
        maze.attention_over_cells(model, mazes, 3, layer=1, head=4, step=1)


@pytest.mark.parametrize("size", [5, (3, 7)])
def test_a_planted_geometry_is_found_and_a_random_one_is_not(size):
    rows, cols = maze.shape_of(size)
    place = np.stack(np.divmod(np.arange(rows * cols), cols), 1).astype(float)
    rng = np.random.default_rng(0)
    exact = maze.geometry(place @ np.eye(2, 9), size)  # the L1 distance of two places is their Manhattan distance
    assert exact["r"].iloc[-1] == pytest.approx(1) and exact["p"].iloc[-1] == pytest.approx(1 / 2001)
    np.testing.assert_allclose(exact["mean"], exact["distance"], atol=1e-12)
    assert exact["n"].sum() == exact["n_within"].iloc[-1] == rows * cols * (rows * cols - 1) // 2
    noisy = maze.geometry(place @ rng.normal(size=(2, 64)) + rng.normal(size=(rows * cols, 64)), size)
    assert noisy["r"].iloc[-1] > 0.8 and noisy["p"].iloc[-1] < 0.01
    nothing = maze.geometry(rng.normal(size=(rows * cols, 64)), size)
    assert abs(nothing["r"].iloc[-1]) < 0.2 and nothing["p"].iloc[-1] > 0.01
    assert noisy["r_low"].iloc[-1] < noisy["r"].iloc[-1] < noisy["r_high"].iloc[-1] <= 1
    assert exact["r_low"].iloc[-1] == pytest.approx(1), "an exact geometry is exact in every resample"
    assert np.isnan(exact["r"].iloc[0]) and np.isnan(exact["p"].iloc[0]), "all pairs are one step apart"


def test_r_is_pearsons_and_p_is_uniform_without_geometry():
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(16, 8))
    found = maze.geometry(embeddings, 4).set_index("distance")
    pairs = [(i, j) for i in range(16) for j in range(i)]
    steps = np.array([abs(i // 4 - j // 4) + abs(i % 4 - j % 4) for i, j in pairs])
    apart = np.array([np.abs(embeddings[i] - embeddings[j]).sum() for i, j in pairs])
    for most in (2, 3, 6):
        assert found.loc[most, "r"] == pytest.approx(pearsonr(steps[steps <= most], apart[steps <= most])[0])
    p = [maze.geometry(rng.normal(size=(9, 8)), 3, n_permutations=99, seed=i)["p"].iloc[-1] for i in range(100)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.09)


def test_embeddings_are_those_of_the_cells_and_another_size_is_refused():
    model = tiny()
    np.testing.assert_allclose(maze.cell_embeddings(model, 4), model.W_E[CELL:].detach().numpy())
    with pytest.raises(ValueError, match="mazes of 5x5 have 36 tokens, the model 27; give the size it was trained on"):
        maze.cell_embeddings(model, 5)
    with pytest.raises(ValueError, match="a lattice of 3x3 has 9 cells, there are 16 embeddings"):
        maze.geometry(maze.cell_embeddings(model, 4), 3)
