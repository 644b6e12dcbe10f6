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
# # Decodable is not used
#
# A probe that reads a label from a hidden state shows that the label is *there*. It does not show that the model does
# anything with it. This notebook takes a model in which the truth is known, because it was planted in training, and
# asks of two labels that are read equally well whether the model uses them. Then it goes through three ways in which
# an honest experimenter is fooled, and puts the same questions to a model that nobody planted anything in.

# %%
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import interventions
import probing
import tasks
import worldprobe
from tasks import decoy, othello

MODEL = os.environ.get("WORLDPROBE_NOTEBOOK_MODEL", "othello")  # "othello-6x6" is the small one
GAMES = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 300))
CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 500))
STEPS = int(os.environ.get("WORLDPROBE_NOTEBOOK_STEPS", 80))

model = probing.load_model("decoy")
prompts = tasks.load("decoy", n=2000)
" ".join(prompts.vocabulary[t] for t in prompts.tokens[0] if t)

# %% [markdown]
# A prompt is some letters and a question: `first` or `last`, followed by `.` or `!`. The word decides which letter is
# the answer; the sign decides nothing. We call the two labels `end` and `mark`.
#
# ## Both can be read

# %%
acts = probing.extract(model, prompts)
sweep = probing.sweep(acts, prompts, labels=["end", "mark"], probes={"mass_mean": probing.MassMeanProbe()})
table = sweep.rows
shown = table[(table["split"] == "test") & (table["metric"] == "accuracy")
              & ((table["layer"] == decoy.PLANTED_LAYER) | table["layer"].isna())]
shown.pivot_table(index="label", columns=shown["control"].fillna("probe"), values="value").round(3)

# %% [markdown]
# Perfect, for both, far above a random model and shuffled labels. (A probe of the bare input reads both as well: the
# question is in the prompt.) A paper could end here, with the sentence "the model represents the mark".
#
# ## Is it used?
#
# One call writes the label into the model along what the probe writes along: at dose 1 the mean of one class is moved
# onto that of the other. The table brings the controls: random directions of the same length, the sign flipped, other
# layers and labels, the whole state of another prompt, and the price in other prompts.

# %%
SITE = probing.Site("resid_post", decoy.PLANTED_LAYER)


def changed(rows):
    """Share of answers changed at dose 1, for the edit and its controls."""
    rows = rows[(rows["metric"] == "flip_rate") & (rows["alpha"].isna() | (rows["alpha"] == 1))]
    return rows.set_index(rows["control"].fillna("edit"))["value"].round(3)


probes = {label: probing.MassMeanProbe().fit(acts[SITE].numpy(), prompts.labels(label)[:, 0])
          for label in ("end", "mark")}
effects = {label: interventions.steer_along(model, prompts, probe.write, site=SITE, label=label, probe="mass-mean",
                                            alphas=[0.5, 1, 2, 4], n_cases=CASES) for label, probe in probes.items()}
pd.DataFrame({label: changed(rows) for label, rows in effects.items()})

# %%
worldprobe.dose_curves(effects["end"], "steer", metric="flip_rate")

# %%
worldprobe.dose_curves(effects["mark"], "steer", metric="flip_rate")

# %% [markdown]
# Equal accuracy, opposite verdicts. `end` is used: its direction does what random ones of the same length do not.
# `mark` is only there, and even resists: it changes fewer answers than random directions do. (Left of zero the same
# change is subtracted.)
#
# ## Fooled, first way: no random band
#
# Push hard enough and every direction changes answers. Without the grey band a large dose of `mark` would look like an
# effect; below the band it says nothing of the mark.
#
# ## Fooled, second way: writing along what reads
#
# What a classifier reads along is what separates the classes best given everything else that varies. It is not the
# direction along which the model keeps the label. Two probes of the same accuracy, one edit each:

# %%
cases = decoy.cases("end", CASES)
run = interventions.LastToken.of(model, cases, only=(cases.cases["split"] == "report").to_numpy())
sign = torch.from_numpy(2.0 * cases.cases["becomes"].to_numpy() - 1).float()[:, None]
X, y = acts[SITE].double().numpy(), prompts.labels("end")[:, 0]
means = np.stack([X[y == k].mean(0) for k in (0, 1)])
right = torch.from_numpy(cases.right_after[run.rows.numpy()])


def flipped(edits):
    return float(right.gather(1, run.logits(edits).argmax(1, keepdim=True)).float().mean())


logistic = probing.LogisticProbe(tol=1e-3).fit(X, y)
for name, direction in (("mass-mean", probes["end"].direction()), ("logistic", logistic.direction(pair="read"))):
    step = torch.from_numpy((means[1] - means[0]) @ direction * direction).float()
    print(f"{name:>10}: {flipped({SITE: interventions.steer(sign * step)}):.2f} of the answers follow")

# %% [markdown]
# So a probe here is a pair: `probe.read` classifies, `probe.write` steers. Moving along the second until the first
# reads the other class works for either probe.
#
# ## Fooled, third way: "I removed it, and the model did not care"
#
# Projecting out what a classifier reads along does not remove what it reads: the next classifier finds it again.

