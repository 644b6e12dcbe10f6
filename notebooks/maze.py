# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A map of the maze?
#
# A small transformer reads a maze as a list of passages in random order, is told where to start and where to go, and
# writes the path. Nobody shows it a picture of the maze. Does it put the passages together to a map, and does it walk
# by that map? We read the map from single tokens, hold every score against what can be had without one, and then change
# single passages inside the model.

# %%
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

import interventions
import probing
import worldprobe
from tasks import maze

N = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 2000))
CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 200))

model = probing.load_model("maze")
mazes = maze.random_mazes(min(N, 400), seed=11, reserved=True)  # none that the model was trained on
print(maze.draw(mazes, 0))
print(maze.to_text(maze.tokenise(mazes[:1]).tokens)[0])

# %% [markdown]
# `#` are walls, `O` and `X` the two ends. A passage is four tokens, `(2,0) <--> (1,0) ;`.
#
# ## It walks
#
# Exact: the whole path without a mistake. Somebody who knows the maze, never turns back and tosses a coin wherever it
# forks gets what `walker` says; `chance` is the same coin at a single fork.

# %%
walked = maze.behaviour(model, mazes)
walked[["exact", "walker", "valid", "target", "decision", "chance"]].mean().round(3).to_frame("share of mazes")

# %% [markdown]
# ## Where is the map?
#
# Every edge of the lattice is a label: wall or passage. We read all of them from one token, `<PATH_START>`, which has
# seen the whole list, and from `<ADJLIST_END>`, which ends it. The control to watch is the *shortcut*: a cell is named
# once for every passage it has, so that an average over the list tells how many passages each cell has. From these
# counts alone, without knowing which cells are joined, least squares tell about four edges in five rightly.
#
# `path` is another question: at every cell of the path, the four passages of that cell alone. Its shortcut is what the
# cell and the way it was entered tell.

