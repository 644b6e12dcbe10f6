"""Which units do seeds share: one to one, a few for one, or in groups? And how many does an untrained network offer?

Units of an MLP, at the layer where two networks are matched best one to one. A unit of the first network is predicted
from one unit of the second, from the fewest that say nearly all that can be said, and from as many as help; all on
rows that were not fitted. Groups are clusters of units of both networks, beside those that a random rotation makes.
"""

from collections.abc import Mapping
from functools import cache, partial

import pandas as pd
from numpy import ndarray

from probing.formation import match_units, sparse_partners, unit_clusters
from tasks._families import Family

from ._report import Section, Table
from ._universality import pairs_of, states

KINDS = ("seeds", "untrained")
LEVEL = 0.05


def measure(family: Family, rows: int, seed: int = 0) -> pd.DataFrame:
    """One row per pair of seeds, and of a seed and an untrained network, see `compared`."""
    of = cache(partial(states, prompts=family.prompts(rows, seed), seed=seed))
    return pd.DataFrame([dict(family=family.name, kind=kind, a=a, b=b, n=rows) | compared(of(a), of(b), seed)
                         for kind, a, b in pairs_of(family, [family]) if kind in KINDS])


def compared(a: Mapping[str, ndarray], b: Mapping[str, ndarray], seed: int = 0) -> dict[str, float | str]:
    """layer; medians over units of a of one_r2, needed, r2, best_units and best_r2, see `sparse_partners`; shared (of
    the units that vary, the share whose r2 is above null_high), null_high; clusters, and groups (those more coherent
    than after a rotation, p < 0.05)."""
    layers = [name for name in a if name.startswith("mlp_post")]
    layer = max(layers, key=lambda name: match_units(a[name], b[name])["matched_correlation"].abs().mean())
    few = sparse_partners(a[layer], b[layer], n_null=1, seed=seed).dropna(subset="r2")
    clusters = unit_clusters(a[layer], b[layer], seed=seed)
    medians = few[["one_r2", "needed", "r2", "best_units", "best_r2"]].astype(float).median()
    return dict(layer=layer, **medians, shared=float((few["r2"] > few["null_high"]).mean()),
                null_high=float(few["null_high"].iloc[0]), clusters=len(clusters),
                groups=int((clusters["p_value"] < LEVEL).sum()))


def section(table: pd.DataFrame) -> Section:
    """A line per pair of networks."""
    lines = [{"family": row.family, "first": row.a, "second": row.b,
              "layer": row.layer.removeprefix("mlp_post."), "R² from one": f"{row.one_r2:.2f}",
              "from few": f"{row.r2:.2f} ({row.needed:.0f})", "from many": f"{row.best_r2:.2f} ({row.best_units:.0f})",
              "predicted": f"{100 * row.shared:.0f} %", "groups": f"{row.groups} of {row.clusters}"}
             for row in table.itertuples()]
    caption = ("NAME~K is untrained, with random weights of seed K. Medians over the units of the first network that "
               "vary; in brackets: from how many units. Predicted: the share of them whose R² is above 95 % of what "
               "rows in random order give. Groups: clusters of units of both that are more coherent than their like "
               "after a random rotation of the second, of all clusters.")
    return Section("Which units are shared?", " ".join(__doc__.split("\n\n")[1].split()), tables=[
        Table("Units of an MLP, one to one, few to one, and in groups", pd.DataFrame(lines), caption, table)])
