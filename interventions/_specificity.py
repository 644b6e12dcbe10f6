"""Does an edit change what it should and leave the rest: later layers are read again with probes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy import ndarray

from probing._results import results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean
from tasks._prompts import Counterfactuals

from ._effect_rows import row_context
from ._last_token import Edits
from ._runs import Arm, Run, read_last

Reader = Callable[[ndarray], ndarray]


def reread(
    run: Run,
    edits: Edits | Arm,
    probes: Mapping[Site, Reader],
    cases: Counterfactuals,
    targets: Sequence[str],
    *,
    intervention: str,
    probe: str,
    draws: Sequence[Edits | Arm] = (),
    alpha: float | int | None = None,
    unit: str | None = None,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What probes read of the last token at the sites of `probes` after an edit: result rows, the site read in stream
    and layer.

    - `specificity_target`: share of cases whose edited target now reads `becomes`.
    - `specificity_others`: share of the other targets whose reading the edit changed, averaged over cases.

    Controls: `null`, without the edit; `random_direction`, the mean over `draws` with their 5th to 95th percentile.

    Args:
        run: Of `LastToken`, or of `Sequences`, whose arms may edit any tokens.
        probes: Site -> function from (case, d_model) to predicted codes (case, target).
        targets: Names of the targets, in the order of the codes' columns.
        draws: Random edits of the same norm, see `random_like`; run together with the edit.
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
    acts = read_last(run, [{}, edits, *draws], list(probes))
    rows = []
    for site, reader in probes.items():
        before, *after = (_codes(reader, x.cpu().numpy(), len(targets), site) for x in acts[site])
        changed = np.stack(after) != before
        target = np.stack([a[case, edited] == becomes for a in (before, *after)]).astype(float)
        others = (changed.sum(2) - changed[:, case, edited]) / max(1, len(targets) - 1)
        others = np.concatenate([np.zeros((1, len(case))), others])
        common = row_context(run, cases, [site], split=split, seed=seed, identity=identity, probe=probe,
                             intervention=intervention)
        none, dose = {"alpha": None, "unit": None, "control": "null"}, {"alpha": alpha, "unit": unit}
        for metric, values in (("specificity_target", target), ("specificity_others", others)):
            for columns, of_arm in ((none, values[0]), (dose, values[1])):
                value, low, high = bootstrap_mean(of_arm, groups, seed=seed)
                rows.append({**common, **columns, "metric": metric, "value": value, "ci_low": low, "ci_high": high,
                             "n": len(of_arm), "n_groups": len(np.unique(groups))})
            if len(draws):
                means = values[2:].mean(1)
                mean, (low, high) = means.mean(), np.percentile(means, [5, 95])
                rows.append({**common, **dose, "control": "random_direction", "metric": metric, "value": mean,
                             "ci_low": min(low, mean), "ci_high": max(high, mean), "n": len(draws)})
    return results_frame(rows)


def _codes(reader: Reader, x: ndarray, n_targets: int, site: Site) -> ndarray:
    codes = np.asarray(reader(x))
    if codes.shape != (len(x), n_targets):
        raise ValueError(f"the probe of {site} gives codes of shape {codes.shape}, wanted (case, target) = "
                         f"{(len(x), n_targets)}; return one predicted code per case and target")
    return codes
