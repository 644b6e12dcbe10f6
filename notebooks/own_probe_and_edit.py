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
# # Add a probe, add an edit
#
# A probe here is any scikit-learn estimator. An edit is any function of activations. This notebook adds one of each,
# lets them stand beside those that ship, and holds them to the same controls. In the model the truth is known: it
# was planted that `end` decides the answer and `mark` decides nothing, though both can be read.

# %%
import os

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

import interventions
import probing
import tasks
import worldprobe
from tasks import decoy

CASES = int(os.environ.get("WORLDPROBE_NOTEBOOK_CASES", 400))
model = probing.load_model("decoy")
prompts = tasks.load("decoy", n=4 * CASES)
acts = probing.extract(model, prompts)

# %% [markdown]
# ## A probe
#
# Nearest neighbours come from scikit-learn as they are. Our own reads along the difference of *medians*, which one
# wild activation cannot move: `fit` checks nothing that scikit-learn does not, what was learned ends in an underscore.


# %%
class MedianProbe(ClassifierMixin, BaseEstimator):
    """Classify by the nearer class median along theta = median_1 - median_0."""

    def fit(self, X, y):
        self.classes_, side = np.unique(y, return_inverse=True)
        low, high = (np.median(X[side.ravel() == k], axis=0) for k in (0, 1))
        self.theta_, self.middle_ = high - low, (low + high) / 2
        return self

    def predict(self, X):
        return self.classes_[((X - self.middle_) @ self.theta_ > 0).astype(int)]


probes = {"mass_mean": probing.MassMeanProbe(), "median": MedianProbe(), "neighbours": KNeighborsClassifier(5)}
sweep = probing.sweep(acts, prompts, labels=["end"], probes=probes, sites=[s for s in acts if s.stream == "resid_post"])
sweep

# %% [markdown]
# They went through the same splits, the same shuffled labels, the same random weights. None is *above* its strongest
# control, and that is right: the question stands in the prompt, and the mass-mean probe reads it from the input alone.
# The medians of rare words are all zero, so our own probe finds less there; a control that is weak because the probe
# is weak must not make it look good. What any probe of the label finds in the input therefore counts against all.
# What is left to ask is whether the model uses what they read.
#
# ## A direction of your own
#
# A probe that ships has a pair, `read` and `write`. Any other direction becomes a subspace, and the call that writes
# along a probe writes along it, with all its controls.

# %%
site, median = sweep.best("end", "median")
space = probing.Subspace.spanned_by(torch.from_numpy(median.theta_)[None])
along = interventions.steer_along(model, prompts, space, site=site, label="end", probe="median", alphas=[0.5, 1, 2],
                                  n_cases=CASES)
columns = ["probe", "alpha", "value", "ci_low", "ci_high", "null", "random_low", "random_high", "beyond", "kl"]
interventions.summary(along)[columns].round(3)

# %% [markdown]
# The value is the error: wrong and missing answers against the *new* right answer, 2 for a model that goes on answering
# the old question (`null`). The direction of medians brings it down, beyond the band of random directions.
#
# ## An edit of your own
#
# An edit takes activations `x` (batch, d_model) and `rows`, the numbers of the cases that they belong to, and returns
# the changed ones. This one does not add a fixed push: it squeezes the state toward the mean of the class to be
# written, every dimension of it, by the share `alpha`. At 1 nothing but the class is left.

# %%
SITE = probing.Site("resid_post", decoy.PLANTED_LAYER)
X = acts[SITE].numpy()


def squeeze(label):
    """(site, alpha) -> edit, and the cases it is for."""
    cases, codes = decoy.cases(label, CASES), prompts.labels(label)[:, 0]
    means = torch.from_numpy(np.stack([X[codes == k].mean(0) for k in (0, 1)]))
    goal = means[cases.cases["becomes"].tolist()]
    return cases, lambda site, alpha: lambda x, rows: x + alpha * (goal[rows] - x)


effects = {}
for label in ("end", "mark"):
    cases, edit = squeeze(label)
    effects[label] = interventions.effect(model, cases, edit=edit, sites=[SITE], alphas=[0.25, 0.5, 0.75, 1],
                                          unit="absolute", intervention="squeeze", probe="class_mean",
                                          metrics=["flip_rate"])
interventions.summary(effects["end"])[columns].round(3)

# %% [markdown]
# `effect` measured how far the edit moved every activation and turned exactly these changes by random rotations,
# twenty times: that is the band. An edit of your own needs no control of its own.

# %%
worldprobe.plot(effects["end"])

# %% [markdown]
# And the label that decides nothing? Its right answer stays what it was, so an edit that changes answers has broken
# something else. The share of changed answers, with the band:

# %%
interventions.summary(effects["mark"], "flip_rate")[columns].round(3)

# %% [markdown]
# ## What the table says of the new pieces
#
# The direction of medians reads and writes `end` as that of means does: here was nothing to be robust against. The
# squeeze writes `end` too, and never as well as a push at dose 1: a state with little but its class left has lost the
# rest of the prompt, the letters that the answer is taken from. On `mark` it changes answers as random changes of that
# size do: that is damage, not a handle. A new edit is worth having when it does more *at equal side effect*, which is
# how `worldprobe intervene` compares them ([interventions](../docs/interventions.md)).
