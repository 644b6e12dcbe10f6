"""Several readings of an activation brought to their goals at once."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._edits import Edit, _edit, _PerCase

RCOND = 1e-6  # of the largest singular value: goals that contradict one another are met as well as they can be


def move_all_to(
    read: Float[Tensor, "case goal d_model"],
    goals: Float[Tensor, "case goal"],
    write: Float[Tensor, "case goal d_model"] | None = None,
    alpha: float | int = 1.0,
) -> Edit:
    """x + alpha W^T (R W^T)^-1 (c - R x): at alpha = 1 all readings R x become their goals c; of one goal, `move_to`.

    With W = R (where `write` is missing) this is the shortest way there.

    Args:
        read, write: Rows R and W of every case; rows of zeros where a case has fewer goals.
    Raises:
        ValueError: No move along the rows of `write` changes some reading.
    """
    R, W = read.double(), (read if write is None else write).double()
    asked = R.norm(dim=-1) > 0
    gram = R @ W.mT
    if (stuck := asked & (gram.norm(dim=-1) <= RCOND * R.norm(dim=-1) * W.norm(dim=-1).amax(-1, keepdim=True))).any():
        raise ValueError(f"read and write are orthogonal in {int(stuck.any(-1).sum())} of {len(R)} cases (first: case "
                         f"{int(stuck.any(-1).nonzero()[0])}): moving along write cannot change the reading; take "
                         "another pair")
    ways = (W.mT @ torch.linalg.pinv(gram, rtol=RCOND)).to(read)  # (case, d_model, goal)
    r, w = _PerCase("read", read, 3), _PerCase("write", ways, 3)
    c = _PerCase("goals", torch.where(asked, goals.double(), 0.0).to(read), 2)

    def change(x: Tensor, rows: Tensor) -> Tensor:
        gap = c.at(x, rows) - torch.einsum("bd,bkd->bk", x, r.at(x, rows).expand(len(x), -1, -1))
        return x + alpha * torch.einsum("bk,bdk->bd", gap, w.at(x, rows).expand(len(x), -1, -1))

    return _edit(f"move_to goals, {alpha:g} of the way", change, r, w, c, width=read.shape[-1])
