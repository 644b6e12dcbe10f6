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
# # A map and a calendar that nobody drew
#
# The model of this notebook has read answers to four kinds of questions about 200 places and 150 events: how far, in
# which direction, which was first, how long between. No coordinate and no date ever stood in a prompt, and a name is
# two syllables dealt at random. Is there a map in it all the same? Where? And do its answers rest on it?

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import interventions
import probing
import tasks
import worldprobe
from tasks import space_time

CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 400))
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#00876a", "#8a93a3"

model = probing.load_model("space_time")
prompts = {relation: tasks.load("space_time", prompt=relation) for relation in ("distance", "gap")}
for each in prompts.values():
    print(" ".join(each.vocabulary[t] for t in each.tokens[0]))

# %% [markdown]
# ## Does it know its world?
#
# Asked about pairs that no training prompt asked about. `chance` is the best fixed answer.

# %%
asked = space_time.behaviour(model, n=CASES)
known = asked.groupby("relation", sort=False)[["within_one", "exact", "chance"]].mean()
known.round(3)

# %% [markdown]
# ## Can the coordinates be read?
#
# Ridge regression on the state at the last token of the first name, at every layer, on names that it was not fitted on;
# beside it a network with a hidden layer. The controls come along: the same probe on a model with random weights, on
# shuffled coordinates, on the tokens alone, and the mean of the region that a place lies in (of the age, for an event):
# whoever knows the region and nothing else.

# %%
PROBES = {"ridge": probing.RidgeProbe(), "mlp_regression": probing.MLPRegressorProbe()}
acts = {relation: probing.extract(model, each) for relation, each in prompts.items()}
sweeps = {relation: probing.sweep(acts[relation], each, [LABEL], PROBES) for relation, LABEL, each in (
    ("distance", "place", prompts["distance"]), ("gap", "time", prompts["gap"]))}


def by_layer(rows):
    """R2 on test names, a row per site and a column per probe and control."""
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "r2") & (rows["subset"] == "all")]
    name = rows["control"].fillna("") + rows["probe"].where(rows["control"].isna(), "").fillna("")
    rows = rows[(rows["probe"] != "mlp_regression") | rows["control"].isna()]
    site = rows["stream"].fillna("no model") + " " + rows["layer"].astype("string").fillna("")
    return rows.pivot_table(index=site, columns=name[rows.index], values="value").round(3)


by_layer(sweeps["distance"].rows)

# %%
worldprobe.accuracy_by_layer(sweeps["distance"].rows, "place", "r2")

# %% [markdown]
# Nothing at the embedding, since neither syllable says anything; a map as soon as the first block has put the two
# together. What the map looks like, for the places that the probe was not fitted on, and the same where the probe never
# saw any place of the region: regions that are left out fall where they belong.

# %%
SITE = sweeps["distance"].best("place", "ridge")[0]
X, Y = acts["distance"][SITE].double().numpy(), prompts["distance"].labels("place")
test, block = prompts["distance"].rows("test"), prompts["distance"].examples["block"].to_numpy()
read = probing.RidgeProbe().fit(X[~test], Y[~test]).predict(X)
apart = np.empty_like(Y)
for region in np.unique(block):
    here = block == region
    apart[here] = probing.RidgeProbe().fit(X[~here & ~test], Y[~here & ~test]).predict(X[here])

figure, axes = plt.subplots(1, 2, figsize=(10, 5), sharex=True, sharey=True, layout="constrained")
for ax, said, title, colour in ((axes[0], read, "places left out", BLUE), (axes[1], apart, "regions left out", ORANGE)):
    ax.plot([Y[test, 0], said[test, 0]], [Y[test, 1], said[test, 1]], color=colour, lw=1)
    ax.plot(*Y[test].T, "o", mfc="white", mec="black", ms=6, label="where it is")
    ax.plot(*said[test].T, "o", color=colour, ms=3.5, label="where the probe puts it")
    ax.set(title=title, aspect="equal")
    for region in np.unique(block):
        ax.annotate(region, Y[block == region].mean(0), color=GREY, fontsize=16, ha="center", va="center", zorder=0)
axes[0].legend(frameon=False, loc="lower left")
figure

# %% [markdown]
# In numbers: the proximity error of Gurnee and Tegmark is the share of predictions that lie nearer to where a place
# truly is than its own; 0 is perfect, one half is chance.

# %%
prox = {name: space_time.proximity_error(Y[test], said[test], space_time.plane_distance).mean()
        for name, said in (("places left out", read), ("regions left out", apart))}
mean = prompts["distance"].labels("block_mean")
prox["the mean of the region"] = space_time.proximity_error(Y[test], mean[test], space_time.plane_distance).mean()
pd.Series(prox, name="proximity error").round(3)

# %% [markdown]
# ## A calendar
#
# The events have one coordinate, and the same happens.

# %%
worldprobe.accuracy_by_layer(sweeps["gap"].rows, "time", "r2")

# %% [markdown]
# ## Does the model use it?
#
# R2 says that the map is there. Now the first place of a question is moved: to the state at its name we add what the
# states of all places change by, on average, for that step on the map (the pattern, a regression of states on
# coordinates). If the model uses this map, its answer must become the one about the new position. Beside it, at every
# layer: random directions of the same length, and the whole state of the prompt that has the other place in it, which
# leaves nothing to be desired.

# %%
cases = space_time.cases("place", CASES, relation="distance")
step = cases.cases[["x_becomes", "y_becomes"]].to_numpy() - cases.cases[["x_was", "y_was"]].to_numpy()
word = {w: i for i, w in enumerate(prompts["distance"].vocabulary)}
witness = torch.tensor([[word[w] for w in text.split()] for text in cases.cases["witness"]])
run = interventions.Sequences.of(model, cases)
NAME = int(prompts["distance"].examples["pos:entity"].iloc[0])  # the last token of the first name
told = interventions.Sequences(model, witness, cases.lengths).read(list(acts["distance"]))


