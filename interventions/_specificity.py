"""Does an edit change what it should and leave the rest: later layers are read again with probes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy import ndarray

from probing._results import results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean
from tasks._prompts import Counterfactuals

from ._effect import row_context
from ._last_token import Edits, LastToken

Reader = Callable[[ndarray], ndarray]


def reread(
    run: LastToken,
    edits: Edits,
    probes: Mapping[Site, Reader],
    cases: Counterfactuals,
    targets: Sequence[str],
    *,
    intervention: str,
    probe: str,
    alpha: float | int | None = None,
    unit: str | None = None,
    control: str | None = None,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What probes read at the sites of `probes` after an edit: result rows, the site read in stream and layer.

    - `specificity_target`: share of cases whose edited target now reads `becomes` (and, as control `null`, without
      the edit).
    - `specificity_others`: share of the other targets whose reading the edit changed, averaged over cases (control
      `null`: 0, nothing changes without an edit).

    Args:
        probes: Site -> function from (case, d_model) to predicted codes (case, target).
        targets: Names of the targets, in the order of the codes' columns.
        control: Names the arm when `edits` is a control, e.g. `random_direction`.
        split: Cases of this split among those of `run`.
    Raises:
        ValueError: A case's target is not among `targets`, or codes have another shape than (case, target).
    """
    run = run.select((cases.cases["split"] == split).to_numpy()[run.rows])
    chosen = cases.cases.iloc[run.rows.numpy()]
    column = {name: i for i, name in enumerate(targets)}
    if unknown := sorted(set(chosen["target"]) - set(column)):
        raise ValueError(f"cases edit targets {unknown[:5]} that the probes do not read; "
                         f"they read {list(targets)[:5]} ...")
    edited = np.array([column[name] for name in chosen["target"]])
    becomes, groups, case = chosen["becomes"].to_numpy(), chosen["group"].to_numpy(), np.arange(len(chosen))
    acts = [run.logits(e, read=list(probes))[1] for e in ({}, edits)]
    rows = []
    for site, reader in probes.items():
        before, after = (_codes(reader, a[site].cpu().numpy(), len(targets), site) for a in acts)
        common = row_context(run, cases, [site], split=split, seed=seed, identity=identity, probe=probe,
                             intervention=intervention)
        changed = before != after
        others = (changed.sum(1) - changed[case, edited]) / max(1, len(targets) - 1)
        dose = {"alpha": alpha, "unit": unit, "control": control}
        none = {"alpha": None, "unit": None, "control": "null"}
        for metric, values, columns in (("specificity_target", after[case, edited] == becomes, dose),
                                        ("specificity_target", before[case, edited] == becomes, none),
                                        ("specificity_others", others, dose),
                                        ("specificity_others", np.zeros(len(others)), none)):
            value, low, high = bootstrap_mean(values.astype(float), groups, seed=seed)
            rows.append({**common, **columns, "metric": metric, "value": value, "ci_low": low, "ci_high": high,
                         "n": len(values), "n_groups": len(np.unique(groups))})
    return results_frame(rows)


def _codes(reader: Reader, x: ndarray, n_targets: int, site: Site) -> ndarray:
    codes = np.asarray(reader(x))
    if codes.shape != (len(x), n_targets):
        raise ValueError(f"the probe of {site} gives codes of shape {codes.shape}, wanted (case, target) = "
                         f"{(len(x), n_targets)}; return one predicted code per case and target")
    return codes
