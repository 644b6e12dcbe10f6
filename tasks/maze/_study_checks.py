"""The fifteen checks: published results beside what a run measured. Every figure comes from the rows of that run, the
first two from mazes made on the spot.

Sources: Ivanitskiy et al., arXiv:2312.02566; Spies et al., arXiv:2412.11867.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .._checks import Interval, best_reading, check, difference, interval, rows
from .._study import Found
from ._labels import border_inclusive
from ._lattice import Shape, distances, edges, open_edges
from ._mazes import random_mazes
from ._tokens import parse, to_text, tokenise, words

MADE = 2000  # mazes of each kind in the first two checks
SOLVED = "solved"
PLACES = ("path start", "current cell", "semicolon", "whole passage")
CONTRAST = "maze-forkless"
WRITES = ("steer", "move_to")  # edits along directions, beside patches and the learned subspace


def checks(shape: Shape) -> list[Callable[[Found], dict]]:
    """For the study of mazes of this shape."""
    def border(found: Found) -> dict:
        return border_metric(found, shape)

    return [generators, tokens, rollouts, decisions, single_token_map, early_layer, border, forkless, embeddings,
            adjacency_heads, dynamics, patching, adding, removing, decodable_and_causal]


def generators(found: Found) -> dict:
    """Spanning trees at 6x6, which open exactly (36 - 1) / 60 of the edges."""
    made = {name: random_mazes(MADE, 6, name, 7) for name in ("dfs", "wilson")}
    tree = [(open_edges(m.connections).sum(1) == 35) & (distances(m.connections, m.origins) >= 0).all(1)
            for m in made.values()]
    share = float(np.mean(tree))
    opened = float(np.mean([open_edges(m.connections).mean() for m in made.values()]))
    return check("depth-first and Wilson mazes that are spanning trees, 6x6", "all", (share,), "= 1 exactly",
                 share == 1, [check("open share of the edges, 6x6", 0.583, (opened,), "= 35/60 exactly",
                                    abs(opened - 35 / 60) < 1e-12)])


def tokens(found: Found) -> dict:
    """Layout and vocabulary; strings are compared with maze-dataset itself in the tests."""
    mazes = random_mazes(MADE, 6, "dfs_percolation", 7)
    made = tokenise(mazes, 7)
    n_open = open_edges(mazes.connections).sum(1)
    formula = made.lengths == 4 * n_open + 10 + mazes.n_nodes
    again = parse(to_text(made.tokens, 6), 6)
    same = (again.connections == mazes.connections).all((1, 2, 3)) & (again.origins == mazes.origins)
    share = float((formula & same & (again.targets == mazes.targets)).mean())
    return check("prompts of the length of the formula, read back as the maze they tell", "all", (share,),
                 "= 1 exactly", share == 1,
                 [check(f"words at {g}x{g}", float(n), (len(words(g)),), f"= {n} exactly", len(words(g)) == n)
                  for g, n in ((6, 47), (7, 60))])


def rollouts(found: Found) -> dict:
    exact, valid = _behaviour(found, "exact"), _behaviour(found, "valid")
    walker = _behaviour(found, "exact", "shortcut:walker")
    ratio = (exact[0] / walker[0], exact[1] / walker[2], exact[2] / walker[1])
    return check("paths without a mistake, held-out mazes", 0.824, exact, ">= 0.60", exact[0] >= 0.6,
                 [check("times somebody who knows the maze and chooses at random where it forks", None, ratio, ">= 3",
                        ratio[0] >= 3),
                  check("paths without a step through a wall", 0.84, valid, ">= 0.70", valid[0] >= 0.7)])


def decisions(found: Found) -> dict:
    own = _behaviour(found, "origin_decision")
    gap = difference(own, _behaviour(found, "origin_decision", "shortcut:origin_chance"))
    return check("right first steps where the origin has two passages or more", 0.867, own, ">= 0.75", own[0] >= 0.75,
                 [check("over a random choice", None, gap, ">= 0.20", gap[0] >= 0.2)])


def single_token_map(found: Found) -> dict:
    best, rivals = _map(found), _map_rivals(found)
    own = interval(best)
    over_degree, over_majority = (difference(own, rivals[name]) for name in ("shortcut:by_degree", "majority"))
    untrained = difference(rivals["random_init"], rivals["shortcut:by_degree"])
    return check(f"edges read from <PATH_START>, {best['probe']}, {best['stream']} {best['layer']}", 0.936, own,
                 ">= 0.88", own[0] >= 0.88,
                 [check("over the degrees of the cells", None, over_degree, ">= 0.05", over_degree[0] >= 0.05),
                  check("over the majority", None, over_majority, ">= 0.25", over_majority[0] >= 0.25),
                  check("randomly initialised model over the degrees", None, untrained, "<= 0", untrained[0] <= 0)])


def early_layer(found: Found) -> dict:
    best = _map(found)
    curve = rows(found.table, positions="path_start", label="passage", metric="accuracy", split="test",
                 probe=best["probe"], stream="resid_post", intervention=None, model=found.model)
    curve = final(curve).sort_values("layer")
    n_layers = int(curve["layer"].max()) + 1
    layer = -1 if best["stream"] == "resid_pre" else int(best["layer"])
    above = difference(interval(best), _map_rivals(found)["shortcut:by_degree"])
    return check(f"layer of the best map, from 0, of {n_layers}", "2 of 12", (layer,), "in the first half",
                 layer + 1 <= n_layers / 2,
                 [check("there is a map: best accuracy over the degrees", None, above, "> 0, interval too",
                        above[1] > 0),
                  *(check(f"accuracy after block {row['layer']}", None, interval(row), "none", True)
                    for _, row in curve.iterrows())])


def border_metric(found: Found, shape: Shape) -> dict:
    own = interval(_map(found))
    published = tuple(border_inclusive(value, shape) for value in own)
    degree = border_inclusive(_map_rivals(found)["shortcut:by_degree"][0], shape)
    return check("the same as published: four walls per cell, border counted", 0.947, published, "> 0.90",
                 published[0] > 0.9,
                 [check("interior edges, each once", 0.936, own, "none", True),
                  check("the degrees of the cells, border counted", None, (degree,), "none", True),
                  check("edges inside, and on the border", None, (len(edges(shape)),), "none", True)])


def forkless(found: Found) -> dict:
    """A model that never saw a fork, read on mazes with forks."""
    other = interval(best_reading(found.table, "path_start", "passage", model=CONTRAST))
    gap = difference(interval(_map(found)), other)
    over = difference(other, _map_rivals(found)["shortcut:by_degree"])
    return check("trained on corridors: edges read from <PATH_START>, over the degrees", "no clear map", over, "<= 0",
                 over[0] <= 0, [check("this model over that one", None, gap, ">= 0.05", gap[0] >= 0.05)])


def embeddings(found: Found) -> dict:
    row = rows(found.table, metric="embedding_geometry", model=found.model).iloc[0]
    own, p = interval(row), float(row["p_value"])
    twin = interval(rows(found.table, metric="embedding_geometry", control="random_init").iloc[0])
    return check("correlation of embedding and lattice distances", "0.506 and 0.368", own, ">= 0.25",
                 own[0] >= 0.25,
                 [check("p by permutation of the cells", None, (p,), "< 0.01", p < 0.01),
                  check("randomly initialised model", None, twin, "between -0.1 and 0.1", abs(twin[0]) < 0.1)])


def adjacency_heads(found: Found) -> dict:
    """The head with the most attention one passage away, of those that pass; of all, if none does."""
    wide = {(metric, control): rows(found.table, metric=metric, control=control, model=found.model).set_index(
        ["layer", "head"]) for metric in ("adjacency_contrast", "adjacency_score", "connected_attention")
        for control in (None, "shuffled_maze")}
    contrast, score = wide["adjacency_contrast", None], wide["adjacency_score", None]
    null = wide["adjacency_contrast", "shuffled_maze"]["value"].reindex(contrast.index)
    good = (contrast["value"] >= 3) & (score["value"].reindex(contrast.index) >= 0.4) & (null <= 1.3)
    looks = wide["connected_attention", None]["value"].reindex(contrast.index)
    layer, head = (looks[good] if good.any() else looks).idxmax()
    own, share, dealt = (interval(each.loc[(layer, head)])
                         for each in (contrast, score, wide["adjacency_contrast", "shuffled_maze"]))
    return check(f"head {head} of layer {layer}: attention per token one passage away over that behind a wall",
                 "seen in one head", own, ">= 3", own[0] >= 3,
                 [check("share of its attention to cells that is one passage away", None, share, ">= 0.4",
                        share[0] >= 0.4),
                  check("the first in shuffled mazes", None, dealt, "<= 1.3", dealt[0] <= 1.3),
                  check("heads that pass all three", None, (int(good.sum()),), ">= 1", bool(good.any()))])


def dynamics(found: Found) -> dict:
    """Does the map appear when the paths get right?"""
    if found.transitions.empty:
        raise LookupError("the model has no checkpoints to follow")
    table = found.transitions
    probe = table[(table["kind"] == "probe") & (table["reading"] == "path_start")]
    exact = table[(table["kind"] == "behaviour") & (table["metric"] == "exact")]
    if probe.empty or exact.empty:
        raise LookupError("no curve of the map, or of the paths")
    (_, probe), (_, exact) = next(probe.iterrows()), next(exact.iterrows())
    if pd.isna(probe["spearman"]):
        raise LookupError("one of the two curves never moves")
    near = probe["steepest_from"] <= exact["steepest_to"] and exact["steepest_from"] <= probe["steepest_to"]
    return check(f"rank correlation of the map and exact paths over {int(probe['n'])} checkpoints", "coincident rise",
                 (probe["spearman"],), ">= 0.7, 12 checkpoints or more",
                 bool(probe["spearman"] >= 0.7 and probe["n"] >= 12),
                 [check("steepest steps touch: the map from step", None, (probe["steepest_from"],),
                        f"from {exact['steepest_from']:g} to {exact['steepest_to']:g}", bool(near))])


def patching(found: Found) -> dict:
    """The positive control: whole activations of the passage's three tokens, from the prompt that tells of it."""
    parts = {kind: _patched(found, kind, "whole passage") for kind in ("add", "remove")}
    return check("added passage: activations after block 0 patched from the edited prompt, share of its flips", None,
                 parts["add"], ">= 0.70", parts["add"][0] >= 0.7,
                 [check("removed passage, the same", None, parts["remove"], "none", True)])


