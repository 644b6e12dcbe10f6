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
# # Does a model know what is true, and does it use it?
#
# A small model has read documents about who speaks, plays, visits and studies what. In some documents nearly every
# statement is a fact, in others nearly none is, and no word says which. A reader who wants to guess the next object has
# one thing to find out: *are the statements here true?* We look for the answer inside the model, ask whether it is the
# answer or something that comes along with it, push it, and hold what the model says against what it knows.

# %%
import os

import numpy as np
import pandas as pd
import torch

import interventions
import probing
import worldprobe
from probing import Site
from tasks import truthfulness

GAMES = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 300))
CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 400))

model = probing.load_model("truthfulness")
prompts = truthfulness.load(n=10 * GAMES)
print(*prompts.examples.groupby("truth/statement")["statement"].first(), sep="\n")

# %% [markdown]
# ## It trusts a document as far as its statements deserve
#
# The probability of the right object, in a statement about somebody else. `bayes` is a reader who knows all facts and
# infers how truthful the document is.

# %%
trust = truthfulness.behaviour(model, n=10 * GAMES).mean(numeric_only=True)
shown = [name for name in trust.index if not name.startswith("bayes_")]
pd.DataFrame({"model": trust[shown], "bayes": [trust[f"bayes_{name}"] for name in shown]}, index=shown).round(3)

# %% [markdown]
# ## Truth can be read
#
# From the object, the token at which a statement becomes true or false. No probe is tested on a person that it has
# seen. The control to watch is `likely`: an object that many people share is named in more true statements than others,
# so that one can guess the truth of a statement without knowing a single fact.

# %%
probes = {"mass_mean": probing.MassMeanProbe(), "logistic": probing.LogisticProbe(tol=1e-2), "lda": probing.LDAProbe()}
acts = {place: probing.extract(model, prompts.at(place)) for place in ("object", "period")}
swept = {place: probing.sweep(acts[place], prompts.at(place), ["truth"], probes) for place in acts}
worldprobe.accuracy_by_layer(swept["object"].rows, "truth")

# %%
def chosen(rows, control=None, **where):
    """Rows of the real thing, or of a control, that agree with `where`."""
    rows = rows[rows["control"].isna() if control is None else (rows["control"] == control).fillna(False)]
    for column, value in where.items():
        rows = rows[(rows[column] == value).fillna(False)]
    return rows


def accuracy(place, control=None, **where):
    """The highest test accuracy of the probes at a place, or of a control."""
    where |= {"metric": "accuracy", "split": "test", "subset": "all"}
    return float(chosen(swept[place].rows, control, **where)["value"].max())


for place in swept:
    print(f"{place:>6}: {accuracy(place):.3f}, from random weights {accuracy(place, 'random_init'):.3f}, from the "
          f"likelihood of the object {accuracy(place, 'shortcut:likely'):.3f}")

# %% [markdown]
# Is it *truth*, or four things, one for each topic? Fitted on two topics and tested on the two others, the difference
# of means still tells true from false:

# %%
LAYERS = range(model.cfg.n_layers)
true, topic = prompts.labels("truth")[:, 0] == 1, prompts.examples["topic"].isin(["visit", "speak"]).to_numpy()


def means(X, where):
    return np.stack([X[where & (true == side)].mean(0) for side in (False, True)])


for place in acts:
    for layer in LAYERS:
        X = np.asarray(acts[place][Site("resid_post", layer)], np.float64)
        low, high = means(X, topic)
        said = (X - (low + high) / 2) @ (high - low) > 0
        print(f"{place:>6}, after block {layer + 1}: {(said == true)[~topic].mean():.3f} on topics that it never saw")

# %% [markdown]
# ## Where is it decided?
#
# A false statement and its twin, in which the object alone is another one, so that it is true. The state of one token
# after one block is taken from the one run into the other: 1 is the whole effect of the twin.