def follows(logits, unedited, before, after):
    """Whether the answer is right about the new place."""
    return interventions.top1_right(logits, after).float()


rows = []
for site in acts["distance"]:
    x = acts["distance"][site].double().numpy()[~test]
    pattern = np.linalg.lstsq(Y[~test] - Y[~test].mean(0), x - x.mean(0))[0]  # (coordinate, d_model)
    found = interventions.effect(
        run, cases, {site: torch.tensor(step @ pattern, dtype=torch.float32)}, alphas=[1], unit="move",
        positions=NAME, probe="pattern", metrics={"follows": follows}, score=None,
        arms={"full_patch": {site: interventions.patch_from(told[site][:, NAME])}})
    found = found[(found["metric"] == "follows") & (found["subset"] == "all")]
    rows.append(found[found["control"].isna() | found["control"].isin(["random_direction", "full_patch", "null"])])
moved = pd.concat(rows, ignore_index=True)
moved = moved.assign(arm=moved["control"].fillna("pattern"), site=moved["stream"] + " " + moved["layer"].astype(str))
follow = moved.pivot_table(index="site", columns="arm", values="value", sort=False)
linear = sweeps["distance"].rows
linear = linear[(linear["probe"] == "ridge") & linear["control"].isna() & (linear["split"] == "test")
                & (linear["metric"] == "r2") & (linear["subset"] == "all")]
follow.insert(0, "R2", linear.set_index(linear["stream"] + " " + linear["layer"].astype(str))["value"])
follow.round(3)

# %%
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for column, colour, words in (
        ("R2", GREY, "R2 of the map"), ("full_patch", GREEN, "answers, whole state"),
        ("pattern", BLUE, "answers, pattern"), ("random_direction", ORANGE, "answers, random directions")):
    ax.plot(follow.index, follow[column].clip(lower=0), "o-", color=colour, label=words)
ax.set(ylabel="R2, or share of answers", ylim=(-0.03, 1.05))
ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figure

# %% [markdown]
# ## When does it appear?
#
# The same reading, and the same questions, at checkpoints of the training run.

# %%
folder = tasks.reference_models()["space_time"] / "checkpoints"
kept = sorted(folder.glob("step-*"))
curve = []
for path in [*kept[:1], *kept[-6 if CASES < 200 else -9:]]:
    young = probing.load_model(path)
    state = probing.extract(young, prompts["distance"], [SITE], cache=False, random_init=None)[SITE].double().numpy()
    said = probing.RidgeProbe().fit(state[~test], Y[~test]).predict(state[test])
    r2 = 1 - ((Y[test] - said) ** 2).sum(0) / ((Y[test] - Y[~test].mean(0)) ** 2).sum(0)
    answers = space_time.behaviour(young, n=min(CASES, 200)).groupby("relation")["within_one"].mean()
    curve.append({"step": int(path.name[5:]), "R2 of the map": r2.mean(), "right answers": answers["distance"]})
pd.DataFrame(curve).set_index("step").round(3)

# %% [markdown]
# ## What may be said
#
# Every sentence below is made from the numbers above.

# %%
own = linear.set_index(linear["stream"] + " " + linear["layer"].astype(str))
nulls = sweeps["distance"].rows
nulls = nulls[(nulls["metric"] == "r2") & (nulls["split"] == "test") & (nulls["subset"] == "all")
              & (nulls["probe"].isna() | (nulls["probe"] == "ridge"))]


def highest(control):
    return nulls[nulls["control"] == control]["value"].max()


best = own.loc[own["value"].idxmax()]
membership = highest("shortcut:block_mean")
print(f"The map is {'linear' if best['value'] > 0.95 else 'partly linear'} at {best['stream']} {best['layer']}: R2 "
      f"{best['value']:.3f}, {'above' if best['ci_low'] > membership else 'not clearly above'} the {membership:.3f} of "
      f"whoever knows the region alone; random weights {highest('random_init'):.3f}, the tokens alone "
      f"{highest('input_only'):.3f}.")
mlp = by_layer(sweeps["distance"].rows)["mlp_regression"].max()
print(f"A network with a hidden layer reads {mlp:.3f}: a line is "
      f"{'enough' if mlp - best['value'] <= 0.03 else 'not enough'}.")
print(f"Regions that the probe never saw: proximity error {prox['regions left out']:.3f}, nominally "
      f"{prox['places left out']:.3f}.")
for site, row in follow.iterrows():
    used = row["pattern"] > 5 * max(row["random_direction"], 0.01)
    says = "the map is used here" if used else "decodable, and not used" if row["R2"] > 0.5 else "nothing here"
    print(f"{site:>12}: R2 {row['R2']:6.3f}; of the answers follow {row['pattern']:.2f} the pattern, "
          f"{row['full_patch']:.2f} the whole state, {row['random_direction']:.2f} random directions: {says}.")

# %% [markdown]
# The last lines are the point. Where the map is read well and nothing listens, not even to the whole state of the other
# place, a probe alone would have said "represented". It cannot tell such a layer from one that the answers rest on.
#
# ## Real names
#
# The same questions for a language model and the published tables (39,585 places of the world, and others), or a table
# of yours, are one command; there the country's mean is the rival to beat, and the report draws the map:
#
#     worldprobe run space_time --model EleutherAI/pythia-410m --with data=world_place
#     worldprobe run space_time --model DIR --with data=towns.csv --with name=town --with block=county
#
# What to expect, and the paper's numbers: `docs/space_time.md`.
