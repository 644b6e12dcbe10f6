"""What chosen heads are needed for: they are set to their mean, beside random heads of the same layers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing._results import MIN_DRAWS, results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._effect_rows import EffectRows, row_context
from ._knockout import knock_out, position_means
from ._measures import Measures
from ._metrics import set_error
from ._sequences import Sequences


def knockout_effect(model, cases: Counterfactuals, heads: Sequence[Site], *, probe: str = "heads",
                    metrics: Sequence[str] = (), n_random: int = MIN_DRAWS, seed: int = 0) -> pd.DataFrame:
    """Result rows: the error of the answers that were right before, and KL(unedited || edited), when `heads` are set
    at every token to their mean over the cases at that position. Nothing is written, so the answers should stay.

    The band `random_heads`: the same done to as many other heads of each layer, drawn `n_random` times; where a layer
    has too few others, the rest is drawn from the other layers.

    Args:
        heads: `Site("z", layer, head)`, chosen on other prompts.
        probe: What the heads were chosen by, for the column of that name.
        metrics: More of them, as in `effect`.
    Raises:
        ValueError: No head, one that is not a head, or too few others.
    """
    if not heads or any(site.stream != "z" or site.head is None for site in heads):
        raise ValueError(f"heads are sites Site('z', layer, head=...), at least one; got {list(map(str, heads))}")
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it")
    still = replace(cases, right_after=cases.right_before)
    run, draws = Sequences.of(model, cases), _random_sets(model, heads, n_random, seed)
    mean = position_means(run, sorted({*heads, *(site for drawn in draws for site in drawn)}))
    measures = Measures(run, still, set_error, metrics)
    found = run.measure([knock_out(each, mean=mean) for each in (heads, *draws)], measures).cpu().numpy()
    layers = sorted({site.layer for site in heads})
    common = row_context(run, cases, [Site("z", layer) for layer in (layers[0], layers[-1])], split="report", seed=seed,
                         unit="removed", probe=probe, intervention="knock_out", positions="all")
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    idle = measures.null()
    for i, metric in enumerate(measures.names):
        rows.mean(idle[:, i], metric=metric, control="null", alpha=None, unit=None)
        rows.mean(found[0][:, i], metric=metric, alpha=1.0)
        rows.band(_means(found[1:, :, i]), metric=metric, control="random_heads", alpha=1.0)
    return results_frame(rows.rows)


def _means(draws: Float[ndarray, "draw case"]) -> Float[ndarray, " draw"]:
    return draws.astype(np.float64).mean(1)


def _random_sets(model, heads: Sequence[Site], n_draws: int, seed: int) -> list[list[Site]]:
    """Sets of other heads, as many of each layer as were chosen there."""
    every = [Site("z", layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    others = [site for site in every if site not in set(heads)]
    if len(others) < len(heads):
        raise ValueError(f"{len(heads)} heads were chosen and {len(others)} are left, too few for a random set of as "
                         "many; choose at most half of the heads")
    rng, wanted = np.random.default_rng(seed), Counter(site.layer for site in heads)
    sets = []
    for _ in range(n_draws):
        mixed = [others[i] for i in rng.permutation(len(others))]
        drawn = [site for layer, n in sorted(wanted.items()) for site in [s for s in mixed if s.layer == layer][:n]]
        sets.append(drawn + [s for s in mixed if s not in drawn][: len(heads) - len(drawn)])
    return sets