# %%
PROBE = {"logistic": [probing.LogisticProbe(C=c, tol=1e-2) for c in (0.01, 0.1, 1.0)]}
PLACES = {"path_start": ("passage", N), "adjlist_end": ("passage", N), "path": ("local", max(N // 5, 40))}


def read(at):
    """The probe of the layer that is best on validation, its rows, and how much it has over the shortcut on test."""
    label, n = PLACES[at]
    prompts = maze.load(n, at=at)
    acts = probing.extract(model, prompts)
    sweep = probing.sweep(acts, prompts, [label], PROBE, controls=["random_init", "input_only"])
    site, probe = sweep.best(label)
    test = prompts.rows("test")
    truth, group = prompts.labels(label)[test], prompts.examples["group"].to_numpy()[test]
    shortcut = prompts.shortcuts[label][0]
    gain = ((probe.predict(np.asarray(acts[site])[test]) == truth).mean(1)
            - (prompts.labels(shortcut)[test] == truth).mean(1))
    rows = sweep.rows
    rows = rows[(rows["metric"] == "accuracy") & (rows["split"] == "test") & (rows["subset"] == "all")
                & (rows["layer"].isna() | ((rows["layer"] == site.layer) & (rows["stream"] == site.stream)))]
    line = rows.set_index(rows["control"].fillna("probe"))["value"].rename({f"shortcut:{shortcut}": "shortcut"})
    over, low, high = probing.bootstrap_mean(gain, group)
    return prompts, acts, sweep, line[["probe", "shortcut", "majority", "input_only", "random_init"]].to_dict() | {
        "site": str(site), "over the shortcut": over, "low": low, "high": high}


readings = {at: read(at) for at in PLACES}
pd.DataFrame({at: line for at, (*_, line) in readings.items()}).T.infer_objects().round(3)

# %%
def is_more(line):
    """Whether a reading has more than all that needs no map: over the shortcut beyond doubt, and over the others."""
    return line["low"] > 0 and line["probe"] > max(line["majority"], line["input_only"])


for at, (*_, line) in readings.items():
    print(f"{at:>11}: {line['probe']:.3f}, over the shortcut {line['over the shortcut']:+.3f} [{line['low']:+.3f}, "
          f"{line['high']:+.3f}]: {'more' if is_more(line) else 'not more'} than what needs no map")

# %% [markdown]
# A score below its shortcut, or below the bag of tokens (`input_only`), is no map, however high it looks; one above
# them may still be a poor map. The layers:

# %%
worldprobe.accuracy_by_layer(readings["adjlist_end"][2].rows, "passage")

# %% [markdown]
# One maze of the test split as it is read from `<ADJLIST_END>`: strong lines are walls that the probe is sure of, what
# it reads wrongly is orange. Green is the path that the model walks.

# %%
prompts, acts, sweep, _ = readings["adjlist_end"]
site, probe = sweep.best("passage")
row = int(np.flatnonzero(prompts.rows("test"))[0])
passage = probe.predict_proba(np.asarray(acts[site])[[row]])[0]
whole = maze.load(N, at="path_start")  # the same mazes, up to <PATH_START>
text = maze.to_text(whole.tokens[row : row + 1])
path = maze.walk(model, whole.tokens[row, : int(whole.lengths[row])], 25)
maze.map_picture(maze.parse(text), 0, passage, path, title=f"As read from <ADJLIST_END>, {site}")

# %% [markdown]
# ## Heads that follow the passages
#
# At a cell of the path, which other cells does a head look at? `score` is the share of its attention to cells that goes
# one passage ahead; `shuffled` is the same when the passages of the maze are dealt anew.

# %%
table = maze.adjacency_scores(maze.adjacency_attention(model, mazes[:60]))
wide = table.pivot_table(index=["layer", "head"], columns=["metric", table["control"].fillna("own")], values="value")
heads = pd.DataFrame({"attention one passage ahead": wide["connected_attention", "own"],
                      "score": wide["adjacency_score", "own"], "shuffled": wide["adjacency_score", "shuffled_maze"]})
heads = heads.sort_values("attention one passage ahead", ascending=False)
heads.head(5).round(3)

# %%
layer, head = map(int, heads.index[0])
forks = (mazes.ways_forward > 1).sum(1)
row = int(forks[:60].argmax())
steps = np.flatnonzero(mazes.ways_forward[row] > 1)[:3].tolist()
looks = {f"step {step}": (step, maze.attention_over_cells(model, mazes, row, layer, head, step)) for step in steps}
maze.attention_picture(mazes, row, looks, title=f"Where head {head} of layer {layer} looks")

# %% [markdown]
# ## Is it used?
#
# In each case a passage is added that makes the path shorter. In the prompt it stands in one slot of the list; in its
# twin a repetition of another passage stands there. The twins have equal length, so that the activations of one can be
# put into the other, token by token: where does that bring the step that the new passage allows? 0: it does nothing; 1:
# it does all that telling the passage in the prompt does.

# %%
pairs = maze.pairs("add", n=CASES)
TOKENS = {"first_cell": "first cell", "second_cell": "second cell", "slot": "its ;", "path_start": "<PATH_START>",
          "last": "current cell"}
patched = interventions.activation_patching(
    model, pairs, interventions.block_sites(model, ["resid_pre"]), [-1 if name == "last" else name for name in TOKENS],
    directions=["noise"], n_random=0)
nie = patched[(patched["metric"] == "nie") & patched["control"].isna()]
nie = nie.pivot_table(index="layer", columns="positions", values="value").rename_axis("before block")
nie = nie[list(TOKENS)].rename(columns=TOKENS)
nie.round(2)

# %%
print("most that patching one token brings: " + ", ".join(
    f"{name} {nie[name].max():.2f} (before block {nie[name].idxmax()})" for name in nie))

# %% [markdown]
# ## Writing a passage
#
# Now along directions: what the activations at a token gain, on average over other mazes, when the passage is there. At
# `<PATH_START>` that is the passage as part of the map; at the current cell the way that opens; at the three tokens of
# the slot the passage that is listed, in place of the one that stands in for it. Layer and dose are chosen on one half
# of the cases, and reported on the other, beside twenty random directions of the same length and beside the whole
# activations of the prompt that tells of the passage.

# %%
cases = maze.cases("add", n=CASES)
said = interventions.LastToken.of(model, cases).logits().argmax(-1).numpy()
solved = cases.right_before[np.arange(len(cases)), said]  # those that the model walks rightly before the change
cases = replace(cases, cases=cases.cases[solved].reset_index(drop=True), right_before=cases.right_before[solved],
                right_after=cases.right_after[solved])
telling = interventions.Sequences(model, *maze.to_ids(cases.cases["witness"].tolist()))
SITES = [probing.Site("resid_post", layer) for layer in range(model.cfg.n_layers)]
told, source, every = telling.logits(), telling.read(SITES), torch.arange(len(cases))


def rises(prompts, label, listed=False):
    """What the passage of every case adds to a token: after every block, (case, d_model)."""
    acts, names = probing.extract(model, prompts, SITES, random_init=None), prompts.targets(label)
    column = "direction" if label == "local" else "target"
    new, old = ([names.index(name) for name in cases.cases[c]] for c in (column, "stand_in" if listed else column))
    out = {}
    for site in SITES:
        means = np.nan_to_num(probing.class_means(np.asarray(acts[site]), prompts.labels(label), 2))
        rise = means[:, 1] - means[:, 0]
        out[site] = torch.tensor(rise[new] - listed * rise[old], dtype=torch.float32)
    return out


some = max(N // 5, 40)
own = maze.load(some, seed=1, at="edges")
RISES = {"path_start": rises(maze.load(N, seed=1), "passage"),
         "last": rises(maze.load(some, seed=1, at="path"), "local"), "slot": rises(own, "own", True),
         **{name: rises(own.at(name), "own", True) for name in ("first_cell", "second_cell")}}
EDITED = {"<PATH_START>": ["path_start"], "current cell": ["last"], "its ;": ["slot"],
          "its three tokens": ["first_cell", "second_cell", "slot"]}


def places(names):
    return [-1 if name == "last" else torch.as_tensor(cases.cases[f"pos:{name}"].to_numpy(copy=True)) for name in names]


def steered(names, site, alpha):
    return {interventions.Spot(site.stream, site.layer, part=i): interventions.steer(RISES[name][site], alpha)
            for i, name in enumerate(names)}


def put_in(names, site):
    at = [telling.lengths - 1 if isinstance(p, int) else p for p in places(names)]
    return {interventions.Spot(site.stream, site.layer, part=i): interventions.patch_from(source[site][every, p])
            for i, p in enumerate(at)}


# %%
how = dict(unit="class_mean", intervention="steer", probe="mass_mean")
ARMS = ["null", "edit", "random_direction", "full_patch", "told"]
effects, edits = {}, {}
for place, names in EDITED.items():
    run = (interventions.LastToken if names == ["last"] else interventions.Sequences).of(model, cases)
    arms = [(how | dict(stream=site.stream, layer=site.layer, layer_end=site.layer, alpha=float(alpha)),
             steered(names, site, alpha)) for site in SITES for alpha in (1, 2, 4)]
    dose = interventions.best_dose(interventions.joint_scan(run, cases, arms, places(names)))
    (site,) = dose.sites
    rows = interventions.joint_effect(run, cases, partial(steered, names, site), places(names), alphas=[dose.alpha],
                                      full_patch=put_in(names, site), told=told, metrics=["iia"], **how)
    rows = rows[(rows["metric"] == "iia") & (rows["subset"] == "all")]
    rows = rows.set_index(rows["control"].fillna("edit"))
    effects[place] = {"site": str(site), "dose": dose.alpha} | rows["value"][ARMS].to_dict() | {
        "low": rows["ci_low"]["edit"], "high": rows["ci_high"]["edit"],
        "random, 95th": rows["ci_high"]["random_direction"]}
    edits[place] = {site: [interventions.At(edit, where) for edit, where in zip(
        steered(names, site, dose.alpha).values(), places(names), strict=True)]}
effects = pd.DataFrame(effects).T.infer_objects()
effects.round(3)

# %% [markdown]
# Share of the reported cases in which the model takes the new passage: without an edit, after it, after random ones,
# after whole activations were put in, and told of the passage in the prompt.

# %%
for place, line in effects.iterrows():
    found = "beyond" if line["low"] > line["random, 95th"] else "inside"
    print(f"{place}: {line['edit']:.2f} [{line['low']:.2f}, {line['high']:.2f}], {found} the random band, up to "
          f"{line['random, 95th']:.2f}; whole activations {line['full_patch']:.2f}; told {line['told']:.2f}")

# %% [markdown]
# ## One edit, seen
#
# The place where writing did most, in the first case of the reported half.

# %%
place = effects["edit"].astype(float).idxmax()
row = int(np.flatnonzero(cases.cases["split"] == "report")[0])
run = interventions.Sequences.of(model, cases)
panels = {"untouched": run.logits()[row], f"written at {place}": run.logits(edits[place])[row],
          "told in the prompt": told[row]}
text = maze.to_text(cases.tokens[int(cases.cases["prompt"].iat[row])][None])[0]
shown = maze.parse([text.partition("<PATH_START>")[0] + "<PATH_START>"])
maze.edit_picture(shown, 0, cases.cases["target"].iat[row], int(cases.cases["node"].iat[row]),
                  {name: logits.softmax(-1).numpy() for name, logits in panels.items()})

# %% [markdown]
# ## What may be said

# %%
mapped = [at for at, (*_, line) in readings.items() if at != "path" and is_more(line)]
written = [place for place, line in effects.iterrows() if line["low"] > line["random, 95th"]]
reaches = [name for name in nie if nie[name].max() > 0.1]
print("A map of the whole maze, beyond what needs none, is read from: "
      f"{', '.join(mapped) or 'neither token'}.")
print("Whole activations, patched at one token, bring more than a tenth of what telling does from: "
      f"{', '.join(reaches)}; not from: {', '.join(name for name in nie if name not in reaches)}.")
print(f"Directions do more than random ones at: {', '.join(written) or 'none of these places'}.")

# %% [markdown]
# `worldprobe run maze` asks all of this with every control: more places, both kinds of change, every probe's direction
# at many doses, knock-out of the heads, and when in training all of it appears. `notebooks/maze_map.py` asks under
# which conditions a map forms at all.
