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
# # How a map forms
#
# The model of this notebook has learnt answers about the distances and directions of 200 places, and carries a map of
# them that nobody showed it. It was saved while it learnt. When does the map appear, and does it rotate into place or
# grow where it stays? Do states, gradients and weights align first, or after? And do models from other seeds form the
# same map?

# %%
import os
import tempfile
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from torch.nn.functional import cross_entropy

import probing
import tasks
from probing import RidgeProbe, Site, extract, load_model
from probing.formation import (
    alignment_score,
    alignments,
    coincidences,
    compare_layers,
    follow,
    layer_moments,
    log_steps,
    probe_score,
    transitions,
)
from tasks import space_time
from tasks.space_time.study import study

SMALL = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 400)) < 100  # a test of this notebook
BLUE, ORANGE, GREEN, PURPLE, OCHRE, GREY = "#0072b2", "#d55e00", "#00876a", "#aa4499", "#866700", "#8a93a3"

folder = tasks.reference_models()["space_time"] / "checkpoints"
checkpoints = {int(path.name.removeprefix("step-")): path for path in sorted(folder.glob("step-*"))}
if SMALL:
    checkpoints = {step: checkpoints[step] for step in [*list(checkpoints)[::3], max(checkpoints)]}
prompts = tasks.load("space_time", prompt="distance")
" ".join(prompts.vocabulary[t] for t in prompts.tokens[0]), list(checkpoints)

# %% [markdown]
# ## What is followed
#
# A score takes a model and returns one number per item, or sums per group of items; `follow` takes it at every
# checkpoint (`record(folder, step, model, scores)` does so inside your own training loop, and a list of Hugging Face
# revisions works as well: `{512: ("EleutherAI/pythia-70m", "step512")}`). Here:
#
# - behaviour: answers within one bin, about pairs that training never asked about;
# - the linear probe of the coordinates, fitted anew at every checkpoint, and the final probe, read out at all of them;
# - the six alignments of states (R), gradients (G) and weights (W) around every linear layer, after it (out) and before
#   it (in), under the loss that was trained: that of the answer.

# %%
SITE = Site("resid_post", 0)
train, test = prompts.rows("train"), prompts.rows("test")
place, names = prompts.labels("place"), prompts.examples["group"].to_numpy()[test]
states = np.asarray(extract(load_model("space_time"), prompts, [SITE], cache=False, random_init=None)[SITE])
final = RidgeProbe().fit(states[train], place[train], groups=prompts.examples["group"].to_numpy()[train])


def answered(model):
    return space_time.behaviour(model, n=60 if SMALL else 300)["within_one"].to_numpy(float)


def final_probe(model):
    """(squared error saved, squared deviation) of every test place, whose ratio of sums is R2."""
    X = np.asarray(extract(model, prompts, [SITE], cache=False, random_init=None)[SITE])[test]
    about = (place[test] - place[train].mean(0)) ** 2
    return about - (place[test] - final.predict(X)) ** 2, about


def loss(model, batch):
    tokens, right = batch
    return cross_entropy(model(tokens)[:, -1], right, reduction="none")


asked, following, _ = study().text(80 if SMALL else 800, 0)  # pairs that training never asked about
n_parts = 4 if SMALL else 8
parts = [(asked[i::n_parts], following[i::n_parts, -1]) for i in range(n_parts)]
scores = {"answers": answered, "map": probe_score(prompts, "place"), "map, final probe": final_probe,
          "": alignment_score(loss, parts)}
curves = follow(tempfile.mkdtemp(), checkpoints, scores)

# %% [markdown]
# ## When does it appear?
#
# `halfway_from` and `halfway_to` are the checkpoints between which a curve is halfway from its first to its last value,
# by 95 % of resamples: what happens between two checkpoints is not seen. A `sharp` curve has a step of its own: a
# sigmoid in log step beats a straight line.

# %%
table = transitions(curves).set_index("curve")
table[["first", "last", "halfway_from", "halfway_to", "sharp", "step", "step_low", "step_high"]].round(2)

# %%
by_name = {curve.name: curve for curve in curves}
x = log_steps(np.array(list(checkpoints)))


def draw(ax, name, colour, style="-", label=None):
    curve = by_name[name]
    low, high = np.percentile(curve.draws, [2.5, 97.5], axis=0)
    ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    ax.plot(x, curve.values, style, color=colour, lw=1.8, marker="o", ms=3.5, label=label or name)


def name_ends(ax, gap):
    """The names of the lines beside their ends, `gap` apart."""
    lowest = -np.inf
    for line in sorted(ax.get_lines(), key=lambda line: line.get_ydata()[-1]):
        lowest = max(line.get_ydata()[-1], lowest + gap)
        ax.text(x[-1] + 0.08, lowest, line.get_label(), color=line.get_color(), va="center", fontsize=9)


def steps_axis(ax):
    shown = [i for i in range(len(x)) if i % 2 == 0 or i == len(x) - 1]
    ax.set_xticks(x[shown], [f"{list(checkpoints)[i]:,}" for i in shown], fontsize=8)
    ax.set_xlabel("training step (log scale, step 0 at the left)")
    ax.spines[["top", "right"]].set_visible(False)


