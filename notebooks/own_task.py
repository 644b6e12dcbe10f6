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
# # Your own task in 40 lines
#
# A task is texts with labels. This notebook makes one from a table, asks the two questions of worldprobe about it, and
# comes to two different answers: can the label be *read* from the states of the model, and does the model *use* it?
#
# The model is a small shipped one, so that everything runs in seconds: it is given some letters and asks itself
# `first!`, `first.`, `last!` or `last.`; the answer is the first or the last letter. Put the path of your own model
# (any Hugging Face directory) and your own table in their place.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import interventions
import probing
import tasks
import worldprobe

CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 400))
model = probing.load_model("decoy")  # or "./my-model"

# %% [markdown]
# ## The table
#
# One row, one text. We label what we are curious about: which end is asked for (`end`); how many letters there are
# (`many`); and whether the first letter comes before the last in the alphabet (`sorted`), which nothing in the
# training of this model ever asked for.

# %%
rng, rows = np.random.default_rng(0), []
for _ in range(4 * CASES):
    letters = list(rng.choice(list("abcdefghijklmnop"), size=rng.integers(3, 7), replace=False))
    end, mark = rng.choice(["first", "last"]), rng.choice([".", "!"])
    rows.append({"text": f"{' '.join(letters)} {end}{mark} =", "end": end, "letters": " ".join(letters),
                 "many": float(len(letters)), "sorted": letters[0] < letters[-1]})
table = pd.DataFrame(rows)
folder = Path(tempfile.mkdtemp())
table.to_csv(folder / "mine.csv", index=False)
table.head(3)

# %% [markdown]
# `from_table` takes a data frame or a CSV file. Words and truth values are classes, decimal numbers are numbers.
# Rows with the same letters are one group, so that no string of letters is both fitted on and tested.

# %%
prompts = tasks.from_table(folder / "mine.csv", model.tokenizer, labels=["end", "sorted", "many"], group="letters",
                           name="ends")
prompts

# %% [markdown]
# ## Can it be read?

# %%
acts = probing.extract(model, prompts)
sweep = probing.sweep(acts, prompts, probes={"mass_mean": probing.MassMeanProbe(), "ridge": probing.RidgeProbe()})
sweep

# %% [markdown]
# Three labels, and the column *above it?* says what two of the scores hide. `end` is read without a mistake, and the
# bare input gives it away just as well: the question is a word of the prompt. `many` has an r2 near 1, and where the
# last token stands tells it exactly. `sorted` is not read at all. The high scores are news about the prompts, not about
# the model: no accuracy without its control.

# %%
sweep.plot("sorted")

# %% [markdown]
# ## Is it used?
#
# One call writes a label into the model at the place where it is read, along the direction that the probe writes
# along, and counts how often the answer changes. It brings its own controls: twenty random directions of the same
# length (the band), no edit, the sign flipped, other layers, shuffled labels, random weights.

# %%
found = {}
for label in ("end", "sorted"):
    probe = probing.best(sweep, label, "mass_mean")
    found[label] = interventions.effect(model, prompts, probe.write, alphas=[0.5, 1, 2])
columns = ["label", "site", "alpha", "value", "ci_low", "ci_high", "random_low", "random_high", "beyond", "kl"]
pd.concat(map(interventions.summary, found.values()))[columns].round(3)

# %%
worldprobe.plot(found["end"])

# %% [markdown]
# At dose 1 the mean of the one class is moved onto that of the other. Writing `end` changes the answers beyond the band
# of random directions of its length; the direction of `sorted` does no more than they do. The column `beyond` is that
# comparison. So the label that was no news as a reading is one that the model goes by, and the other is not.
#
# Here only *whether* the answer changes was counted, since the table does not say which answers are right. Where a
# label of two classes has right answers, `steer_along(..., answers=([ids of class 0], [ids of class 1]))` scores them.
#
# ## A page to share

# %%
report = sweep.report(*found.values(), out=folder / "ends.html")
print(f"{report.name}: {report.stat().st_size / 1e6:.1f} MB, verdicts and every figure with its data")
