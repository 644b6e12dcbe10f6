"""Controls of equal applied norm."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from probing._sites import Site

from ._edits import Edit, SizedEdit

Change = Mapping[Site, Float[Tensor, "case d_model"]]


def rescaled(direction: Float[Tensor, "... d_model"], like: Float[Tensor, "case d_model"]) -> Tensor:
    """`direction` of every case with the norm of `like`: (case, d_model); zero where `direction` is zero."""
    direction = torch.as_tensor(direction).to(like).expand_as(like)
    norm = direction.norm(dim=-1, keepdim=True)
    return direction * torch.where(norm > 0, like.norm(dim=-1, keepdim=True) / norm.clamp_min(1e-30), 0)


def random_like(change: Change, n_draws: int, seed: int = 0) -> list[dict[Site, Edit]]:
    """Arms that add `change` turned by a random rotation, one rotation per draw.

    Norms, and angles between sites and between cases, stay; the direction of any one case is uniform on the sphere.
    Only the span of the changes is turned (into a random frame), so the cost grows with its rank, not with d_model^2.
    """
    rows = torch.cat(list(change.values())).double()
    coordinates, rank = rows, rows.shape[-1]
    distinct = torch.unique(rows, dim=0)
    if len(distinct) < rank:
        basis = torch.linalg.qr(distinct.T).Q
        coordinates, rank = rows @ basis, len(distinct)
    generator = torch.Generator().manual_seed(seed)
    parts = dict(zip(change, coordinates.split([len(c) for c in change.values()]), strict=True))
    arms = []
    for _ in range(n_draws):
        gaussian = torch.randn(rows.shape[-1], rank, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        frame = (q * r.diagonal().sign()).to(rows.device)  # without the signs QR is not uniform
        arms.append({site: _add(part, frame.T) for site, part in parts.items()})
    return arms


def _add(coordinates: Tensor, frame: Tensor) -> Edit:
    def edit(x, rows):
        return x + (coordinates[rows.to(coordinates.device)] @ frame).to(x)

    return SizedEdit(edit, len(coordinates), frame.shape[-1])
