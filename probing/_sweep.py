"""Every probe at every site with its controls, as rows of the results table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from torch import Tensor

from tasks import LabelledPrompts

from ._logistic import LogisticProbe
from ._mlp import MLPProbe
from ._results import results_frame
from ._sites import Site
from ._statistics import group_sums, ratio_interval

Codes = Int[ndarray, "example target"]


def default_probes() -> dict[str, BaseEstimator]:
    """Linear with a bias, linear without (the published Othello probe), and a one-hidden-layer MLP.

    The linear ones stop at a relative gradient norm of 1e-2: on board labels five times faster than the estimator's
    own 1e-3, and within 0.001 of its accuracy. Pass your own for the optimum itself.
    """
    return {"logistic": LogisticProbe(tol=1e-2), "logistic_no_bias": LogisticProbe(bias=False, tol=1e-2),
            "mlp": MLPProbe(lr=0.01)}


@dataclass(frozen=True)
class Sweep:
    """What `sweep` returns: the rows, and the fitted probes they came from.

    Attributes:
        rows: Results table; a row whose `control` is missing is a probe, the others are its controls.
        probes: (label, probe name, site) -> fitted estimator.
    """

    rows: pd.DataFrame
    probes: Mapping[tuple[str, str, Site], BaseEstimator] = field(default_factory=dict, repr=False)

    def best(self, label: str, probe: str = "logistic", metric: str = "accuracy") -> tuple[Site, BaseEstimator]:
        """The site where `probe` reads `label` best, chosen on validation, and the probe fitted there."""
        rows = select(self.rows, label=label, probe=probe, metric=metric, split="validation", subset="all")
        if rows.empty:
            raise KeyError(f"no validation rows for label {label!r}, probe {probe!r}, metric {metric!r}; the table has "
                           f"{sorted(set(zip(self.rows['label'], self.rows['probe'].dropna(), strict=False)))}")
        top = rows.loc[rows["value"].idxmax()]
        site = Site(top["stream"], int(top["layer"]))
        return site, self.probes[label, probe, site]

    def _repr_html_(self) -> str:
        return select(self.rows, split="test", subset="all")._repr_html_()


def select(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows whose columns equal the given values; `control` is missing (the real thing) unless it is given."""
    where.setdefault("control", None)
    keep = np.ones(len(table), bool)
    for column, value in where.items():
        keep &= (table[column].isna() if value is None else (table[column] == value).fillna(False)).to_numpy(bool)
    return table[keep]


def best(sweep: Sweep, label: str | None = None, probe: str = "logistic") -> BaseEstimator:
    """The fitted probe of the site chosen on validation (of the first label, unless one is named)."""
    return sweep.best(label or str(sweep.rows["label"].iloc[0]), probe)[1]


def readable_labels(prompts: LabelledPrompts) -> list[str]:
    """Schemes of `prompts` that are labels to probe, not shortcut predictions of one."""
    predictions = {s for names in prompts.shortcuts.values() for s in names}
    return [s for s in prompts.schemes if s in prompts.classes and s not in predictions]


