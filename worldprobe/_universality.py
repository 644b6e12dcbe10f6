"""`worldprobe reproduce universality`: do networks trained from other seeds come to share their states?

Three seeds of one task are held against each other, against networks of another task, against untrained ones, and
against chance (rows in random order), by every metric of similarity, for reference models of two worlds. All see the
same rows. A network of another world is shown the same symbols under other ids: what they mean is then the one thing
that differs. Chance alone is a low mark: any two functions of the same input are alike, trained or not.

Sources: Huh et al., arXiv:2405.07987 (metrics, the best layer pair); Li et al., arXiv:1511.07543 (matched neurons);
Gurnee et al., arXiv:2401.12181 (universal neurons); Moschella et al., arXiv:2209.15430 (stitched probes).
"""

import itertools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from sklearn.linear_model import LogisticRegression

from probing import Site, load_model, random_init, read_batches
from probing.formation import compare_layers, match_units, relative, universal_neurons
from tasks import LabelledPrompts
from tasks._families import Family, families
from tasks._files import write_whole

from ._report import write_report
from ._run import open_run

METRICS = ("mutual_knn", "cycle_knn", "cknna", "debiased_cka", "svcca", "procrustes", "rsa", "topological_rsa")
KINDS = ("seeds", "other task", "other world", "untrained", "two untrained")
PARTS = 3
QUICK_PARTS, QUICK_ROWS = 1, 300
N_NULL, N_ANCHORS = 20, 60


def pairs_of(family: Family, known: Sequence[Family]) -> list[tuple[str, str, str]]:
    """(kind, one network, the other) of all pairs of a family; NAME~K is NAME with random weights of seed K.

    The other world is that of the first of the known families whose task is another one. A network of another task in
    the same words began with the weights of the first seed, which is left out of these pairs.
    """
    fresh = [f"{family.seeds[0]}~{k}" for k in range(len(family.seeds))]
    worlds = next((other.seeds for other in known if other.task != family.task), ())
    found = [("seeds", a, b) for a, b in itertools.combinations(family.seeds, 2)]
    found += [("other task", a, b) for a in family.seeds[1:] for b in family.tasks]
    found += [("other world", a, b) for a, b in zip(family.seeds, worlds, strict=False)]
    found += [("untrained", a, b) for a, b in zip(family.seeds, fresh, strict=True)]
    return found + [("two untrained", a, b) for a, b in itertools.combinations(fresh, 2)]


