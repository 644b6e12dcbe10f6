"""Space and time neurons: single MLP neurons that follow a coordinate, and what becomes of answers without them.

The correlation of a neuron is that of its pre-activation at the last token of a name with a coordinate, by ranks
(Spearman). Some of thousands of neurons correlate with anything, so the neurons are found on one half of the entities
and reported on the other, beside neurons found in the same way for shuffled coordinates.

Source: Gurnee & Tegmark, arXiv:2310.02207, who take the product of input weights and normalised stream (the
pre-activation without its bias), all entities at once, and the 50 highest.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import rankdata
from torch import Tensor

from .._prompts import LabelledPrompts
from ._behaviour import behaviour
from ._cases import POSITIONS

N_TOP = 10
N_NULL = 20  # draws of shuffled coordinates and of random neurons
CLAMPED = 32  # neurons
_NAMES = (POSITIONS["entity"], POSITIONS["answer"])  # last tokens of both names


@torch.inference_mode()
def preactivations(model, prompts: LabelledPrompts, batch_size: int = 256) -> Float[ndarray, "layer example neuron"]:
    """Of every MLP neuron, before its non-linearity, at the probed tokens; `model` is a TransformerBridge. Prompts of
    one length run together: an encoder would see their padding."""
    prompt, pos = (prompts.examples[c].to_numpy(copy=True) for c in ("prompt", "pos"))
    length, n_layers = prompts.lengths.numpy()[prompt], model.cfg.n_layers
    found: list[ndarray | None] = [None] * n_layers
    for n in np.unique(length):
        here = np.flatnonzero(length == n)
        for rows in np.split(here, range(batch_size, len(here), batch_size)):
            at = torch.arange(len(rows)), torch.from_numpy(pos[rows])

            def keep(layer: int, x: Tensor, rows=rows, at=at):
                if (known := found[layer]) is None:
                    found[layer] = known = np.empty((len(prompt), x.shape[-1]), np.float32)
                known[rows] = x[at].float().cpu().numpy()

            hooks = [(f"blocks.{i}.mlp.hook_pre", lambda x, hook, i=i, keep=keep: keep(i, x)) for i in range(n_layers)]
            model.run_with_hooks(prompts.tokens[torch.from_numpy(prompt[rows]), :n], fwd_hooks=hooks)
    if any(layer is None for layer in found):
        raise ValueError("the model has no MLP whose neurons could be read (blocks.*.mlp.hook_pre)")
    return np.stack([layer for layer in found if layer is not None])


def spearman(X: Float[ndarray, "example feature"], Y: Float[ndarray, "example target"]
             ) -> Float[ndarray, "feature target"]:
    """Rank correlation of every feature with every target; 0 where one of them is constant."""
    A, B = (rankdata(z, axis=0) for z in (X, Y))
    A, B = A - A.mean(0), B - B.mean(0)
    norm = np.outer(np.sqrt((A**2).sum(0)), np.sqrt((B**2).sum(0)))
    return np.divide(A.T @ B, norm, out=np.zeros_like(norm), where=norm > 1e-9)


def neuron_correlations(acts: Float[ndarray, "layer example neuron"], Y: Float[ndarray, "example target"],
                        targets: Sequence[str], first: Bool[ndarray, " example"]) -> pd.DataFrame:
    """One row per target, layer and neuron: `found`, the correlation among the `first` examples, and `value`, that
    among the others, turned so that `found` is positive; the highest `found` of each target come first."""
    found, value = (np.concatenate([spearman(layer[rows], Y[rows]) for layer in acts]) for rows in (first, ~first))
    layer, neuron = np.divmod(np.arange(len(found)), acts.shape[2])
    parts = [pd.DataFrame({"target": target, "layer": layer, "neuron": neuron, "found": np.abs(found[:, k]),
                           "value": value[:, k] * np.where(found[:, k] < 0, -1, 1)})
             for k, target in enumerate(targets)]
    return pd.concat([p.sort_values("found", ascending=False, kind="stable") for p in parts], ignore_index=True)


def correlation_rows(model, seed: int, prompts: Sequence[LabelledPrompts]) -> pd.DataFrame:
    """Result rows: `neuron_spearman`, the neuron of each coordinate that correlated most on one half of the entities,
    as it does on the other (95 % bootstrap over those); `neuron_spearman_shuffled`, the same for shuffled coordinates
    (mean and 5th to 95th percentile of the draws); and `top_neuron_spearman`, the first ten of each."""
    rows = []
    for one in prompts:
        scheme, rng = one.schemes[0], np.random.default_rng(seed)
        acts, Y, targets = preactivations(model, one), one.labels(scheme).astype(float), one.targets(scheme)
        first = rng.permutation(len(Y)) < len(Y) // 2
        true = neuron_correlations(acts, Y, targets, first)
        shuffled = neuron_correlations(acts, np.concatenate([rng.permutation(Y) for _ in range(N_NULL)], 1),
                                       [f"{target}, {draw}" for draw in range(N_NULL) for target in targets], first)
        drawn = shuffled.groupby("target")["value"].first()
        for k, target in enumerate(targets):
            top = true[true["target"] == target].head(N_TOP)
            for rank, neuron in enumerate(top.itertuples()):
                low, high = _interval(acts[neuron.layer][~first, neuron.neuron], Y[~first, k], neuron.value, rng)
                own = {"value": neuron.value, "ci_low": low, "ci_high": high, "n": int((~first).sum())}
                rows.append(own | {"metric": "top_neuron_spearman", "layer": int(neuron.layer),
                                   "subset": f"{target}, neuron {neuron.neuron}"})
                if rank == 0:
                    rows.append(own | {"metric": "neuron_spearman", "subset": target})
            null = np.array([drawn[f"{target}, {draw}"] for draw in range(N_NULL)])
            rows.append({"metric": "neuron_spearman_shuffled", "subset": target,
                         "value": null.mean(), "ci_low": np.quantile(null, 0.05), "ci_high": np.quantile(null, 0.95),
                         "n": N_NULL})
    return pd.DataFrame(rows)


def clamping_rows(model, seed: int, prompts: Sequence[LabelledPrompts], layer: int = 0) -> pd.DataFrame:
    """Result rows `clamped_within_one`: the share of answers within one bin, by relation, once the neurons of a layer
    that correlate most with a coordinate are held at their mean at the last tokens of both names; control
    `random_neurons`: as many others of the layer (mean and 5th to 95th percentile of the draws), `null`: none.
    """
    rng, rows = np.random.default_rng(seed), []
    asked = {None: _answers(model, seed)}
    for one in prompts:
        scheme = one.schemes[0]
        acts = preactivations(model, one)[layer:]
        strength = np.abs(spearman(acts[0], one.labels(scheme).astype(float))).max(1)
        top, rest = np.split(np.argsort(-strength, kind="stable"), [CLAMPED])
        others = [_answers(model, seed, layer, rng.permutation(rest)[:CLAMPED]) for _ in range(N_NULL)]
        own = _answers(model, seed, layer, top)
        for relation in asked[None]:
            common = {"metric": "clamped_within_one", "layer": layer,
                      "subset": f"{relation}, {CLAMPED} {scheme} neurons clamped"}
            draws = np.array([o[relation][0] for o in others])
            rows.append(common | dict(zip(("value", "ci_low", "ci_high", "n"), own[relation], strict=True)))
            rows.append(common | {"control": "random_neurons", "value": draws.mean(), "n": N_NULL,
                                  "ci_low": np.quantile(draws, 0.05), "ci_high": np.quantile(draws, 0.95)})
            rows.append(common | {"control": "null"} | dict(zip(("value", "ci_low", "ci_high", "n"),
                                                                asked[None][relation], strict=True)))
    return pd.DataFrame(rows)


def _answers(model, seed: int, layer: int | None = None, neurons: Int[ndarray, " neuron"] | None = None,
             n: int = 200) -> dict[str, tuple[float, float, float, int]]:
    """Relation -> share within one bin with its interval, and how many answers there are."""
    def clamp(x: Tensor, hook=None) -> Tensor:
        at = (slice(None), torch.tensor(_NAMES)[:, None], torch.tensor(neurons)[None])
        x[at] = x[at].mean(0, keepdim=True)
        return x

    def edited(tokens: Tensor) -> Tensor:
        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", clamp)])

    found = behaviour(model if layer is None else edited, n, seed, batch_size=n)
    out = {}
    for relation, rows in found.groupby("relation", sort=False):
        right = rows["within_one"].to_numpy(float)
        again = np.random.default_rng(seed).choice(right, (1000, len(right))).mean(1)
        low, high = np.quantile(again, [0.025, 0.975])
        out[str(relation)] = (float(right.mean()), float(low), float(high), len(right))
    return out


def _interval(x: Float[ndarray, " entity"], y: Float[ndarray, " entity"], value: float, rng: np.random.Generator
              ) -> tuple[float, float]:
    """95 % bootstrap over entities, with the sign of `value`."""
    rows = rng.integers(0, len(x), (500, len(x)))
    A, B = rankdata(x[rows], axis=1), rankdata(y[rows], axis=1)
    A, B = A - A.mean(1, keepdims=True), B - B.mean(1, keepdims=True)
    again = (A * B).sum(1) / np.sqrt((A**2).sum(1) * (B**2).sum(1)).clip(1e-9)
    low, high = np.quantile(again if np.sign(again.mean()) == np.sign(value) else -again, [0.025, 0.975])
    return float(min(low, value)), float(max(high, value))
