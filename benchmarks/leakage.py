"""Does anything leak between the splits of a sweep? Three experiments, each with its count of failures.

    python -m benchmarks.leakage
    python -m benchmarks.leakage --configurations 100 --seeds 20

1. Random configurations of groups, prompts and lengths over a tiny vocabulary, so that prompts and prefixes repeat all
   the time: the rows that a sweep fits on, and those it scores, share no group, no prompt and no state.
2. A copy of the labels is planted in the test rows, in a column that was constant until then and over columns of
   noise: the fitted probes and what is chosen stay as they were, and the score does not rise.
3. A probe on shuffled labels scores inside the 99 % band of guessing, at a layer where the real label is plain to see.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin

from probing import LogisticProbe, Site, sweep
from probing._sweep import select
from tasks import LabelledPrompts, split_by_group

LAYERS = tuple(Site("resid_post", i) for i in range(3))


class Recorder(ClassifierMixin, BaseEstimator):
    """Predicts the first class, and notes the first column of all it is fitted on and asked about."""

    def __init__(self, notes=None):
        self.notes = notes

    def __sklearn_clone__(self):
        return self

    def fit(self, X, y):
        self.notes.append(("fitted", set(X[:, 0].astype(int).tolist())))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        self.notes.append(("scored", set(X[:, 0].astype(int).tolist())))
        return np.zeros(len(X), int)


class InMemory(dict):
    """Site -> activations, with the identity that a sweep asks for."""

    random_init = None

    def __init__(self, acts: Mapping, causal: bool | None):
        super().__init__(acts)
        self.identity = {"model": {"causal": causal}, "prompts": {"tokens": "made by hand"}}


def random_configuration(seed: int) -> tuple[LabelledPrompts, bool]:
    """Prompts of a few tokens in groups of random size, and whether the model is causal."""
    rng = np.random.default_rng(seed)
    n_groups, vocabulary, width = int(rng.integers(4, 25)), int(rng.integers(2, 5)), int(rng.integers(1, 7))
    group_of = np.repeat(np.arange(n_groups), rng.integers(1, 4, n_groups))
    n = len(group_of)
    lengths, tokens = rng.integers(1, width + 1, n), rng.integers(1, 1 + vocabulary, (n, width))
    tokens[np.arange(width) >= lengths[:, None]] = 0
    prompt = np.repeat(np.arange(n), lengths)
    pos = np.concatenate([np.arange(k) for k in lengths])
    keep = rng.random(len(pos)) < 0.8
    keep[np.unique(prompt, return_index=True)[1]] = True
    names = np.array([f"g{i}" for i in rng.permutation(n_groups)]) if rng.random() < 0.5 else rng.permutation(n_groups)
    examples = pd.DataFrame({"prompt": prompt, "pos": pos, "group": names[group_of[prompt]],
                             "z/0": rng.integers(0, 2, len(pos))})[keep].reset_index(drop=True)
    examples["split"] = split_by_group(examples["group"].to_numpy(), int(rng.integers(100)), *rng.uniform(0.1, 0.4, 2))
    prompts = LabelledPrompts("random", torch.from_numpy(tokens), torch.from_numpy(lengths), examples,
                              {"z": ("no", "yes")})
    return prompts, bool(rng.random() < 0.7)


def shared(prompts: LabelledPrompts, causal: bool) -> list[str] | None:
    """What the fitted and the scored rows of a sweep have in common (nothing, it is hoped); None if it refused."""
    notes: list[tuple[str, set[int]]] = []
    ids = torch.arange(len(prompts), dtype=torch.float32)[:, None]
    try:
        sweep(InMemory({LAYERS[0]: ids}, causal), prompts, ["z"], {"recorder": Recorder(notes)}, controls=(), workers=1)
    except ValueError as error:  # nothing is left to fit or to score
        if "is empty" not in str(error) and "in every training row" not in str(error):
            raise
        return None
    rows = prompts.examples
    said = {"group": rows["group"].tolist(), "prompt": [_text(prompts, i, whole=True) for i in range(len(rows))],
            "state": [(_text(prompts, i, whole=not causal), rows["pos"][i]) for i in range(len(rows))]}
    (fitted,), scored = ([ids for what, ids in notes if what == w] for w in ("fitted", "scored"))
    scored_ids = set().union(*scored)
    sides = {"fitted": fitted, **{s: {i for i in scored_ids if rows["split"][i] == s} for s in ("validation", "test")}}
    return [f"{what} in {a} and {b}" for what, values in said.items() for a in sides for b in sides if a < b
            and {values[i] for i in sides[a]} & {values[i] for i in sides[b]}]


def _text(prompts: LabelledPrompts, example: int, whole: bool) -> tuple[int, ...]:
    prompt, pos = prompts.examples["prompt"][example], prompts.examples["pos"][example]
    return tuple(prompts.tokens[prompt, : int(prompts.lengths[prompt]) if whole else pos + 1].tolist())


def world(seed: int, n_groups: int = 60, size: int = 10, d: int = 16) -> tuple[InMemory, LabelledPrompts]:
    """Three layers that show two labels ever more plainly; column 0 holds nothing but zeros."""
    rng = np.random.default_rng(seed)
    z, group = rng.integers(0, 2, (n_groups * size, 2)), np.repeat(np.arange(n_groups), size)
    examples = pd.DataFrame({"prompt": group, "pos": np.tile(np.arange(size), n_groups), "group": group,
                             "split": split_by_group(group, seed), "z/0": z[:, 0], "z/1": z[:, 1]})
    acts = {}
    for i, site in enumerate(LAYERS):
        x = rng.normal(size=(len(z), d)).astype(np.float32)
        x[:, 0], x[:, 1:3] = 0, x[:, 1:3] + i * z
        acts[site] = torch.from_numpy(x)
    prompts = LabelledPrompts("world", torch.zeros(n_groups, size, dtype=torch.long), torch.full((n_groups,), size),
                              examples, {"z": ("no", "yes")})
    return InMemory(acts, None), prompts


def planted(acts: InMemory, prompts: LabelledPrompts, columns: slice) -> InMemory:
    """The same with four times the first label (as -1, 1) added in `columns` of the test rows of every layer."""
    test, sign = prompts.rows("test"), 8.0 * prompts.labels("z")[:, :1] - 4
    out = InMemory({site: x.clone() for site, x in acts.items()}, None)
    for x in out.values():
        x[torch.tensor(test), columns] += torch.tensor(sign[test], dtype=torch.float32)
    return out


def planting(seed: int, columns: slice) -> tuple[bool, float]:
    """(whether layer, penalty, probe and validation scores stay bit for bit, how much the chosen test score rises)."""
    acts, prompts = world(seed)
    probes = {"logistic": [LogisticProbe(C=c) for c in (0.01, 1.0)]}
    found = []
    for each in (acts, planted(acts, prompts, columns)):
        result = sweep(each, prompts, ["z"], probes, controls=(), workers=1)
        site, probe = result.best("z")
        rows = select(result.rows, probe="logistic", metric="accuracy", subset="all")
        test = select(rows, split="test", layer=site.layer)["value"].item()
        found.append((site, probe.C, probe.coef_.tobytes(), select(rows, split="validation")["value"].tolist(), test))
    return found[0][:4] == found[1][:4], found[1][4] - found[0][4]


def inside_band(seed: int, level: float = 0.99) -> bool:
    """Whether the probe on shuffled labels scores within the band of a fair coin."""
    acts, prompts = world(seed)
    rows = sweep(InMemory({LAYERS[2]: acts[LAYERS[2]]}, None), prompts, ["z"], {"logistic": LogisticProbe()},
                 controls=("shuffled_labels",), shuffles=1, seed=seed, workers=1).rows
    row = select(rows, control="shuffled_labels", metric="accuracy", split="test", subset="all").iloc[0]
    low, high = binom.interval(level, row["n"], 0.5)
    return bool(low <= row["value"] * row["n"] <= high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configurations", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=200)
    args = parser.parse_args()
    found = [shared(*random_configuration(seed)) for seed in range(args.configurations)]
    swept = [f for f in found if f is not None]
    print(f"{len(found)} configurations, {len(found) - len(swept)} refused (a split without rows, one class in train): "
          f"{sum(map(bool, swept))} share a group, a prompt or a state between splits", flush=True)
    for what, columns in (("in a column that was constant", slice(0, 1)), ("over noise", slice(3, 16))):
        plants = [planting(seed, columns) for seed in range(args.seeds // 4)]
        rises = np.array([rise for _, rise in plants])
        print(f"labels planted {what}, {len(plants)} seeds: choice and fit unchanged in "
              f"{sum(same for same, _ in plants)}; chosen test score changes by {rises.mean():+.4f} +- "
              f"{rises.std() / len(rises) ** 0.5:.4f}", flush=True)
    inside = [inside_band(seed) for seed in range(args.seeds)]
    print(f"shuffled labels inside the 99 % band in {sum(inside)} of {len(inside)} seeds ({np.mean(inside):.1%})")


if __name__ == "__main__":
    main()