def sweep(
    acts: Mapping[Site, Tensor],
    prompts: LabelledPrompts,
    labels: Sequence[str] | None = None,
    probes: Mapping[str, BaseEstimator] | None = None,
    *,
    sites: Sequence[Site] | None = None,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Sweep:
    """Fit every probe for every label at every site, on train, and score it with its controls on validation and test.

    Controls, in the same table: majority class per target, and per target and position; the task's shortcuts;
    the same probe fitted on shuffled labels (whole rows permuted among the training examples); the same probe on a
    randomly initialised model of the same architecture, where `acts` has one.

    Args:
        acts: Activations of `prompts`, as `extract` returns them (rows in the order of `prompts.examples`).
        labels: Label schemes; by default all that are not shortcut predictions.
        probes: Name -> unfitted estimator with `fit(X, Y)` and `predict(X)` for many targets.
        sites: By default all of `acts`.
    """
    labels, probes = list(labels or readable_labels(prompts)), dict(probes or default_probes())
    identity = _identity(acts)
    rows = [row for label in labels for row in baseline_rows(prompts, label, seed=seed)]
    fitted: dict = {}
    for site in sites or list(acts):
        site_rows, site_probes = probe_site(acts, prompts, site, labels, probes, seed=seed, log=log)
        rows += site_rows
        fitted |= site_probes
    return Sweep(results_frame([{**identity, "task": prompts.task, **row} for row in rows]), fitted)


def _identity(acts) -> dict:
    who = getattr(acts, "model_identity", None)
    data = getattr(acts, "identity", {}).get("prompts", {}).get("tokens")
    return {} if who is None else {
        "model": who.name, "revision": who.revision, "model_hash": who.digest, "data_hash": data}


def probe_site(
    acts: Mapping[Site, Tensor],
    prompts: LabelledPrompts,
    site: Site,
    labels: Sequence[str],
    probes: Mapping[str, BaseEstimator],
    *,
    seed: int = 0,
    controls: Sequence[str] = ("shuffled_labels", "random_init"),
    log: Callable[[str], None] | None = None,
) -> tuple[list[dict], dict]:
    """Rows and fitted probes of one site (see `sweep`)."""
    train = prompts.rows("train")
    held = ~train
    X = np.asarray(acts[site])
    random = getattr(acts, "random_init", None) if "random_init" in controls else None
    X_random = None if random is None else np.asarray(random[site])
    shuffle = np.random.default_rng(seed).permutation(int(train.sum()))
    rows, fitted = [], {}
    for label in labels:
        Y = prompts.labels(label)
        for name, estimator in probes.items():
            arms: list[tuple[str | None, ndarray, ndarray]] = [(None, X, Y[train])]
            if "shuffled_labels" in controls:
                arms.append(("shuffled_labels", X, Y[train][shuffle]))
            if X_random is not None:
                arms.append(("random_init", X_random, Y[train]))
            for control, inputs, answers in arms:
                probe = clone(estimator).fit(inputs[train], answers)
                if control is None:
                    fitted[label, name, site] = probe
                guess = np.full(Y.shape, -1, Y.dtype)
                guess[held] = probe.predict(inputs[held])
                base = dict(stream=site.stream, layer=site.layer, layer_end=site.layer, probe=name, control=control)
                scored = score(guess, prompts, label, seed=seed)
                rows += [base | row for row in scored]
            if log:
                value = next(r for r in scored[::-1] if r["subset"] == "all" and r["metric"] == "accuracy")
                own = next(r for r in rows[::-1] if r["control"] is None and r["split"] == "test"
                           and r["subset"] == "all" and r["metric"] == "accuracy" and r["probe"] == name)
                log(f"{site}  {label}  {name}: {own['value']:.4f} [{own['ci_low']:.4f}, {own['ci_high']:.4f}]"
                    + (f"  ({control} {value['value']:.4f})" if control else ""))
    return rows, fitted


def baseline_rows(prompts: LabelledPrompts, label: str, seed: int = 0) -> list[dict]:
    """Rows of the controls that need no activation: majorities fitted on train, and the task's shortcuts."""
    Y, train = prompts.labels(label), prompts.rows("train")
    pos = prompts.examples["pos"].to_numpy()
    guesses = {"majority": np.broadcast_to(_mode(Y[train]), Y.shape)}
    by_pos = np.array(guesses["majority"])
    for p in np.unique(pos):
        if (seen := train & (pos == p)).any():
            by_pos[pos == p] = _mode(Y[seen])
    guesses["majority_by_position"] = by_pos
    for name in prompts.shortcuts.get(label, ()):
        guesses[f"shortcut:{name}"] = prompts.labels(name)
    return [{"control": control} | row for control, guess in guesses.items()
            for row in score(guess, prompts, label, seed=seed)]


def _mode(Y: Codes) -> Int[ndarray, " target"]:
    codes = np.unique(Y)
    return codes[np.stack([(Y == c).sum(0) for c in codes]).argmax(0)]


def score(predicted: Codes, prompts: LabelledPrompts, label: str, seed: int = 0) -> list[dict]:
    """Rows for predictions of all examples: accuracy on validation and test, over all targets, on the task's subsets,
    by position and by target (`ply=12`, `square=c4`; test only); F1 of the second class for two-class labels."""
    Y, groups = prompts.labels(label), prompts.examples["group"].to_numpy()
    n_classes = len(prompts.classes[label])
    (position, target), targets = prompts.by, prompts.targets(label)
    where = prompts.examples[position].to_numpy()
    rows = []
    for split in ("validation", "test"):
        keep = prompts.rows(split)
        g, truth, guess = groups[keep], Y[keep], predicted[keep]
        right = guess == truth
        parts = [("accuracy", "all", right, np.ones_like(right))]
        parts += [("accuracy", name, right & mask[keep], mask[keep]) for name, mask in prompts.subsets.items()
                  if mask.shape == Y.shape]
        if n_classes == 2:
            hits = 2 * ((guess == 1) & (truth == 1))
            parts.append(("f1", "all", hits, (guess == 1).astype(int) + (truth == 1)))
        num = np.stack([group_sums(a.sum(1), g) for _, _, a, _ in parts], 1)
        den = np.stack([group_sums(a.sum(1), g) for _, _, _, a in parts], 1)
        names = [(metric, subset, int(mask.sum())) for metric, subset, _, mask in parts]
        if split == "test":
            places = np.unique(where[keep])
            at = where[keep][:, None] == places
            num = np.concatenate([num, group_sums(at * right.sum(1, keepdims=True), g), group_sums(right, g)], 1)
            den = np.concatenate([den, group_sums(at * len(targets), g), group_sums(np.ones_like(right), g)], 1)
            names += [("accuracy", f"{position}={p}", int(n) * len(targets))
                      for p, n in zip(places, at.sum(0), strict=True)]
            names += [("accuracy", f"{target}={t}", len(truth)) for t in targets]
        values, low, high = ratio_interval(num, den, seed=seed)
        rows += [dict(label=label, metric=m, split=split, subset=s, value=v, ci_low=lo, ci_high=hi, n=n,
                      n_groups=len(num), seed=seed)
                 for (m, s, n), v, lo, hi in zip(names, values, low, high, strict=True) if np.isfinite(v)]
    return rows