# %%
pairs = truthfulness.pairs("false_to_true", n=CASES)
places = [c.removeprefix("pos:") for c in pairs.cases if c.startswith("pos:")]
patched = interventions.activation_patching(model, pairs, [Site("resid_post", layer) for layer in LAYERS], places)
shares = chosen(patched, metric="nie").pivot_table(index="layer", columns="positions", values="value")[places]
shares.iloc[::-1].round(2)

# %%
layer, place = shares[["object", "period"]].stack().idxmax()
other = "period" if place == "object" else "object"
SITE = Site("resid_post", int(layer))
print(f"The {place} after block {layer + 1} carries {shares.loc[layer, place]:.2f} of the effect; the {other} there "
      f"{shares.loc[layer, other]:.2f}, although truth can be read at the {other} with an accuracy of "
      f"{accuracy(other):.2f}.")

# %% [markdown]
# ## Is the direction used?
#
# False statements, pushed at that token along what three probes give. One unit is the distance between the class means
# along the direction. `nie` is the share of what the state of an unrelated true statement does when it is put there.

# %%
cases = truthfulness.cases("false_to_true", n=CASES)
run = interventions.Sequences.of(model, cases)
code = {word: i for i, word in enumerate(prompts.vocabulary)}
witness = torch.tensor([[code[word] for word in text.split()] for text in cases.cases["witness"]])
at = torch.as_tensor(cases.cases[f"pos:{place}"].to_numpy(copy=True))
source = interventions.Sequences(model, witness, run.lengths).read([SITE])[SITE][torch.arange(len(cases)), at]
X = np.asarray(acts[place][SITE], np.float64)
low, high = means(X, np.ones(len(X), bool))
effects = {}
for name, (probe, pair) in {"mass-mean": ("mass_mean", "write"), "logistic": ("logistic", "read"),
                            "LDA": ("lda", "read")}.items():
    fitted = swept[place].probes["truth", probe, SITE]
    direction = fitted.direction(pair=pair)
    push = torch.tensor((high - low) @ direction * direction, dtype=torch.float32)[None]
    effects[name] = interventions.effect(
        run, cases, {SITE: push}, alphas=[1, 2, 3], unit="class_mean", probe=name, positions=at, score=None,
        metrics=["mass_after"], outcome="mass_after", arms={"full_patch": {SITE: interventions.patch_from(source)}})
share = chosen(pd.concat(effects.values()), metric="nie", subset="all").pivot_table(
    index="probe", columns="alpha", values="value").loc[list(effects)]
share.round(2)

# %%
worldprobe.dose_curves(effects["mass-mean"], "steer", metric="mass_after")

# %%
scores = {name: accuracy(place, probe=probe, stream=SITE.stream, layer=SITE.layer)
          for name, probe in (("mass-mean", "mass_mean"), ("logistic", "logistic"), ("LDA", "lda"))}
strongest, weakest = share[1.0].idxmax(), share[1.0].idxmin()
print(f"At one unit {strongest} does {share[1.0].max():.2f} of the change and {weakest} {share[1.0].min():.2f}; as "
      f"probes they have accuracies of {scores[strongest]:.2f} and {scores[weakest]:.2f}.")

# %% [markdown]
# ## Not
#
# Another model has also read negated statements: `ada doesn't speak dutch`, which is true wherever `ada does speak
# dutch` is false. What a probe of affirmative statements calls truth may be no more than *this object belongs to this
# person*, which negation turns into its opposite. TTPD reads truth and polarity as two directions.

# %%
other_model = probing.load_model("truthfulness-negation")
mixed = truthfulness.load(n=20 * GAMES, negation=0.5)
table = []
for name in ("object", "period"):
    states = probing.extract(other_model, mixed.at(name), random_init=None)
    for depth in range(other_model.cfg.n_layers):
        X = np.asarray(states[Site("resid_post", depth)], np.float64)
        y, affirmative = mixed.labels("truth")[:, 0], mixed.labels("polarity")[:, 0]
        train, test = ~mixed.rows("test"), mixed.rows("test")
        one_sided = probing.MassMeanProbe().fit(X[train & (affirmative == 1)], y[train & (affirmative == 1)])
        ttpd = probing.TTPDProbe(tol=1e-2).fit(X[train], y[train], polarity=affirmative[train])
        found = {"place": name, "block": depth + 1}
        for kind, here in (("affirmative", test & (affirmative == 1)), ("negated", test & (affirmative == 0))):
            found[f"fitted on affirmative, read from {kind} ones"] = one_sided.score(X[here], y[here])
            found[f"TTPD, read from {kind} ones"] = ttpd.score(X[here], y[here])
        table.append(found)