def adding(found: Found) -> dict:
    """The edit that did most on the other half of the cases, of all places, layers, ways and doses."""
    own, where = _chosen(found, "add")
    random, other = (_chosen(found, "add", control)[0] for control in ("random_direction", "other_target"))
    return check(f"add a passage, first choices that become right ({where})", "0.35 to 0.93 with sparse features", own,
                 ">= 0.30", own[0] >= 0.3,
                 [check("random directions of equal norm", None, random, "at most a third", 3 * random[0] <= own[0]),
                  check("directions of other passages", None, other, "at most a third", 3 * other[0] <= own[0]),
                  check("the edited prompt", None, _told(found, "add"), "none", True)])


def removing(found: Found) -> dict:
    (own, where), (added, _) = _chosen(found, "remove"), _chosen(found, "add")
    gap = difference(added, own)
    return check(f"remove a passage, first choices that become right ({where})", "0 to 0.95 with sparse features", own,
                 "reported", True,
                 [check("random directions of equal norm", None, _chosen(found, "remove", "random_direction")[0],
                        "none", True),
                  check("the edited prompt", None, _told(found, "remove"), "none", True),
                  check("adding minus removing", "> 0", gap, "> 0", gap[0] > 0)])


def decodable_and_causal(found: Found) -> dict:
    """Where a map can be read and patched but not steered, that is the result; here is the table by place. The best way
    of a place is picked among those at their planned doses on the reported cases, which flatters it."""
    parts = []
    for kind in ("add", "remove"):
        for place in PLACES:
            best = _best_at(found, kind, place)
            parts.append(check(f"{kind} at {place}: {best['intervention']} {best['probe']}, {best['stream']} "
                               f"{best['layer']}", None, interval(best), "none", True))
            parts.append(check(f"{kind} at {place}: best layer patched, share of the edited prompt's flips", None,
                               _patched(found, kind, place, None), "none", True))
    steered, read, patched = (each(found)["pass"] for each in (adding, single_token_map, patching))
    said = ("steered" if steered else "decodable, not causal by these directions" if read and patched
            else "neither" if not patched else "no single-token map; passages can be patched, not steered")
    return check(f"adding a passage along a direction, by place: {said}", "linear probes did not steer consistently",
                 _chosen(found, "add")[0], "steered, or both read and patched", steered or (read and patched), parts)


