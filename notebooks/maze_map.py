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
# # When does a map form in one token?
#
# Ivanitskiy et al. (arXiv:2312.02566) read the whole maze from a single token, `<PATH_START>`, of a transformer with
# 9.6 M parameters: .947 of the walls, border included, which is about .936 of the edges inside. Another of their
# models, of the size of ours, had no clear map. Solving mazes is thus not enough. What is?
#
# We train the recipe of our reference model again and again, each time with one thing changed, and read every model in
# the same way. The trainings take hours on a CPU, so that their table is kept in the repository
# (`python -m benchmarks.maze_map --out runs/map` makes it anew). This notebook reads it, and measures the shipped model
# again.
#
# A map has to beat the *degrees*: each cell is named in the list once per passage it has, so that an average over the
# list, with no knowledge of which cells are joined, tells the number of passages of every cell, and from these numbers
# four edges in five are told rightly.

# %%
import os
import sys
from pathlib import Path

import probing
import tasks

ROOT = Path(tasks.__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is in the repository, not in the installed package

from benchmarks import maze_map

N = int(os.environ.get("WORLDPROBE_NOTEBOOK_GAMES", 1000))

table = maze_map.read_table(ROOT / "benchmarks" / "maze_map.csv")
maze_map.summary(table, "path_start").round(3)

# %% [markdown]
# `flags` are those of `python -m tasks.maze.train`; `exact` is the share of held-out mazes, of the kind the model was
# trained on, that it walks without a mistake. Then `<PATH_START>`: the layer that is best on validation (-1 is the
# embedding), the accuracy of a logistic probe there on the edges of other mazes, what needs no map, the best layer of
# the same model with `random` weights, and how much the probe has `over` the degrees, on the same mazes. From
# `<ADJLIST_END>`, before the ends of the path are known:

# %%
maze_map.summary(table, "adjlist_end").round(3)

# %%
maze_map.figure(table)

# %% [markdown]
# Green: a map has formed, above the degrees and above random weights. Hollow: random weights. Bars are 95 % intervals
# over mazes. Where the list is in canonical order, the place of a passage in it nearly tells which passage it is, and
# random weights show the whole maze: what is read there was not put together by training. What the table says:

# %%
for at, token in maze_map.PLACES.items():
    rows = maze_map.summary(table, at)
    over, low, high = (rows[c].astype(float) for c in ("over", "over_low", "over_high"))
    formed, above, best = rows.index[rows["formed"]].tolist(), rows.index[low > 0].tolist(), over.idxmax()
    print(f"{token}: a map has formed in {len(formed)} of {len(rows)} variants ({', '.join(formed) or 'none'}). Above "
          f"the degrees alone: {', '.join(above) or 'none'}. The best is {best}, {over[best]:+.3f} [{low[best]:+.3f}, "
          f"{high[best]:+.3f}] over the degrees: accuracy {rows['accuracy'][best]:.3f}, with random weights "
          f"{rows['random'][best]:.3f}.")
    if len(rows) > 4:
        print(f"  Rank correlation with exact paths, over the variants: "
              f"{over.corr(rows['exact'].astype(float), method='spearman'):+.2f}.")
    for name in rows.index.drop("base"):
        more, less = low[name] > high["base"], low["base"] > high[name]
        print(f"  {name:>10} {over[name] - over['base']:+.3f}: "
              + ("better than base" if more else "worse than base" if less else "not told apart from base"))

# %% [markdown]
# Better and worse ask for intervals that do not touch, which is strict. And by layers, from the end of the list (-1,
# the embedding, is the same token in every prompt, so that it has the majority):

# %%
own = table[(table["positions"] == "adjlist_end") & (table["metric"] == "accuracy") & table["control"].isna()]
own = own.assign(layer=own["layer"].where(own["stream"] != "resid_pre", -1).astype(int))
curves = own.pivot_table(index="layer", columns="variant", values="value", sort=False).sort_index()
curves.round(3)

# %% [markdown]
# ## The shipped model, measured again
#
# From fewer mazes than in the table, so that the probe learns less and the intervals are wider.

# %%
model = probing.load_model("maze")
again = maze_map.read(model, "random", N, seed=1)
again = again[again["metric"] == maze_map.OVER_DEGREE].set_index("positions")
again[["layer", "value", "ci_low", "ci_high", "n"]].round(3)

# %% [markdown]
# What a map is good for, where there is one, is another question: `notebooks/maze.py`.
