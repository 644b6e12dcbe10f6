"""The effect of an edit on the next token, as result rows: every dose beside its null, random band and price."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import xxhash
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from probing._models import identify
from probing._results import results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean, bootstrap_ratio
from tasks._prompts import Counterfactuals

from ._controls import random_like, rescaled
from ._edits import Edit, steer
from ._last_token import Edits, LastToken
from ._metrics import kl, set_error

Directions = Mapping[Site, Float[Tensor, "case d_model"]]
EditAt = Callable[[Site, float], Edit]
Score = Callable[[Tensor, Tensor], Tensor]


def effect(
    model,
    cases: Counterfactuals,
    directions: Directions | None = None,
    *,
    alphas: Sequence[float | int],
    unit: str,
    intervention: str,
    probe: str,
    edit: EditAt | None = None,
    sites: Sequence[Site] | None = None,
    n_random: int = 20,
    others: Mapping[str, Directions] | None = None,
    ideal_null: Float[ndarray, " case"] | float | None = None,
    score: Score = set_error,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What an edit of the last token, at all `sites` together, does to the next token: result rows.

    Per dose, for the edit and for each control: the score against the answers that are right after the change
    (`set_error`), its ratio to the null (`error_ratio`, a ratio of means), and the price, KL(unedited || edited) of
    the next token in nats (`kl`). The controls:

    - `null`: no edit; `clean`: no edit, against the old answers; `ideal_null`, where given.
    - `random_direction`: the whole edit turned by a random rotation, `n_random` times. Every case and site keeps its
      applied norm, and sites and cases keep their angles to one another, so that a push that adds up over layers has
      a control that adds up too. Value: mean over draws; interval: 5th to 95th percentile of the draws; n: draws.
    - `sign_flip`: the same change, subtracted.
    - each of `others` (another target's direction, another label's), brought to the applied norm of the edit.

    Args:
        model: A model, or the `LastToken` of these cases, so that several calls share the prefix.
        directions: Per site, (case|1, d_model); added `alpha` times.
        edit: Instead of directions: the edit of a site at a dose (`move_to`, ...). Its applied change is measured in
            the run, and the controls have that norm.
        sites: Edited together; all sites of `directions` when missing.
        score: (logits, right) -> per case, lower is better.
        split: Which cases: `choose` or `report`. Layers and doses are picked on the former only.
        identity: Overrides for the columns task, model, revision, model_hash, data_hash; else taken from the model
            and the cases.
    Raises:
        ValueError: Both, or none, of `directions` and `edit`; fewer than 20 random directions; no case in the split.
    """
    make, sites = edit_maker(directions, edit, sites)
    if n_random < 20:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or use window_map "
                         "to scan without controls")
    run = on_split(model, cases, split)
    others = {name: {s: given[s] for s in sites} for name, given in (others or {}).items()}
    unedited, everyone = run.logits(), torch.arange(len(run))
    new, old = (against(run, right, score) for right in (cases.right_after, cases.right_before))

    def numbers(logits, places):
        return torch.stack([new(logits, places), kl(unedited[places.to(unedited.device)], logits).double()], dim=-1)

    common = row_context(run, cases, sites, split=split, seed=seed, identity=identity, unit=unit, probe=probe,
                         intervention=intervention)
    table = Table(common, cases, run, new(unedited, everyone).cpu().numpy(), score, seed)
    table.unedited(old(unedited, everyone).cpu().numpy(), ideal_null)

    applied, edited = _apply(run, make, sites, alphas, numbers, directions)
    for alpha, change, values in zip(alphas, applied, edited, strict=True):
        arms: dict[str, Edits] = {"sign_flip": {s: steer(change[s], -1.0) for s in sites}}
        arms |= {name: {s: steer(rescaled(given[s], change[s])) for s in sites} for name, given in others.items()}
        draws = random_like(change, n_random, seed)
        controls = run.measure([*arms.values(), *draws], numbers).numpy()
        table.arm(alpha, None, values)
        for name, values in zip(arms, controls, strict=False):
            table.arm(alpha, name, values)
        table.band(alpha, controls[len(arms) :])
    return results_frame(table.rows)


def on_split(model, cases: Counterfactuals, split: str) -> LastToken:
    """The last tokens of the cases of one split; rows keep counting all cases."""
    run = model if isinstance(model, LastToken) else None
    inside = (cases.cases["split"] == split).to_numpy()
    if not inside.any():
        raise ValueError(f"no case of split {split!r}; there are {sorted(set(cases.cases['split']))}")
    if run is None:
        return LastToken.of(model, cases, only=inside)
    if int(run.rows.max()) >= len(cases):
        raise ValueError(f"the LastToken has a case number {int(run.rows.max())}, there are {len(cases)} cases; build "
                         "it with LastToken.of(model, cases)")
    return run.select(inside[run.rows.numpy()])


def row_context(run: LastToken, cases: Counterfactuals, sites: Sequence[Site], *, identity=None, **columns) -> dict:
    """The columns that all rows of one call share."""
    known = identify(run.model)
    return {"task": cases.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
            "data_hash": cases_digest(cases), "label": cases.scheme, "subset": "all",
            "stream": "+".join(dict.fromkeys(s.stream for s in sites)), "layer": min(s.layer for s in sites),
            "layer_end": max(s.layer for s in sites), **columns, **(identity or {})}


def cases_digest(cases: Counterfactuals) -> str:
    """xxh3_128 over tokens, lengths, the table of cases and both sets of answers."""
    digest = xxhash.xxh3_128(f"{cases.task} {cases.kind} {cases.scheme}".encode())
    table = cases.cases.to_csv(index=False).encode()
    arrays = (cases.tokens.numpy(), cases.lengths.numpy(), cases.right_before, cases.right_after)
    for part in (table, *(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes() for a in arrays)):
        digest.update(part)
    return digest.hexdigest()


