"""Controls of equal applied norm."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from probing._sites import Site
from probing._subspaces import Subspace

from ._edits import Edit, SizedEdit

Change = Mapping[Site, Float[Tensor, "_ _"]]
SHARE = 0.9  # of the variance, in the components that stand for the data


def rescaled(direction: Float[Tensor, "... d_model"], like: Float[Tensor, "case d_model"]) -> Tensor:
    """`direction` of every case with the norm of `like`: (case, d_model); zero where `direction` is zero."""
    direction = torch.as_tensor(direction).to(like).expand_as(like)
    norm = direction.norm(dim=-1, keepdim=True)
    return direction * torch.where(norm > 0, like.norm(dim=-1, keepdim=True) / norm.clamp_min(1e-30), 0)


def random_like(change: Change, n_draws: int, seed: int = 0, sign: float | int = 1.0) -> list[dict[Site, Edit]]:
    """Arms that add `change` turned by a random rotation, one rotation per draw.

    Norms, and angles between sites and between cases, stay; the direction of any one case is uniform on the sphere.
    Only the span of the changes is turned (into a random frame), so the cost grows with its rank, not with d_model^2.

    Args:
        sign: Turns `sign * change` and takes the sign off again. With the sign of the dose, the changes of a dose and
            of its opposite are turned alike, so that draw i is one direction at every dose.
    """
    coordinates, rank = _in_span(change, sign)
    generator = torch.Generator().manual_seed(seed)
    width = next(iter(change.values())).shape[-1]
    arms = []
    for _ in range(n_draws):
        gaussian = torch.randn(width, rank, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        frame = q * r.diagonal().sign()  # without the signs QR is not uniform
        arms.append({site: _add(part, sign * frame.T.to(part.device)) for site, part in coordinates.items()})
    return arms


def random_in(spaces: Mapping[Site, Subspace], change: Change, n_draws: int, seed: int = 0, sign: float | int = 1.0
              ) -> list[dict[Site, Edit]]:
    """Arms that add `change` moved to random directions inside the subspace of its site, such as its `components`.

    Every row keeps its norm. Rows keep their angles to one another, too, while the changes span no more dimensions than
    the subspaces have.

    Args:
        sign: As in `random_like`.
    """
    rows = sign * torch.cat(list(change.values())).double()
    _, size, axes = torch.linalg.svd(torch.unique(rows, dim=0), full_matrices=False)
    axes = axes[: max(1, int((size > 1e-5 * size[0]).sum()))]
    coordinates = dict(zip(change, (rows @ axes.T).split([len(c) for c in change.values()]), strict=True))
    rank, most = len(axes), min(spaces[site].rank for site in change)
    generator, arms = torch.Generator().manual_seed(seed), []
    for _ in range(n_draws):
        mix = torch.randn(most, rank, generator=generator, dtype=torch.float64)
        if rank <= most:
            q, r = torch.linalg.qr(mix)
            mix = q * r.diagonal().sign()
        arms.append({})
        for site, part in coordinates.items():
            basis = spaces[site].basis[:most].to(part)
            turned = part @ mix.T.to(part) @ basis
            arms[-1][site] = _add(sign * rescaled(turned, part.norm(dim=-1, keepdim=True) * basis[:1]))
    return arms


def components(acts: Float[Tensor, "example width"], share: float = SHARE) -> Subspace:
    """The leading principal components of activations, as many as hold this share of the variance."""
    x = acts.double() - acts.double().mean(0)
    variances, vectors = torch.linalg.eigh(x.T @ x)
    held = variances.flip(0).cumsum(0) / variances.sum()
    return Subspace(vectors.flip(1)[:, : int((held < share).sum()) + 1].T.contiguous().cpu())


def _in_span(change: Change, sign: float | int) -> tuple[dict[Site, Tensor], int]:
    """Coordinates of all rows in an orthonormal basis of their span (or as they are, where that is no smaller), in
    float64, and how many coordinates a row has."""
    rows = coordinates = sign * torch.cat(list(change.values())).double()
    distinct = torch.unique(rows, dim=0)
    if len(distinct) < rows.shape[-1]:
        coordinates = rows @ torch.linalg.qr(distinct.T).Q
    parts = coordinates.split([len(c) for c in change.values()])
    return dict(zip(change, parts, strict=True)), coordinates.shape[-1]


def _add(rows: Tensor, frame: Tensor | None = None) -> Edit:
    """x + the row of its case, of `rows` in the coordinates of `frame` where there is one."""

    def edit(x, cases):
        added = rows[cases.to(rows.device)]
        return x + (added if frame is None else added @ frame).to(x)

    return SizedEdit(edit, len(rows), (rows if frame is None else frame).shape[-1])
