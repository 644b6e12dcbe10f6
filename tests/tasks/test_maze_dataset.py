"""Parity with maze-dataset itself: strings, vocabulary, layout, the array of passages, shortest paths.

Runs where the package is installed: `pip install -c constraints.txt -e '.[dev,maze]'`, or without all that it brings
along `pip install --no-deps maze-dataset==1.4.2 "muutils<0.9" "zanj<0.6" tqdm`. Newer muutils and zanj, which it takes
by default, cannot be imported with it.
"""

import random
import warnings

import numpy as np
import pytest

from tasks import maze

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of rust_fst, which only its modular tokenizers need
    maze_dataset = pytest.importorskip(
        "maze_dataset", reason='parity needs maze-dataset==1.4.2, "muutils<0.9" and "zanj<0.6", see this file')
    from maze_dataset.generation.generators import LatticeMazeGenerators
    from maze_dataset.tokenization import MazeTokenizer, TokenizationMode

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def tokenizer(size, mode="AOTP_UT_rasterized"):
    return MazeTokenizer(tokenization_mode=TokenizationMode[mode], max_grid_size=size)


def theirs(name, n, size, seed, **options):
    """Mazes that maze-dataset generates and solves; it draws from two global generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    out = []
    while len(out) < n:
        made = getattr(LatticeMazeGenerators, name)(np.array([size, size]), **options)
        path = made.generate_random_path(except_on_no_valid_endpoint=False, endpoints_not_equal=True)
        if path is not None:
            out.append(maze_dataset.SolvedMaze.from_lattice_maze(made, path))
    return out


def passages(text):
    body = text.split("<ADJLIST_END>")[0].removeprefix("<ADJLIST_START>")
    return [frozenset(part.strip().split(" <--> ")) for part in body.split(";") if part.strip()]


@pytest.mark.parametrize(("size", "n_words"), [(5, 36), (6, 47), (7, 60)])
def test_words_and_their_order_are_those_of_the_legacy_tokenizer(size, n_words):
    assert list(tokenizer(size).token_arr) == maze.words(size) and len(maze.words(size)) == n_words
    uniform = list(tokenizer(size, "AOTP_UT_uniform").token_arr)  # the same words, cells from the corner outwards
    assert uniform[:11] == maze.words(size)[:11] and sorted(uniform) == sorted(maze.words(size))
    assert tokenizer(size).vocab_size == n_words


@pytest.mark.parametrize("generator", ["dfs", "dfs_percolation"])
def test_prompts_are_the_same_up_to_the_order_of_the_list(generator):
    mazes = maze.random_mazes(100, 6, generator, seed=1)
    made = maze.tokenise(mazes)
    for row, text in enumerate(maze.to_text(made.tokens, 6)):
        path = np.stack(np.divmod(mazes.paths[row][mazes.paths[row] >= 0], 6), 1)
        solved = maze_dataset.SolvedMaze(connection_list=mazes.connections[row], solution=path)
        words = solved.as_tokens(tokenizer(6))
        assert sorted(map(sorted, passages(text))) == sorted(map(sorted, passages(" ".join(words))))
        assert text.split("<ADJLIST_END>")[1] == " ".join(words).split("<ADJLIST_END>")[1]
        assert len(words) == made.lengths[row]


@pytest.mark.parametrize(("name", "options"), [
    ("gen_dfs", {}), ("gen_dfs", {"do_forks": False}), ("gen_wilson", {}), ("gen_percolation", {"p": 0.6}),
    ("gen_dfs_percolation", {"p": 0.1})])
def test_its_mazes_are_read_and_solved_as_it_solves_them(name, options):
    made = theirs(name, 60, 6, seed=3, **options)
    texts = [" ".join(one.as_tokens(tokenizer(6))) for one in made]
    read = maze.parse(texts, 6)
    for row, one in enumerate(made):
        np.testing.assert_array_equal(read.connections[row], one.connection_list)
        assert divmod(int(read.origins[row]), 6) == tuple(one.start_pos)
        assert divmod(int(read.targets[row]), 6) == tuple(one.end_pos)
        assert read.n_nodes[row] == len(one.solution)
    if name == "gen_dfs":  # trees: one path only
        for row, one in enumerate(made):
            cells = [r * 6 + c for r, c in one.solution.tolist()]
            assert read.paths[row][: len(cells)].tolist() == cells
            assert maze.to_text(maze.tokenise(read[row]).tokens, 6)[0].split("<ADJLIST_END>")[1] == (
                texts[row].split("<ADJLIST_END>")[1])


def test_both_make_mazes_of_one_kind():
    """Means of 400 mazes each: the share of dead ends and the length of a path."""
    made = theirs("gen_dfs", 400, 6, seed=5)
    ours = maze.random_mazes(4000, 6, seed=5)
    degrees = maze.degrees(np.stack([one.connection_list for one in made]))
    assert (degrees == 1).mean() == pytest.approx((maze.degrees(ours.connections) == 1).mean(), abs=0.01)
    assert np.mean([len(one.solution) for one in made]) == pytest.approx(ours.n_nodes.mean(), rel=0.12)
