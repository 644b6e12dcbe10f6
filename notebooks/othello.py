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
# # Does a model of Othello moves know the board, and does it use it?
#
# The model reads moves (`c4 c3 d3 ...`) and predicts legal ones. Nobody ever showed it a board. We ask two questions
# that are easily mistaken for one: can the board be *read* from its hidden states, and does the model *use* what we
# read?

# %%
import os

import numpy as np
import torch

import interventions
import probing
import tasks
import worldprobe
from tasks import othello

MODEL = os.environ.get("WORLDPROBE_NOTEBOOK_MODEL", "othello")  # "othello-6x6" is the small one
GAMES = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 300))
CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 300))

model = probing.load_model(MODEL)
size = 8 if model.cfg.d_vocab == 61 else 6
prompts = tasks.load("othello", n=GAMES, size=size)
print(f"{len(prompts.tokens)} random games, {len(prompts):,} positions; label schemes: {', '.join(prompts.schemes)}")
print(prompts.examples.groupby("split")["prompt"].nunique().to_dict(), "games per split")

# %% [markdown]
# ## Reading the states
#
# One pass reads the stream after every block, and that of a randomly initialised twin: the control that says how much
# of the score is the probe's own work. Nothing is read twice; call this again and it comes from the store.

# %%
acts = probing.extract(model, prompts)
acts

# %% [markdown]
# ## Probes, with what makes their scores mean something
#
# Labels are *mine* and *theirs*, from the player to move: Nanda et al. found that a linear probe reads them, while
# black and white look non-linear. An accuracy of 80 % is nothing here: "a disc keeps the colour it was placed with"
# gets that without any model, and is drawn beside the probe.

# %%
probes = {"logistic": probing.LogisticProbe(tol=1e-2)}
sweep = probing.sweep(acts, prompts, labels=["mine_theirs", "black_white"], probes=probes)
worldprobe.accuracy_by_layer(sweep.rows, "mine_theirs")

# %%
site, probe = sweep.best("mine_theirs")  # the layer is chosen on validation
table = sweep.rows
here = table[(table["label"] == "mine_theirs") & (table["split"] == "test") & table["subset"].isin(
    ["all", "occupied", "flipped_once"]) & ((table["layer"] == site.layer) | table["layer"].isna())]
here[["control", "probe", "subset", "value", "ci_low", "ci_high", "n_groups"]].round(3)

# %% [markdown]
# ## Writing a disc
#
# A probe that reads the board proves nothing about use. So we change one disc *inside* the model and look whether the
# next moves are those of the changed board. Squares are correlated, so we do not write along the difference of class
# means but along the pattern of the *encoding model*: how the activation moves when this square alone changes.

# %%
cases = othello.cases("natural", "flip", CASES, size)
train = prompts.rows("train")
labels, pos = prompts.labels("mine_theirs")[train], prompts.examples["pos"].to_numpy()[train]
squares = prompts.targets("mine_theirs")
number = {name: i for i, name in enumerate(squares)}
square = np.array([number[name] for name in cases.cases["target"]])
was, becomes = cases.cases["was"].to_numpy(), cases.cases["becomes"].to_numpy()

directions = {}
for layer in range(model.cfg.n_layers):
    here = probing.Site("resid_post", layer)
    pattern = probing.encoding_patterns(np.asarray(acts[here])[train], labels, 3, pos)
    directions[here] = torch.tensor(pattern[square, becomes] - pattern[square, was], dtype=torch.float32)

# %% [markdown]
# Which layers, and how much, is a choice, and a choice is a fit: it is made on one half of the cases and reported on
# the other. The error counts wrong moves among the top picks (false positives plus false negatives).

# %%
run = interventions.LastToken.of(model, cases)
how = dict(unit="pattern length", intervention="flip", probe="encoding")
scan = interventions.window_map(run, cases, directions, alphas=[1, 2, 3], **how)
dose = interventions.best_dose(scan)
print(f"chosen: layers {dose.layer} to {dose.layer_end}, {dose.alpha:g} pattern lengths")

# %%
effects = interventions.effect(run, cases, directions, sites=dose.sites, alphas=[-1, 0.5, 1, 2, 3],
                               ideal_null=othello.ideal_null(cases), **how)
worldprobe.dose_response(effects, "flip")

# %% [markdown]
# The grey band is twenty random directions of the same length. An edit that stays inside it moves the model as any
# push of that size would. Below the band, and below doing nothing, the edit has said something in the model's own
# language.

# %%
chosen = effects[(effects["metric"] == "error_ratio") & (effects["alpha"] == dose.alpha)].set_index("control")
own, band = chosen.loc[chosen.index.isna()].iloc[0], chosen.loc["random_direction"]
print(f"flip: {own['value']:.2f} [{own['ci_low']:.2f}, {own['ci_high']:.2f}] of the error without an edit")
print(f"random directions: {band['value']:.2f} [{band['ci_low']:.2f}, {band['ci_high']:.2f}]")

# %% [markdown]
# `worldprobe run othello --out runs/othello` does all of this for every method, with erasure, what later layers read,
# the moves that follow, and a report to share.
