"""Runs of cases, of last tokens or of whole sequences alike, and edits put at the tokens that a study names.

Whatever measures an effect needs four things of a run, and both kinds have them: `rows` (the numbers of its cases),
`select`, `logits` and `measure`. `LastToken` shares everything before the last token; `Sequences` edits anywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._edits import Edit
from ._last_token import Edits, LastToken
from ._places import At, Positions
from ._sequences import Sequences

Run = LastToken | Sequences
Added = dict[Site, Float[Tensor, "_ _"]]
Arm = dict[Site, Any]  # edits as the kind of run wants them


def on_split(model, cases: Counterfactuals, split: str, positions: Positions = -1) -> Run:
    """A run of the cases of one split; rows keep counting all cases.

    Args:
        model: A model, or a run of all these cases, so that several calls share what it holds.
        positions: Where edits will act; a model is given the run that is cheapest for it.
    Raises:
        ValueError: No case in the split; a run of other cases; a `LastToken` where other tokens are edited.
    """
    inside = (cases.cases["split"] == split).to_numpy()
    if not inside.any():
        raise ValueError(f"no case of split {split!r}; there are {sorted(set(cases.cases['split']))}")
    if not isinstance(model, Run):
        return (LastToken if _is_last(positions) else Sequences).of(model, cases, only=inside)
    if isinstance(model, LastToken) and not _is_last(positions):
        raise ValueError(f"a LastToken edits the last token, the edits are for {positions_name(positions)}; pass the "
                         "model, or Sequences.of(model, cases)")
    if int(model.rows.max()) >= len(cases):
        kind = type(model).__name__
        raise ValueError(f"the {kind} has a case number {int(model.rows.max())}, there are {len(cases)} cases; build "
                         f"it with {kind}.of(model, cases)")
    return model.select(inside[model.rows.numpy()])


def placed(run: Run, edits: Edits, positions: Positions = -1, by: Literal["case", "token"] = "case") -> Arm:
    """The edits as an arm of the run, at these tokens."""
    whole = not isinstance(run, LastToken)
    return {site: At(edit, positions, by) if whole else edit for site, edit in edits.items()}


def counted_by(positions: Positions) -> Literal["case", "token"]:
    """What the rows of a change count: cases where each is edited at one token, else tokens (as in `At`)."""
    return "case" if positions is not None and torch.as_tensor(positions).ndim < 2 else "token"


def n_rows(run: Run, positions: Positions) -> int:
    """Rows of a change of this run."""
    return (int(run.rows.max()) + 1) * (1 if counted_by(positions) == "case" else run.tokens.shape[1])


def positions_name(positions: Positions) -> str:
    """For the column `positions`: last, all, the number, or `given` where cases differ."""
    if positions is None:
        return "all"
    if torch.as_tensor(positions).numel() > 1:
        return "given"
    return "last" if _is_last(positions) else str(int(positions))


def applied_change(run: Run, edits: Edits, positions: Positions = -1) -> Added:
    """What the edits add at each of their sites when run together: (case, width) by case number; (case * pos, width),
    zero where nothing is edited, if cases are edited at several tokens."""
    into: Added = {}
    run.measure([recording(run, edits, into, positions)], lambda logits, places: logits[:, :1])
    return into


def recording(run: Run, edits: Edits, into: Added, positions: Positions = -1) -> Arm:
    """The edits as an arm that also writes down what they add."""
    return _noting(run, {site: partial(_note_added, edit) for site, edit in edits.items()}, into, positions)


def norms(run: Run, sites: Iterable[Site], into: Added, positions: Positions = -1) -> Arm:
    """An arm without effect that writes down the norms (row, 1) of what would be edited; zero elsewhere."""
    return _noting(run, dict.fromkeys(sites, _note_norm), into, positions)


def read_last(run: Run, arms: Sequence[Edits | Arm], sites: Sequence[Site]) -> dict[Site, Float[Tensor, "arm case _"]]:
    """Activations of the last token of every case under each arm, edits of that site included."""
    if isinstance(run, LastToken):
        return run.logits_many(arms, read=sites)[1]
    last, case = run.lengths - 1, torch.arange(len(run))
    seen = [run.read(sites, arm) for arm in arms]
    return {site: torch.stack([acts[site][case, last] for acts in seen]) for site in sites}


def _noting(run: Run, notes: Mapping, into: Added, positions: Positions) -> Arm:
    by, n, longest = counted_by(positions), n_rows(run, positions), run.tokens.shape[1]

    def noting(note, site: Site) -> Edit:
        def edit(x: Tensor, rows: Tensor) -> Tensor:
            new, said = note(x, rows if by == "case" else rows // longest)
            if site not in into:
                into[site] = said.new_zeros(n, said.shape[-1])
            into[site][rows] = said
            return new

        return edit

    return placed(run, {site: noting(note, site) for site, note in notes.items()}, positions, by)


def _note_added(edit: Edit, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    new = edit(x, rows)
    return new, new - x


def _note_norm(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return x, x.float().norm(dim=-1, keepdim=True)


def _is_last(positions: Positions) -> bool:
    return positions is not None and torch.as_tensor(positions).ndim == 0 and int(positions) == -1
