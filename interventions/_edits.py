"""Edits: functions on the rows of an activation that return the changed rows.

An edit takes `x` (batch, d_model) and `rows` (batch,), the numbers of the cases that the rows of `x` belong to, so
that every case may have a direction, a target or a source of its own. Wherever a factory below takes one vector per
case, a single vector serves all of them. An edit never writes into `x`. The same edit runs under `LastToken` (the
last token of every case) and, through `hook`, as a plain transformer-lens hook on whole sequences.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Edit = Callable[[Float[Tensor, "batch d_model"], Int[Tensor, " batch"]], Float[Tensor, "batch d_model"]]


class _PerCase:
    """A constant of every case, or one for all of them: checked once, moved once to where the activations are."""

    def __init__(self, name: str, values: Tensor, ndim: int):
        values = torch.as_tensor(values)
        values = values[None] if values.ndim == ndim - 1 else values  # one for all
        if values.ndim != ndim or not len(values):
            raise ValueError(f"{name} wants {ndim} axes, the first over cases (or of length 1), it has shape "
                             f"{tuple(values.shape)}; add or drop an axis")
        if not torch.isfinite(values).all():
            bad = (~torch.isfinite(values).flatten(1).all(1)).nonzero()[:, 0].tolist()
            raise ValueError(f"{name} is not finite for {len(bad)} of {len(values)} cases (first: {bad[:5]}); look at "
                             "the probe it came from")
        self.name, self.values = name, values

    def at(self, x: Tensor, rows: Tensor) -> Tensor:
        if self.values.device != x.device or self.values.dtype != x.dtype:
            self.values = self.values.to(x)
        if len(self.values) == 1:
            return self.values
        if int(rows.max()) >= len(self.values):
            raise ValueError(f"{self.name} is given for {len(self.values)} cases, but case {int(rows.max())} was asked "
                             "for; give one row per case, or one row for all")
        return self.values[rows]


@dataclass(frozen=True)
class SizedEdit:
    """An edit that knows its size, so that `LastToken` can refuse it before anything runs: how many cases it holds
    constants for (1: any number), and how wide the activations must be (None: any width). `name` is what it prints as.
    """

    change: Edit
    n_cases: int = 1
    width: int | None = None
    name: str = "edit"

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        if self.width not in (None, x.shape[-1]):
            raise ValueError(f"the edit's direction is {self.width} wide, the activations are {x.shape[-1]} wide; fit "
                             "the direction on this model and site")
        return self.change(x, rows)

    def __repr__(self) -> str:
        cases = "one for all cases" if self.n_cases == 1 else f"{self.n_cases:,} cases"
        return f"<{self.name}: {cases}{'' if self.width is None else f', {self.width} wide'}>"


def _edit(name: str, change: Edit, *constants: _PerCase, width: int) -> SizedEdit:
    return SizedEdit(change, max(len(c.values) for c in constants), width, name)


def steer(direction: Float[Tensor, "... d_model"], alpha: float | int = 1.0) -> Edit:
    """x + alpha v; `alpha` counts lengths of `direction` (case|1, d_model) as given.

    Source: activation addition, Turner et al., arXiv:2308.10248; along the difference of class means, Marks & Tegmark,
        arXiv:2310.06824.
    """
    v = _PerCase("direction", direction, 2)
    return _edit(f"steer by {alpha:g}", lambda x, rows: x + alpha * v.at(x, rows), v, width=v.values.shape[-1])


def move_to(
    read: Float[Tensor, "... d_model"],
    target: Float[Tensor, "..."] | float | int,
    write: Float[Tensor, "... d_model"] | None = None,
    alpha: float | int = 1.0,
) -> Edit:
    """x + alpha (c - x.r) w / (r.w): at alpha = 1 the reading x.r becomes exactly c, whatever the scale of r and w.

    With c the mean reading of the class to be written this is the scale-free flip; with c = mu.r it is the oblique
    erasure of (x - mu).r along w (the LEACE pair of a binary label).

    Args:
        read: (case|1, d_model) r, what the projection is taken with.
        target: (case|1,) c, in units of x.r.
        write: (case|1, d_model) w, the direction that is moved along; r itself when missing.
        alpha: Share of the way to c.
    Raises:
        ValueError: r and w are orthogonal in some case: no move along w changes the reading.
    Source: the flip of Nanda et al., arXiv:2309.00941, which adds a direction times a constant found by trial; here
        the reading says how far to go. The erasure: Belrose et al., arXiv:2306.03819.
    """
    r, c = _PerCase("read", read, 2), _PerCase("target", torch.as_tensor(target, dtype=torch.float32), 1)
    w = r if write is None else _PerCase("write", write, 2)
    overlap = torch.cosine_similarity(r.values.double(), w.values.double(), dim=-1).abs()
    if (flat := overlap < 1e-6).any():
        raise ValueError(f"read and write are orthogonal in {int(flat.sum())} of {len(flat)} cases (first: case "
                         f"{int(flat.nonzero()[0])}): moving along write cannot change the reading; take another pair")

    def change(x, rows):
        reading, writing = r.at(x, rows), w.at(x, rows)
        gap = c.at(x, rows) - (x * reading).sum(-1)
        return x + (alpha * gap / (reading * writing).sum(-1))[:, None] * writing

    return _edit(f"move_to, {alpha:g} of the way", change, r, c, w, width=r.values.shape[-1])


def _orthonormal(basis: Tensor) -> Tensor:
    """(case|1, rank, d_model) orthonormal rows of the same span, from directions (case|1, d_model) or bases."""
    basis = torch.as_tensor(basis)
    basis = basis[None] if basis.ndim == 1 else basis
    basis = basis[:, None] if basis.ndim == 2 else basis
    if not torch.isfinite(basis).all():
        raise ValueError("the subspace is not finite; look at the probe it came from")
    q, r = torch.linalg.qr(basis.double().transpose(-1, -2))
    size = r.diagonal(dim1=-2, dim2=-1).abs()
    if (size <= 1e-10 * basis.double().norm(dim=-1).amax().clamp_min(1e-300)).any():
        raise ValueError("the rows of the subspace are linearly dependent or zero; drop the superfluous rows")
    return q.transpose(-1, -2).to(basis.dtype)


def project_out(basis: Float[Tensor, "... d_model"], mean: Float[Tensor, "... d_model"] | None = None) -> Edit:
    """x - (x - mu) Q Q^T: removes the component in a subspace (zero-ablation), or, with the mean of a reference set,
    only its variation (mean-ablation, which stays on distribution).

    Args:
        basis: A direction (d_model,), one direction per case (case, d_model), or a subspace per case (case|1, rank,
            d_model); orthonormalised here. One subspace for all cases is `basis[None]`.
        mean: (case|1, d_model) mu.
    Source: a step of INLP, Ravfogel et al., arXiv:2004.07667; mean-ablation as in Wang et al., arXiv:2211.00593.
    """
    found = patch_from(torch.zeros(torch.as_tensor(basis).shape[-1]) if mean is None else mean, basis)
    return replace(found, name=f"project_out{'' if mean is None else ' to the mean'}")


def reflect(direction: Float[Tensor, "... d_model"], midpoint: Float[Tensor, "... d_model"]) -> Edit:
    """x - 2 ((x - m).r) r with unit r: mirrors the component along `direction` at `midpoint` (case|1, d_model).

    Source: ours, for the flip of Nanda et al., arXiv:2309.00941: it has no constant to choose.
    """
    q, m = _PerCase("direction", _orthonormal(direction)[:, 0], 2), _PerCase("midpoint", midpoint, 2)

    def change(x, rows):
        r = q.at(x, rows)
        return x - 2 * ((x - m.at(x, rows)) * r).sum(-1, keepdim=True) * r

    return _edit("reflect", change, q, m, width=q.values.shape[-1])


def patch_from(source: Float[Tensor, "... d_model"], basis: Float[Tensor, "... width"] | None = None) -> SizedEdit:
    """x + P (s - x): the component in the subspace comes from `source` (case|1, d_model), the rest stays.

    `basis` as in `project_out`; without it the whole activation is replaced.

    Source: interchange interventions, Geiger et al., arXiv:2106.02997; inside a subspace, arXiv:2303.02536.
    """
    s = _PerCase("source", source, 2)
    if basis is None:
        return _edit("patch the whole state", lambda x, rows: s.at(x, rows).expand_as(x), s, width=s.values.shape[-1])
    q = _PerCase("basis", _orthonormal(basis), 3)
    if q.values.shape[-1] != s.values.shape[-1]:
        raise ValueError(f"basis is {q.values.shape[-1]} wide, source {s.values.shape[-1]}; both live in d_model")

    def change(x, rows):
        rows_of_q = q.at(x, rows)
        inside = torch.einsum("bkd,bd->bk", rows_of_q.expand(len(x), -1, -1), s.at(x, rows) - x)
        return x + torch.einsum("bkd,bk->bd", rows_of_q.expand(len(x), -1, -1), inside)

    return _edit(f"patch {q.values.shape[1]} dimension(s)", change, s, q, width=q.values.shape[-1])


def compose(*edits: Edit) -> Edit:
    """The edits one after another, the first one first."""

    def edit(x, rows):
        for each in edits:
            x = each(x, rows)
        return x

    widths = [w for each in edits if (w := getattr(each, "width", None)) is not None]
    return SizedEdit(edit, max((getattr(each, "n_cases", 1) for each in edits), default=1), next(iter(widths), None),
                     " then ".join(getattr(each, "name", "edit") for each in edits) or "nothing")


def hook(edit: Edit, rows: Int[Tensor, " batch"], positions: Int[Tensor, " batch"] | int = -1):
    """`edit` as a plain transformer-lens hook `(resid, hook) -> resid` on whole sequences.

    Args:
        rows: (batch,) which case each sequence of the batch is.
        positions: The position to edit, one per sequence or one for all.
    """

    def edited(resid: Float[Tensor, "batch pos d_model"], hook=None) -> Float[Tensor, "batch pos d_model"]:
        if len(rows) != len(resid):
            raise ValueError(f"rows names {len(rows)} cases, the batch has {len(resid)}; give one case per sequence")
        at = torch.as_tensor(positions, device=resid.device).expand(len(resid))
        if int(at.max()) >= resid.shape[1] or int(at.min()) < -resid.shape[1]:
            raise ValueError(f"position {int(at.max())} is outside the sequence of {resid.shape[1]} tokens; positions "
                             "count from 0, or from -1 backwards")
        index = torch.arange(len(resid), device=resid.device)
        resid = resid.clone()
        resid[index, at] = edit(resid[index, at], rows.to(resid.device))
        return resid

    return edited