def edit_maker(directions: Directions | None, edit: EditAt | None, sites) -> tuple[EditAt, list[Site]]:
    if directions is not None and edit is not None:
        raise ValueError("give either directions (added alpha times) or edit, (site, alpha) -> edit; not both")
    given = directions or {}
    sites = list(given if sites is None else sites)
    if not sites:
        raise ValueError("no site to edit; pass sites=[Site('resid_post', 3), ...]")
    if edit is not None:
        return edit, sites
    if absent := [str(s) for s in sites if s not in given]:
        raise ValueError(f"no direction for {', '.join(absent)}; there are {', '.join(map(str, given)) or 'none'}")
    return (lambda site, alpha: steer(given[site], alpha)), sites


def against(run: LastToken, right: Bool[ndarray, "case d_vocab"], score: Score) -> Score:
    """(logits, places) -> (batch,) score against the answers of those cases."""
    return lambda logits, places: score(logits, torch.as_tensor(right[run.rows[places].numpy()])).double()


def _apply(run: LastToken, make: EditAt, sites, alphas, numbers: Score, directions: Directions | None):
    """Per dose: what was added, {site: (case, d_model)} over all cases, and the (case, 2) numbers of the edit."""
    if directions is not None:
        edited = run.measure([{s: make(s, a) for s in sites} for a in alphas], numbers).numpy()
        n_all = int(run.rows.max()) + 1
        return [{s: a * directions[s].expand(max(n_all, len(directions[s])), -1) for s in sites}
                for a in alphas], edited
    applied: list[dict[Site, Tensor]] = [{} for _ in alphas]
    arms = [{s: partial(_record, make(s, a), into, s, int(run.rows.max()) + 1) for s in sites}
            for a, into in zip(alphas, applied, strict=True)]
    return applied, run.measure(arms, numbers).numpy()


def applied_change(run: LastToken, edits: Edits) -> dict[Site, Float[Tensor, "case d_model"]]:
    """What the edits add at each of their sites when run together: (case, d_model), by case number."""
    into: dict[Site, Tensor] = {}
    n_cases = int(run.rows.max()) + 1
    recording = {site: partial(_record, edit, into, site, n_cases) for site, edit in edits.items()}
    run.measure([recording], lambda logits, places: logits[:, :1])
    return into


def _record(edit: Edit, into: dict[Site, Tensor], site: Site, n_cases: int, x: Tensor, rows: Tensor) -> Tensor:
    new = edit(x, rows)
    if site not in into:
        into[site] = x.new_zeros(n_cases, x.shape[-1])
    into[site][rows] = new - x
    return new


class Table:
    """Rows under construction: means over cases with cluster-bootstrap intervals, and bands over draws."""

    def __init__(self, common: dict, cases: Counterfactuals, run: LastToken, null: ndarray, score: Score, seed: int):
        self.rows: list[dict] = []
        self.common, self.null, self.seed, self.numbers = common, null, seed, run.rows.numpy()
        self.groups = cases.cases["group"].to_numpy()[self.numbers]
        self.metric = getattr(getattr(score, "func", score), "__name__", "score")
        self.ratio = "error_ratio" if self.metric == "set_error" else f"{self.metric}_ratio"

    def add(self, interval: tuple, n: int, **columns) -> None:
        value, low, high = map(float, interval)
        n_groups = None if columns.get("control") == "random_direction" else len(np.unique(self.groups))
        self.rows.append({**self.common, "value": value, "ci_low": low, "ci_high": high, "n": n, "n_groups": n_groups,
                          **columns})

    def mean(self, values: ndarray, **columns) -> None:
        self.add(bootstrap_mean(values, self.groups, seed=self.seed), len(values), **columns)

    def unedited(self, clean: ndarray, ideal: Float[ndarray, " case"] | float | None) -> None:
        plain = {"alpha": None, "unit": None}
        self.mean(self.null, metric=self.metric, control="null", **plain)
        self.mean(clean, metric=self.metric, control="clean", **plain)
        if ideal is not None:
            ideal = np.asarray(ideal, float)
            ideal = np.full(len(self.null), ideal) if ideal.ndim == 0 else ideal[self.numbers]
            self.mean(ideal, metric=self.metric, control="ideal_null", **plain)
        self.add((0, 0, 0), len(clean), metric="kl", control="null", **plain)
        if self.null.any():
            self.add((1, 1, 1), len(clean), metric=self.ratio, control="null", **plain)

    def arm(self, alpha: float | int, control: str | None, numbers: Float[ndarray, "case 2"]) -> None:
        columns: dict = {"alpha": alpha, "control": control}
        self.mean(numbers[:, 0], metric=self.metric, **columns)
        self.mean(numbers[:, 1], metric="kl", **columns)
        if self.null.any():
            ratio = bootstrap_ratio(numbers[:, 0], self.null, self.groups, seed=self.seed)
            self.add(ratio, len(numbers), metric=self.ratio, **columns)

    def band(self, alpha: float | int, numbers: Float[ndarray, "draw case 2"]) -> None:
        draws = {self.metric: numbers[..., 0].mean(1), "kl": numbers[..., 1].mean(1)}
        if self.null.any():
            draws[self.ratio] = draws[self.metric] / self.null.mean()
        for metric, values in draws.items():
            low, high = np.percentile(values, [5, 95])
            mean = values.mean()
            self.add((mean, min(low, mean), max(high, mean)), len(values), metric=metric, alpha=alpha,
                     control="random_direction")
