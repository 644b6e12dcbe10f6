"""What the study of the maze draws: mazes as read, edge by edge, edits, where a head looks; and one maze as text."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from .._checks import best_reading, rows
from .._study import Changed, Found, Picture, Read
from ._behaviour import walk
from ._carriers import GROUPS, carrier_picture
from ._heads import attention_over_cells
from ._labels import shape_named
from ._lattice import Shape, edge_names
from ._mazes import Mazes, draw
from ._pictures import attention_picture, edge_picture, edit_picture, examples_picture, map_picture
from ._study_checks import final
from ._tokens import parse, to_text

SHOWN = 2  # mazes and cases: the first there are, not the best
_LOOKED_AT, _STEPS = 8, 3  # mazes among which the first with so many forks is drawn


def pictures(found: Found) -> Sequence[Picture]:
    """In the order of the report; what a run has no rows for is left out."""
    out = []
    if (read := found.readings.get("path_start")) is not None:
        for k in range(min(SHOWN, len(np.unique(read.rows)))):
            mazes, passage, path = _as_read(found, read, k)
            out.append(Picture("A maze as it is read from <PATH_START>", map_picture(mazes, 0, passage, path), (
                f"Test maze {k + 1}; {read.where}. A strong line is a wall that the probe is sure of, over the true "
                "walls; what is read wrongly is orange. Green: the path that the model walks.")))
        out += _by_edge(found, shape_named(read.prompts.task))
    for name, changed in found.changes.items():
        out += _edits(name, changed)
    return out + _heads(found)


def carriers(table: pd.DataFrame) -> Picture:
    """The map of the measure `carriers`: groups of tokens down, blocks across, a panel for adding and for removing."""
    own = table[table["metric"] == "patched"]
    depth = (own["layer"] + (own["stream"] == "resid_post")).astype(int)
    own = own.assign(kind=own["subset"].str.partition(": ")[0], group=own["subset"].str.partition(": ")[2], depth=depth)
    panels = {kind: part.pivot(index="group", columns="depth", values="value").loc[list(GROUPS)].to_numpy(float)
              for kind, part in own.groupby("kind", sort=False)}
    return Picture("Which tokens carry the passage", carrier_picture(panels, list(GROUPS.values())), (
        "Percent of the next steps that become those of the other prompt when the stream of these tokens is taken from "
        "it: at the embedding (0), after block 1, 2, ... The last two lines are unions of lines above."))


def shows(found: Found) -> str:
    """The first test maze as it is read and walked, as text."""
    read = found.readings.get("path_start")
    if read is None:
        return ""
    mazes, passage, path = _as_read(found, read, 0)
    return (f"\n{draw(mazes, 0, passage, path)}\n# wall; ? wall read as open, + passage read as a wall ({read.where}); "
            "O origin, X target, * path of the model, . shortest path")


def examples(found: Found, reading: str, rows: Sequence[int], names: Sequence[str]) -> str | None:
    """Test mazes as they are read, where all of a maze is read; None elsewhere."""
    read = found.readings[reading]
    if "passage" not in read.prompts.schemes:
        return None
    return examples_picture([(name, *_one_read(read, k)[:2]) for name, k in zip(names, rows, strict=True)])


def _as_read(found: Found, read: Read, k: int) -> tuple[Mazes, Float[ndarray, " edge"], list[int]]:
    """One test maze, the probability of each passage, and the path of the model."""
    mazes, passage, tokens = _one_read(read, k)
    return mazes, passage, walk(found.network, tokens, mazes.shape[0] * mazes.shape[1])


def _one_read(read: Read, k: int) -> tuple[Mazes, Float[ndarray, " edge"], Int[Tensor, " pos"]]:
    """One test maze, the probability of each passage, and the prompt."""
    prompt = int(read.prompts.examples["prompt"].to_numpy()[read.rows[k]])
    tokens = read.prompts.tokens[prompt, : int(read.prompts.lengths[prompt])]
    shape = shape_named(read.prompts.task)
    mazes = parse(to_text(tokens[None].numpy(), shape), shape)
    return mazes, _on_lattice(shape, read.prompts.targets("passage"), read.values[k]), tokens


def _on_lattice(shape: Shape, targets: Sequence[str], values) -> Float[ndarray, " edge"]:
    """Values of some edges at their places among all of the lattice, NaN at the others."""
    return pd.Series(np.asarray(values, float), list(targets)).reindex(edge_names(shape)).to_numpy()


def _by_edge(found: Found, shape: Shape) -> list[Picture]:
    read, table = found.readings["path_start"], final(found.table)
    try:
        best = best_reading(table, "path_start", "passage", model=found.model)
        where = {"label": "passage", "metric": "accuracy", "split": "test", "intervention": None}
        own = {"positions": "path_start", "probe": best["probe"], "stream": best["stream"], "layer": best["layer"],
               "model": found.model, **where}
        names = read.prompts.targets("passage")
        panels = {"Probe": [float(rows(table, subset=f"edge={n}", **own).iloc[0]["value"]) for n in names],
                  "Degrees alone": [float(rows(table, subset=f"edge={n}", positions="path_start",
                                               control="shortcut:by_degree", **where).iloc[0]["value"])
                                    for n in names]}
    except LookupError:
        return []
    svg = edge_picture({name: _on_lattice(shape, names, values) for name, values in panels.items()}, shape,
                       what="accuracy")
    return [Picture("Accuracy by edge", svg, f"{read.where}, test mazes; beside it what the numbers of passages of "
                    "every cell tell without a model. Each number stands where the wall would be.")]


def _edits(name: str, changed: Changed) -> list[Picture]:
    """The first solved cases of the half for reporting."""
    cases, out = changed.cases, []
    shape = shape_named(cases.task)
    solved = np.flatnonzero(cases.right_before[changed.rows, changed.before.argmax(1)])
    for k in solved[:SHOWN].tolist():
        row = int(changed.rows[k])
        case = cases.cases.iloc[row]
        prompt = int(case["prompt"])
        text = cases.tokens[prompt : prompt + 1, : int(cases.lengths[prompt])].numpy()
        mazes = parse(to_text(text, shape), shape)
        panels = {"Untouched": changed.before[k], "After the edit": changed.after[k]}
        if changed.told is not None:
            panels["Told in the prompt"] = changed.told[k]
        svg = edit_picture(mazes, 0, str(case["target"]), int(case["node"]), panels)
        out.append(Picture(f"The next step, {name} {case['target']}", svg,
                           f"{changed.where}. The first cases that the model solves, not the best ones."))
    return out


def _heads(found: Found) -> list[Picture]:
    """Where the head that looks most at cells one passage away looks, from the first forks of one path."""
    read = found.readings.get("path_start")
    try:
        scored = rows(found.table, metric="connected_attention", model=found.model)
    except LookupError:
        return []
    if read is None:
        return []
    best = scored.loc[scored["value"].idxmax()]
    layer, head = int(best["layer"]), int(best["head"])
    some = [_as_read(found, read, k)[0] for k in range(min(len(read.rows), _LOOKED_AT))]
    mazes = max(some, key=lambda one: min(_STEPS, int((one.ways_forward > 1).sum())))
    steps = np.flatnonzero(mazes.ways_forward[0] > 1)[:_STEPS].tolist() or [0]
    panels = {f"Step {step}": (step, attention_over_cells(found.network, mazes, 0, layer, head, step))
              for step in steps}
    return [Picture(f"Head {head} of layer {layer} along a path", attention_picture(mazes, 0, panels),
                    "The head with the most attention on cells one passage away, where a path forks; attention "
                    "to the cell's tokens before <PATH_START>, in percent.")]