opposites = pd.DataFrame(table).set_index(["place", "block"]).round(3)
opposites

# %%
lowest = opposites["fitted on affirmative, read from negated ones"]
both = opposites[[c for c in opposites if c.startswith("TTPD")]].min(axis=1)
opposite = ", the opposite of their truth" if lowest.min() < 0.4 else ""
print(f"A probe of affirmative statements reads negated ones with accuracies down to {lowest.min():.2f}{opposite}; "
      f"TTPD reads either kind with {both.max():.2f} at the {both.idxmax()[0]} after block {both.idxmax()[1]}.")

# %% [markdown]
# ## What it says, and what it knows
#
# After false statements the model does not say what it knows: it draws a wrong object most of the time. Thirty objects
# are drawn for every question; a probe of the truth at the object picks one. Beside it, what needs no probe: the
# likeliest of those drawn.

# %%
asked = truthfulness.cases("true_to_false", n=CASES), truthfulness.cases("false_to_true", n=CASES)
probe = swept["object"].probes["truth", "mass_mean", Site("resid_post", 0)]
rows = []
for words, each in zip(("after a true statement", "after a false statement"), asked, strict=True):
    logits = interventions.LastToken.of(model, each).logits().float()
    fact = torch.from_numpy(each.right_before if words.endswith("true statement") else each.right_after)
    drawn = torch.multinomial(logits.softmax(-1), 30, replacement=True, generator=torch.Generator().manual_seed(0))
    right = fact.gather(1, drawn)
    alone = torch.cat([each.tokens[:, :1], each.tokens[:, -3:]], 1)  # the question without what stands before it
    whole = torch.cat([alone.repeat_interleave(30, 0), drawn.reshape(-1, 1)], 1)
    read = interventions.Sequences(model, whole, torch.full((len(whole),), 5)).read([Site("resid_post", 0)])
    sure = torch.from_numpy(probe.decision_function(read[Site("resid_post", 0)][:, -1].numpy())).reshape(drawn.shape)
    pick = {"drawn": right.float().mean(1), "likeliest drawn": right.gather(1, logits.gather(1, drawn).argmax(
        1, keepdim=True)).float(), "picked by the probe": right.gather(1, sure.argmax(1, keepdim=True)).float()}
    rows.append({"": words} | {name: float(x.mean()) for name, x in pick.items()})
said = pd.DataFrame(rows).set_index("")
said.round(3)

# %% [markdown]
# ## What may be said

# %%
after = said.loc["after a false statement"]
pushed, band = (chosen(effects["mass-mean"], control, metric="mass_after", alpha=1).iloc[0]
                for control in (None, "random_direction"))
used = pushed["ci_low"] > band["ci_high"]
print(f"- Truth is {'used' if used else 'not shown to be used'}: one class-mean distance lifts the right object to "
      f"{pushed['value']:.2f}, random directions of equal norm to {band['value']:.2f}.")
print(f"- It is used at one place, the {place} after block {layer + 1}; it can be read at more.")
drawn, likeliest, picked = after["drawn"], after["likeliest drawn"], after["picked by the probe"]
print(f"- After a false statement the model says the right object {drawn:.2f} of the time, and a probe finds it "
      f"{picked:.2f} of the time. The likeliest of those drawn is right {likeliest:.2f} of the time: what it holds "
      f"back {'needs no probe to be seen.' if likeliest >= picked - 0.02 else 'is seen better by the probe.'}")
