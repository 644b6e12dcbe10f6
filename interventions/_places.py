"""Where an edit acts: a view of what passes at a site, its width, and the positions of every prompt."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from probing._models import check_site
from probing._sites import Site

from ._edits import Edit

Positions = int | Int[Tensor, "..."] | None
Rows = Int[Tensor, " edited"]


def inside(acts: Tensor, site: Site) -> Tensor:
    """(..., width) view of what passes at the hook of a site: for `z`, one head or all of them side by side."""
    if site.stream != "z":
        return acts
    return acts.flatten(-2) if site.head is None else acts[..., site.head, :]


def width_of(model, site: Site) -> int | None:
    """Width of the activations at a site; None where the model does not say (a mixture of experts)."""
    cfg = model.cfg
    if site.stream == "z":
        return cfg.d_head * (cfg.n_heads if site.head is None else 1)
    return getattr(cfg, "d_mlp", None) if site.stream == "mlp_post" else cfg.d_model


def check_editable(model, site: Site, edit: Edit) -> None:
    """Raises ValueError when a site cannot be edited, is not there, or has another width than the edit."""
    if site.stream == "resid_mid":
        raise ValueError(f"{site} cannot be edited: transformer-lens' resid_mid is the input of the MLP branch, so an "
                         f"edit there leaves the stream as it was; edit {Site('attn_out', site.layer)} instead, or "
                         f"{Site('resid_post', site.layer)} or {Site('mlp_out', site.layer)}")
    check_site(model, site)
    width, wanted = getattr(edit, "width", None), width_of(model, site)
    if None not in (width, wanted) and width != wanted:
        what = "the model's stream" if wanted == model.cfg.d_model else f"{site} of this model"
        raise ValueError(f"the edit at {site} is {width} wide, {what} is {wanted} wide; fit the direction on this "
                         "model and site")


@dataclass(frozen=True, eq=False)
class At:
    """An edit at chosen positions of every prompt.

    Args:
        positions: One position for all cases, (case,) one each, (case, k) several each; None, every token. Positions
            count from 0, and from -1 backwards from the last real token.
        by: What the numbers that the edit is given count, so that its constants may differ by `case`, by `position`,
            or by `token` (case * tokens.shape[1] + position, the rows of a flattened (case, pos, width)).
    """

    edit: Edit
    positions: Positions = None
    by: Literal["case", "position", "token"] = "case"

    def places(self, rows: Int[Tensor, " case"], lengths: Int[Tensor, " case"]) -> tuple[Rows, Rows]:
        """(which of `rows`, position) of everything that is edited.

        Raises:
            ValueError: A position lies outside its prompt, or there is none for a case.
        """
        if self.positions is None:
            real = torch.arange(int(lengths.max())) < lengths[:, None]
            return tuple(real.nonzero().T)
        given = torch.as_tensor(self.positions).cpu()
        given = given[:, None] if given.ndim == 1 else given.reshape(-1, given.shape[-1] if given.ndim else 1)
        if len(given) > 1 and int(rows.max()) >= len(given):
            raise ValueError(f"positions are given for {len(given)} cases, but there is a case number "
                             f"{int(rows.max())}; give one for all, or a row for each")
        wanted = (given[rows] if len(given) > 1 else given.expand(len(rows), -1)).long()
        at = torch.where(wanted < 0, wanted + lengths[:, None], wanted)
        if len(bad := ((at < 0) | (at >= lengths[:, None])).nonzero()):
            case, column = bad[0].tolist()
            raise ValueError(f"position {int(wanted[case, column])} is outside case {int(rows[case])}, which has "
                             f"{int(lengths[case])} tokens; positions count from 0, or from -1 backwards")
        return torch.arange(len(rows)).repeat_interleave(at.shape[1]), at.flatten()

    @property
    def goes_on(self) -> bool:
        """Whether it acts on every token or on the last one, and so on generated tokens where those are edited too."""
        return self.positions is None or bool((torch.as_tensor(self.positions) == -1).all())

    def numbers(self, rows: Rows, positions: Rows, longest: int) -> Rows:
        """What the edit is given as `rows`."""
        return {"case": rows, "position": positions, "token": rows * longest + positions}[self.by]
