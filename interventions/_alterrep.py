"""Counterfactual rows: everything INLP's classifiers read is set to one class, and the rest stays."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._edits import Edit, SizedEdit
from ._erasers import Rows, as_tensor
from ._inlp import INLP


@dataclass(frozen=True)
class AlterRep:
    """x_N + sum_i (alpha s |w_i.x + b_i| - b_i) w_i, with s = 1 towards classes[1] and -1 towards classes[0]: every
    direction of a binary INLP is put on one side of its classifier's boundary, `alpha` times as far as it was from it.

    All those classifiers then predict that class, and the component in their common null space is as it was.

    Source: Ravfogel et al., arXiv:2105.06965, for classifiers without offsets, b_i = 0.
    """

    inlp: INLP
    alpha: float = 4.0

    def __post_init__(self):
        if len(self.inlp.classes) != 2 or not self.inlp.rank:
            raise ValueError(f"AlterRep wants an INLP of two classes and at least one direction, this one has "
                             f"{len(self.inlp.classes)} classes and {self.inlp.rank} directions; fit INLP on one class "
                             "against the rest")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, it is {self.alpha}; choose the other class to go the other way")

    def transform(self, X: Rows, to: int | Int[Tensor, " row"] = 1) -> Rows:
        """Counterfactuals of rows (row, d_model).

        Args:
            to: 1 for classes[1], 0 for classes[0]; one for all rows, or one each.
        """
        moved = self.edit(to)(as_tensor(X), torch.arange(len(X)))
        return moved if isinstance(X, Tensor) else moved.numpy()

    def edit(self, to: int | Int[Tensor, " case"] = 1) -> Edit:
        """The same as an edit; `to` for all cases, or one each."""
        side = torch.atleast_1d(torch.as_tensor(to))
        if not torch.isin(side, torch.tensor([0, 1])).all():
            raise ValueError(f"to is 0 or 1, a place in classes {self.inlp.classes}; got {side.unique().tolist()[:5]}")
        w, b = self.inlp.write, self.inlp.offsets

        def change(x: Tensor, rows: Tensor) -> Tensor:
            dtype = torch.promote_types(x.dtype, torch.float32)
            directions, offset = w.to(x.device, dtype), b.to(x.device, dtype)
            sign = (2 * side.to(x.device) - 1).to(dtype)
            sign = sign if len(sign) == 1 else sign[rows]
            reading = x.to(dtype) @ directions.T + offset
            wanted: Float[Tensor, "batch rank"] = self.alpha * sign[:, None] * reading.abs()
            return (x + (wanted - reading) @ directions).to(x.dtype)

        return SizedEdit(change, len(side), w.shape[1])