figure, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
draw(axes[0], "answers", ORANGE, label="answers within one bin (share)")
draw(axes[0], "map", BLUE, label="map, the probe of that step (R2)")
draw(axes[0], "map, final probe", BLUE, ":", "map, the final probe (R2)")
axes[0].set_ylim(-0.3, 1.05)  # a probe of other states can be as wrong as it likes
axes[0].legend(frameon=False, fontsize=9, loc="upper left")
for name, colour, style in (("out-RGA", GREEN, "-"), ("in-RGA", GREEN, "--"), ("out-RWA", PURPLE, "-"),
                            ("in-RWA", PURPLE, "--"), ("out-GWA", OCHRE, "-"), ("in-GWA", OCHRE, "--")):
    draw(axes[1], name, colour, style)
name_ends(axes[1], 0.028)
axes[1].set_ylabel("alignment, mean over linear layers")
for ax in axes:
    ax.axvspan(*np.log10(np.maximum(table.loc["map", ["halfway_from", "halfway_to"]].astype(float), 1)), color=BLUE,
               alpha=0.1, lw=0)
    steps_axis(ax)
plt.show()

# %% [markdown]
# Where a new probe reads what the final one does not, the map is there and still turns; where both fail, there is none.
#
# ## Which is first?

# %%
six = [by_name[f"{side}-{relation}"] for relation in ("RGA", "RWA", "GWA") for side in ("out", "in")]
order = coincidences(six, [by_name["map"], by_name["answers"]])
order.pivot(index="curve", columns="other", values="order")

# %% [markdown]
# ## Aligned, compared with what?
#
# With step 0, and with the same matrices after the eigenvectors of one were rotated at random: matrices with positive
# diagonals are never quite unlike. Out-RWA and in-GWA are high before training, by algebra.

# %%
ends = {step: alignments(layer_moments(load_model(checkpoints[step]), loss, parts, zeros=True), n_null=5)
        for step in (0, max(checkpoints))}
figure, axes = plt.subplots(2, 3, figsize=(12, 5.4), sharex=True, sharey=True, layout="constrained")
for ax, (relation, side) in zip(axes.T.flat, [(r, s) for r in ("RGA", "RWA", "GWA") for s in ("out", "in")],
                                strict=True):
    start, end = (e[(e["relation"] == relation) & (e["side"] == side)] for e in ends.values())
    at = np.arange(len(end))
    ax.vlines(at, end["null_low"], end["null_high"], color=GREY, lw=7, alpha=0.6, label="rotated eigenvectors")
    ax.plot(at, start["value"], "o", mfc="white", color=ORANGE, label="at step 0")
    ax.plot(at, end["value"], "o", color=BLUE, label="trained")
    ax.set_title(f"{side}-{relation}", loc="left", fontweight="bold", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
short = [layer.replace("blocks.", "").replace("_original_component", "").strip(".") for layer in end["layer"]]
for ax in axes[-1]:
    ax.set_xticks(at, short, rotation=90, fontsize=7)
axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
plt.show()

# %% [markdown]
# ## Do other seeds form the same map?
#
# Three seeds of the world, on the same names; the first with random weights; and a model of another world, which is
# shown the same symbols under its own ids, so that only what they mean is different. The number is the best pair of
# layers, and so is its null, with the rows of one model in random order.

# %%
models = {name: load_model(name) for name in ("space_time", "space_time-1", "space_time-2", "truthfulness")}
models["untrained"] = probing.random_init(models["space_time"], 1)
shown = {name: replace(prompts, vocabulary=()) if name == "truthfulness" else prompts for name in models}
acts = {name: extract(model, shown[name], cache=False, random_init=None) for name, model in models.items()}
rows = [compare_layers(acts["space_time"], acts[other], ("mutual_knn", "debiased_cka"), n_null=20 if SMALL else 100)
        .query("control.notna()").assign(other=other) for other in list(models)[1:]]
alike = pd.concat(rows)
alike[["metric", "other", "control", "value", "ci_low", "ci_high", "p_value"]].round(3)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharey=True)
for ax, (metric, part) in zip(axes, alike.groupby("metric", sort=False), strict=True):
    own, null = (part[part["control"] == control] for control in ("best_of_pairs", "best_of_pairs_null"))
    at = np.arange(len(own))[::-1]
    ax.hlines(at, null["ci_low"], null["ci_high"], color=GREY, lw=8, alpha=0.6)
    ax.plot(own["value"], at, "o", color=BLUE, ms=7)
    ax.set_yticks(at, own["other"])
    ax.set_title(f"{metric}, n = {int(own['n'].iloc[0])}" + (", k = 10" if metric == "mutual_knn" else ""), loc="left",
                 fontsize=10, fontweight="bold")
    ax.set_xlim(-0.05, 1)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].text(0.02, -0.32, "grey: rows in random order, 5th to 95th percentile", transform=axes[0].transAxes, color=GREY,
             fontsize=8)
plt.show()

# %% [markdown]
# All pairs are above rows in random order, the untrained model too: two functions of the same tokens are alike. What
# seeds share beyond that is their distance from the untrained model and from the other world.
