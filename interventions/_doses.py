"""How much of a direction to add: one length in several units, and the grid of doses.

    reference = Reference(acts, mean_becomes - mean_was)         # of one site
    v = unit_vectors(direction, "class_mean", reference)         # effect(model, cases, {site: v}, unit="class_mean")

Weights of a probe have an arbitrary norm, so probes are compared at doses in a unit, never at equal multiples of their
weights. The unit is `class_mean` by default: at dose 1 the projection of the one class's mean is moved to the other's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probing._sites import Site

UNITS = ("class_mean", "sd", "max_act", "norm", "absolute")
DOSES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
UNTIL, MOST = 1.0, 64.0  # nats of KL that the grid should reach on either side, and the largest dose for that
AT_KL = 0.1  # nats: the side effect at which methods are compared


@dataclass(frozen=True, eq=False)
class Reference:
    """What doses at a site are measured against.

    Attributes:
        acts: (example, width) activations of a reference set, such as the training examples.
        difference: (case|1, width) what the mean of the class that a case gets has more of than that of the class it
            had; None where the label has no classes.
    """

    acts: Float[Tensor, "example width"]
    difference: Float[Tensor, "#case width"] | None = None

    @cached_property
    def covariance(self) -> Float[Tensor, "width width"]:
        return self.acts.double().T.cov(correction=0)

    def length(self, r: Float[Tensor, "row width"], unit: str) -> Float[Tensor, " rows"]:
        """How long one unit is along unit directions, in activation units; `class_mean` is below 0 where r points away
        from the class. With r the unit direction and dmu the `difference`:

        class_mean: dmu.r; sd: standard deviation of x.r; max_act: largest x.r; norm: mean of |x|; absolute: 1.

        Source: of class_mean Marks & Tegmark, arXiv:2310.06824; of sd Li et al., arXiv:2306.03341; of max_act Wu et
            al., arXiv:2501.17148.
        Raises:
            ValueError: No such unit, or `class_mean` without class means.
        """
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
        r = r.double().cpu()
        if unit == "class_mean":
            if self.difference is None:
                raise ValueError("the unit class_mean needs the class means; give `difference`, or take the unit sd")
            return (self.difference.to(r) * r).sum(-1)
        if unit == "sd":
            return ((r @ self.covariance.cpu()) * r).sum(-1).clamp_min(0).sqrt()
        if unit == "max_act":
            return torch.cat([(self.acts.to(r) @ part.T).amax(0) for part in r.split(256)])
        return torch.full((len(r),), 1.0 if unit == "absolute" else float(self.acts.float().norm(dim=-1).mean())).to(r)


def unit_vectors(direction: Float[Tensor, "*row width"], unit: str,
                 reference: Reference) -> Float[Tensor, "rows width"]:
    """A vector one unit long per row of `direction` (a vector, or one per case), or per case of the `reference`."""
    rows = torch.atleast_2d(torch.as_tensor(direction)).double().cpu()
    if not ((size := rows.norm(dim=-1, keepdim=True)) > 0).all():
        raise ValueError(f"{int((size == 0).sum())} of {len(rows)} directions are zero; leave those cases out")
    r = rows / size
    return (reference.length(r, unit)[:, None] * r).float()


def sizes(added: Mapping[Site, Float[Tensor, "_ _"]], norms: Mapping[Site, Float[Tensor, "_ _"]],
          references: Mapping[Site, Reference] | None = None) -> dict[str, float | None]:
    """How large a change is, as columns of the results: means over the edited rows (those with a norm) of all sites.

    Args:
        added: Site -> what is added.
        norms: Site -> norms of the activations it is added to; zero where nothing is edited.
        references: For the sizes in class-mean distances and standard deviations along what is added.
    """
    found: dict[str, list[float]] = {"applied_norm": [], "norm_share": [], "class_distances": [], "sds": []}
    for site, v in added.items():
        x = norms[site][:, 0].double().cpu()
        where = x > 0
        v = v[: len(x)].double().cpu()[where]
        size = v.norm(dim=-1)
        found["applied_norm"].append(float(size.mean()))
        found["norm_share"].append(float((size / x[where]).mean()))
        if references is None:
            continue
        r, reference = v / size.clamp_min(1e-300)[:, None], references[site]
        found["sds"].append(_in_units(size, reference.length(r, "sd")))
        dmu = reference.difference
        if dmu is not None and (len(dmu) == 1 or len(dmu) >= len(x)):
            of_rows = replace(reference, difference=dmu if len(dmu) == 1 else dmu[: len(x)][where])
            found["class_distances"].append(_in_units(size, of_rows.length(r, "class_mean").abs()))
    return {name: float(np.mean(of)) if of and np.isfinite(of).all() else None for name, of in found.items()}


def _in_units(size: Float[Tensor, " row"], unit: Float[Tensor, " row"]) -> float:
    return float(torch.where(size > 0, size / unit, 0).mean())


def dose_grid(kl_at: Callable[[float], float], doses: Sequence[float | int] = DOSES, until: float = UNTIL,
              most: float = MOST, at: float = AT_KL) -> list[float]:
    """`doses`, doubled outwards on each side that they have until the last dose costs more than `until` nats; and, on
    both sides of 0, the dose above 0 that costs `at` nats, at which edits are compared.

    A direction that the model does not listen to ends at `most`, and its KL there says so.

    Args:
        kl_at: Dose -> KL(unedited || edited) of the next token, mean over cases.
    """
    grid = [float(a) for a in doses]
    for last in {min(grid), max(grid)} - {0.0}:
        while abs(last) < most and kl_at(last) <= until:
            last *= 2
            grid.append(last)
    high = next((a for a in sorted(grid) if a > 0 and kl_at(a) >= at), None)
    if high is not None:
        low = 0.0
        while high - low > 0.02 * high:  # the KL near 0 is far from a line between the doses of the grid
            middle = (low + high) / 2
            low, high = (middle, high) if kl_at(middle) < at else (low, middle)
        grid += [side * float(f"{high:.3g}") for side in ((-1, 1) if min(grid) < 0 else (1,))]
    return sorted(set(grid))
