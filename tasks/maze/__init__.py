"""Maze: a lattice maze given as a list of passages, whose map is to be found inside the model that walks it.

    prompts = tasks.maze.load(n=2000, seed=0)                    # the passages, read from <PATH_START>
    prompts = tasks.maze.load(size=7, generator="wilson", at="path")
    mazes = tasks.maze.random_mazes(1000, size=6, generator="dfs_percolation", p=0.1)
    print(tasks.maze.draw(mazes, 0))
    tasks.maze.behaviour(model, mazes).mean()                    # exact, valid and target-reaching rollouts
    cases = tasks.maze.cases("add", n=500)                       # a passage to add, the right steps before and after
"""

from ._behaviour import behaviour, score, walk
from ._cases import cases, pairs
from ._generators import GENERATORS
from ._geometry import cell_embeddings, geometry
from ._heads import adjacency_attention, adjacency_scores, attention_over_cells, edge_gathering, gathering_scores
from ._labels import border_inclusive, by_degree, load
from ._lattice import (
    connect,
    degrees,
    distances,
    edge_names,
    edges,
    identities,
    open_edges,
    shape_of,
    shortest_paths,
    ways,
)
from ._mazes import Mazes, draw, is_reserved, is_tree, random_mazes, solve
from ._own import read_mazes
from ._pictures import attention_picture, edge_picture, edit_picture, map_picture
from ._shown import picture
from ._tokens import parse, to_ids, to_text, tokenise, words

__all__ = ["GENERATORS", "Mazes", "adjacency_attention", "adjacency_scores", "attention_over_cells",
           "attention_picture", "behaviour", "border_inclusive", "by_degree", "cases", "cell_embeddings", "connect",
           "degrees", "distances", "draw", "edge_gathering", "edge_names", "edge_picture", "edges", "edit_picture",
           "gathering_scores", "geometry", "identities", "is_reserved", "is_tree", "load", "map_picture", "open_edges",
           "pairs", "parse", "picture", "random_mazes", "read_mazes", "score", "shape_of", "shortest_paths", "solve",
           "to_ids", "to_text", "tokenise", "walk", "ways", "words"]