# %%
half = np.arange(len(X)) % 2 == 0
erasers = {
    "project out the read direction": interventions.Eraser.onto(logistic.read, X.mean(0)),
    "project out the difference of means": interventions.Eraser.onto(probes["end"].write, X.mean(0)),
    "LEACE": interventions.LEACE.fit(X, y),
}
kept = torch.from_numpy(cases.right_before[run.rows.numpy()])
rows = []
for name, eraser in erasers.items():
    erased = eraser.transform(X)
    again = probing.LogisticProbe(tol=1e-3).fit(erased[half], y[half]).score(erased[~half], y[~half])
    logits = run.logits({SITE: eraser.edit()})
    rows.append({"eraser": name, "rank": eraser.rank, "a new probe reads": again,
                 "answers kept": float(kept.gather(1, logits.argmax(1, keepdim=True)).float().mean())})
pd.DataFrame(rows).round(3)

# %% [markdown]
# "The model survived the ablation of the probe's direction" is not evidence. After LEACE no linear probe does better
# than the majority, and the answers are gone. Both numbers belong in the table, with random subspaces of the same rank
# beside them:

# %%
amnesic = pd.concat([
    interventions.amnesic(model, decoy.cases(label, CASES), {SITE: interventions.LEACE.fit(X, prompts.labels(label))},
                          probe="LEACE") for label in ("end", "mark")])
answers = amnesic[amnesic["metric"] == "accuracy"]
answers.assign(control=answers["control"].fillna("erased")).pivot(index="control", columns="label",
                                                                  values="value").round(3)

# %% [markdown]
# ## Readout or mediator?
#
# The last question: is what the probe reads what *carries* the cause? Learn the direction along which an interchange
# between prompts changes the answer (DAS), and put it beside the probe's own directions.

# %%
pairs = interventions.interchange_pairs(cases)
report = interventions.readout_mediator(model, pairs, SITE, {
    "logistic.read": logistic.read, "mass_mean.write": probes["end"].write,
    "planted": probing.Subspace.spanned_by(decoy.planted("decoy")["end"][None])}, n_refits=2, steps=STEPS)
print(interventions.verdict(report))
worldprobe.readout_mediator_plot(report)

# %% [markdown]
# And for the decoy, under the claim that it decides:

# %%
claim = replace(decoy.cases("mark", CASES), right_after=cases.right_after)
report = interventions.readout_mediator(model, interventions.interchange_pairs(claim), SITE, {
    "mass_mean.write": probes["mark"].write}, n_refits=2, steps=STEPS)
print(interventions.verdict(report))

# %% [markdown]
# ## A model that nobody planted anything in
#
# The Othello model predicts legal moves and was never shown a board. Its states can be read as *mine and theirs* and,
# less well, as *black and white*. Which of the two does it use? The same disc is changed, once along the pattern of the
# one label and once along that of the other, each brought to the same length.

# %%
model = probing.load_model(MODEL)
size = 8 if model.cfg.d_vocab == 61 else 6
games = tasks.load("othello", n=GAMES, size=size)
acts = probing.extract(model, games, random_init=None)
flips = othello.cases("natural", "flip", CASES, size)
train = games.rows("train")
square = np.array([games.targets("mine_theirs").index(name) for name in flips.cases["target"]])


def pattern(site, scheme, was, becomes):
    codes, pos = games.labels(scheme)[train], games.examples["pos"].to_numpy()[train]
    B = probing.encoding_patterns(np.asarray(acts[site])[train], codes, 3, pos)
    return torch.tensor(B[square, becomes] - B[square, was], dtype=torch.float32)


was, becomes = flips.cases["was"].to_numpy(), flips.cases["becomes"].to_numpy()  # 0 theirs, 1 empty, 2 mine
black = othello.to_move(flips) == 1
colour_was, colour_becomes = (np.where(black, code, 2 - code) for code in (was, becomes))  # 0 white, 1 empty, 2 black
sites = [probing.Site("resid_post", layer) for layer in range(model.cfg.n_layers - 1)]
mine_theirs = {site: pattern(site, "mine_theirs", was, becomes) for site in sites}
black_white = {site: pattern(site, "black_white", colour_was, colour_becomes) for site in sites}
othello_run = interventions.LastToken.of(model, flips)
how = dict(unit="pattern length", intervention="flip", probe="encoding")
dose = interventions.best_dose(interventions.window_map(othello_run, flips, mine_theirs, alphas=[1, 2, 3], **how))
effects = interventions.effect(othello_run, flips, mine_theirs, sites=dose.sites, alphas=[0.5, 1, 2, 3],
                               others={"black_white": black_white}, ideal_null=othello.ideal_null(flips), **how)
worldprobe.dose_response(effects, "flip")

# %% [markdown]
# The error of the next moves, against the changed board, falls along *mine and theirs* alone. The same push along
# *black and white* does no better than no edit, although those labels can be read too.
#
# ## What may be said
#
# - *reads*: a probe beats its controls on held-out groups. Says nothing about use.
# - *is enough*: writing it, by patch or push, gives the new answer beyond the random band.
# - *is used*: taking it away, with an eraser that was shown to erase, costs answers that random subspaces do not.
#
# `worldprobe run` and `worldprobe intervene` print these words only where the rows say so.