def reproduce(out: str | Path, *, seed: int = 0, quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Measures all pairs, writes `checks.json` and `report.html`, returns the path of the former.

    Args:
        seed: Of the rows and their random orders.
        quick: One part of at most 300 rows for three of up to 1,000.
    """
    from . import _universality_units as units
    from ._universality_report import checks, section

    folder = open_run(out, {"experiments": "universality", "seed": seed, "quick": quick}, log=log)
    known, parts = families(), QUICK_PARTS if quick else PARTS
    table = pd.concat([
        folder.stage(f"{file_name(family)}-{part}", partial(measure, family, known, part, rows_of(family, quick), seed))
        for family in known for part in range(parts)], ignore_index=True)
    shared = pd.concat([
        folder.stage(f"{file_name(family)}-units", partial(units.measure, family, parts * rows_of(family, quick), seed))
        for family in known], ignore_index=True)
    found = [{"id": i, **check} for i, check in enumerate(checks(table), 1)]
    path = folder.path / "checks.json"
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    about = folder.environment()
    write_report(folder.path / "report.html", title="Do networks from other seeds share their states?",
                 summary=[" ".join(__doc__.split("\n\n")[1].split())], checks=found,
                 sections=[section(table), units.section(shared)],
                 run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config), **about})
    return path


def plan(*, seed: int = 0, quick: bool = False) -> str:
    """What `reproduce` would do."""
    known = families()
    rows = ", ".join(f"{rows_of(family, quick):,} ({family.name})" for family in known)
    pairs = sum(len(pairs_of(family, known)) for family in known)
    return "\n".join([f"{len(known)} families of reference models, {pairs} pairs, {len(METRICS) + 3} metrics, "
                      f"each with {N_NULL} random orders of the rows",
                      f"{QUICK_PARTS if quick else PARTS} disjoint parts of so many rows: {rows}; seed {seed}",
                      "memory: about 1.5 GB", f"time: roughly {3 if quick else 14} minutes on one core"])


def rows_of(family: Family, quick: bool) -> int:
    return min(family.rows, QUICK_ROWS) if quick else family.rows


def file_name(family: Family) -> str:
    return family.name.replace(", ", "-").replace(" ", "-")


def measure(family: Family, known: Sequence[Family], part: int, rows: int, seed: int = 0) -> pd.DataFrame:
    """One row per pair and metric: family, part, kind, a, b, n, metric, value, null, null_high, p_value, layer_a,
    layer_b.

    `null` and `null_high` are the mean and the 95th percentile of `N_NULL` random orders of the rows of b (of a
    stitched probe: of its anchors), with the same choice of the best layers.
    """
    prompts = _part(family.prompts((part + 1) * rows, seed), part, rows)
    of = cache(partial(states, prompts=prompts, seed=seed))
    found: list[dict[str, Any]] = []
    for kind, a, b in pairs_of(family, known):
        if not of(b):
            continue
        about = dict(family=family.name, part=part, kind=kind, a=a, b=b, n=rows)
        found += [about | row for row in [*compared(of(a), of(b), seed), *neurons(of(a), of(b), seed),
                                          *stitched(of(a), of(b), prompts, family.label, seed)]]
    return pd.DataFrame(found)


def states(name: str, prompts: LabelledPrompts, seed: int = 0) -> dict[str, ndarray]:
    """Of a reference model, or of NAME~K: the stream after every block and the neurons of every MLP, by site; none of a
    model whose context the prompts do not fit."""
    known, _, fresh = name.partition("~")
    model = load_model(known)
    if fresh:
        model = random_init(model, int(fresh))
    if prompts.tokens.shape[1] > model.cfg.n_ctx:
        return {}
    if known.partition("-")[0] != prompts.task:
        prompts = in_other_words(prompts, model.cfg.d_vocab, seed)
    sites = [Site(stream, layer) for stream in ("resid_post", "mlp_post") for layer in range(model.cfg.n_layers)]
    kept = {site: torch.empty(0) for site in sites}
    for batch, acts in read_batches(model, prompts, sites):
        for site, rows in acts.items():
            if not len(kept[site]):
                kept[site] = torch.empty(len(prompts), rows.shape[1])
            kept[site][batch.rows] = rows
    return {str(site): rows.numpy() for site, rows in kept.items()}


def in_other_words(prompts: LabelledPrompts, d_vocab: int, seed: int = 0) -> LabelledPrompts:
    """The same prompts with every symbol, by a random one-to-one map, under another id from 1 to d_vocab - 1.

    Raises:
        ValueError: More symbols than ids.
    """
    used, where = prompts.tokens.unique(return_inverse=True)
    if len(used) > d_vocab - 1:
        raise ValueError(f"{len(used)} symbols do not fit into a vocabulary of {d_vocab}; take prompts with fewer")
    ids = torch.from_numpy(np.random.default_rng([seed, 5]).permutation(d_vocab - 1)[:len(used)] + 1)
    return replace(prompts, tokens=ids[where], vocabulary=())


def compared(a: Mapping[str, ndarray], b: Mapping[str, ndarray], seed: int = 0) -> list[dict]:
    """Every metric of the streams, for the best pair of layers."""
    table = compare_layers(_of(a, "resid_post"), _of(b, "resid_post"), METRICS, n_null=N_NULL, seed=seed)
    rows = []
    for metric, each in table.groupby("metric", sort=False):
        best, null = (each[each["control"] == c].iloc[0] for c in ("best_of_pairs", "best_of_pairs_null"))
        rows.append(dict(metric=metric, value=best["value"], null=null["value"], null_high=null["ci_high"],
                         p_value=best["p_value"], layer_a=best["layer_a"], layer_b=best["layer_b"]))
    return rows


def neurons(a: Mapping[str, ndarray], b: Mapping[str, ndarray], seed: int = 0) -> list[dict]:
    """How well neurons are matched one to one (mean |correlation|, best layer), and their mean excess correlation, by
    which neurons are called universal: over that with neurons mixed at random."""
    left, right = _of(a, "mlp_post"), _of(b, "mlp_post")
    pairs = list(zip(left, right, strict=False))
    n = len(next(iter(left.values())))
    rng = np.random.default_rng([seed, 7])
    orders = [np.arange(n), *(rng.permutation(n) for _ in range(N_NULL))]
    matched = np.array([[match_units(left[i], right[j][order])["matched_correlation"].abs().mean() for i, j in pairs]
                        for order in orders])
    layers = pairs[int(matched[0].argmax())]
    whole = [torch.from_numpy(np.concatenate(list(each.values()), 1)) for each in (left, right)]
    excess = np.array([universal_neurons([(whole[0], [whole[1][order]])], seed=seed)["excess"].mean()
                       for order in orders[:1 + N_NULL // 4]])
    return [dict(metric="matched_neurons", **_beside_null(matched.max(1)), layer_a=layers[0], layer_b=layers[1]),
            dict(metric="excess_correlation", **_beside_null(excess))]


def stitched(a: Mapping[str, ndarray], b: Mapping[str, ndarray], prompts: LabelledPrompts, label: str, seed: int = 0
             ) -> list[dict]:
    """Accuracy of a probe of a that reads b as it is, both as cosines to the same anchors; best layer. The null has the
    anchors of b in random order."""
    train = prompts.rows("train")
    anchors = np.random.default_rng([seed, 9]).choice(np.flatnonzero(train), min(N_ANCHORS, int(train.sum()) // 2),
                                                      replace=False)
    y = prompts.labels(label)[:, 0]
    left, right = ([relative(X, anchors) for X in _of(each, "resid_post").values()] for each in (a, b))
    rng = np.random.default_rng([seed, 11])
    orders = [np.arange(len(anchors)), *(rng.permutation(len(anchors)) for _ in range(N_NULL))]
    said = []
    for one, other in zip(left, right, strict=False):
        probe = LogisticRegression(C=100.0, max_iter=2000).fit(one[train], y[train])
        said.append([probe.score(other[~train][:, order], y[~train]) for order in orders])
    layer = f"resid_post.{int(np.argmax([scores[0] for scores in said]))}"
    return [dict(metric="stitched_probe", **_beside_null(np.max(said, 0)), layer_a=layer, layer_b=layer)]


def _beside_null(values: Float[ndarray, " draw"]) -> dict[str, float]:
    """The first is measured, the others are of random orders."""
    null = values[1:]
    return dict(value=values[0], null=null.mean(), null_high=np.percentile(null, 95),
                p_value=(values >= values[0]).mean())


def _of(sites: Mapping[str, ndarray], stream: str) -> dict[str, ndarray]:
    return {name: rows for name, rows in sites.items() if name.startswith(stream)}


def _part(prompts: LabelledPrompts, part: int, rows: int) -> LabelledPrompts:
    keep = np.arange(part * rows, (part + 1) * rows)
    return replace(prompts, tokens=prompts.tokens[keep], lengths=prompts.lengths[keep],
                   examples=prompts.examples.iloc[keep].assign(prompt=np.arange(rows)).reset_index(drop=True))