def _behaviour(found: Found, metric: str, control: str | None = None) -> Interval:
    return interval(final(rows(found.table, metric=metric, control=control, label=None, intervention=None)).iloc[0])


def _map(found: Found) -> pd.Series:
    return best_reading(final(found.table), "path_start", "passage", model=found.model)


def final(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the model, without those of its checkpoints."""
    return table[~table["revision"].astype(str).str.startswith("step ")]


def _map_rivals(found: Found) -> dict[str, Interval]:
    """Scores of the controls beside the best map, on the same test mazes."""
    best, out = _map(found), {}
    for control in ("shortcut:by_degree", "majority", "random_init"):
        where = {"label": "passage", "metric": "accuracy", "split": "test", "positions": "path_start",
                 "control": control}
        if control == "random_init":
            where |= {"probe": best["probe"], "stream": best["stream"], "layer": best["layer"]}
        out[control] = interval(final(rows(found.table, **where)).iloc[0])
    return out


def _patched(found: Found, kind: str, place: str, layer: int | None = 0) -> Interval:
    """Share of the flips of the edited prompt that patching after a block gives; after the best one if None."""
    table = rows(found.table, label=kind, positions=place, intervention="patch", metric="flip_rate_recovery",
                 subset=SOLVED, split="report", stream="resid_post", **({} if layer is None else {"layer": layer}))
    return interval(table.loc[table["value"].idxmax()])


def _told(found: Found, kind: str) -> Interval:
    return interval(rows(found.table, label=kind, metric="flip_rate", control="told", subset=SOLVED,
                         split="report").iloc[0])


def _chosen(found: Found, kind: str, control: str | None = None) -> tuple[Interval, str]:
    """Flip rate, and where, of the edit chosen on the other half of the cases, or of one of its controls."""
    if kind not in found.changes:
        raise LookupError(f"no edit was chosen to {kind} a passage")
    said = found.changes[kind]
    table = rows(found.table, label=kind, positions=said.place, intervention=said.verb, probe=said.probe,
                 stream=said.stream, layer=said.layer, metric="flip_rate", subset=SOLVED, split="report",
                 control=control)
    table = table[np.isclose(table["alpha"], said.alpha)]
    if table.empty:
        raise LookupError(f"no rows of the chosen edit to {kind} a passage, {said.where}")
    return interval(table.iloc[0]), said.where


def _best_at(found: Found, kind: str, place: str) -> pd.Series:
    table = rows(found.table, label=kind, positions=place, metric="flip_rate", subset=SOLVED, split="report")
    table = table[table["intervention"].isin(WRITES) & table["alpha"].notna()]
    if table.empty:
        raise LookupError(f"no edit to {kind} a passage at {place}")
    return table.loc[table["value"].idxmax()]
