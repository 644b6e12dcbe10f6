"""What the rows of a readout-mediator report say, in words that follow from them."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Finding:
    """What the rows of one space say. A statement holds where its interval is clear of the controls' intervals.

    Attributes:
        reads: The label can be read from it, better than by the majority.
        needed: Ablating it breaks more answers than ablating 95 % of random subspaces of its rank, and more than
            equally long moves in random directions do on average.
        enough: An interchange along it brings about more of the right answers than no edit, than random directions,
            and, of a learned space, than the same learned from shuffled roles and on random weights.
        near: Its angle to the learned space lies below the 5th percentile of random subspaces (None of itself).
        accuracy, kept, before, iia, null, angle: The numbers behind it: read, answers kept after and before the
            ablation, interchange accuracy with and without the edit, degrees to the learned space.
    """

    space: str
    reads: bool
    needed: bool
    enough: bool
    near: bool | None
    accuracy: float
    kept: float
    before: float
    iia: float
    null: float
    angle: float | None

    @property
    def share(self) -> float:
        """How much of what the interchange should change it did change: 1 all, 0 nothing."""
        return (self.iia - self.null) / (1 - self.null)


def findings(table: pd.DataFrame) -> dict[str, Finding]:
    """Space -> what its rows say; the learned space comes last.

    Raises:
        ValueError: The table is not the report of one label at one site, or lacks rows of it.
    """
    rows = table[(table["split"] == "report") & table["intervention"].isin(("compare", "read", "ablate",
                                                                            "interchange"))]
    places = rows.loc[rows["control"].isna(), ["model", "label", "stream", "layer"]].drop_duplicates()
    if len(places) != 1:
        raise ValueError(f"findings are about one label at one site of one model, the table has {len(places)}; select "
                         "one of them, from readout_mediator(...)")
    names = list(dict.fromkeys(rows["probe"][rows["intervention"] == "read"]))
    learned = [name for name in names if "das, rank" in name]
    if len(learned) != 1:
        raise ValueError(f"findings want one learned space, the table has {learned}; see readout_mediator")
    order = [*(name for name in names if name != learned[0]), learned[0]]
    return {name: _finding(rows[rows["probe"] == name], name, learned[0]) for name in order}


def _finding(rows: pd.DataFrame, name: str, learned: str) -> Finding:
    def cell(intervention: str, control: str | None = None, subset: str = "all", metric: str | None = None):
        same = (rows["intervention"] == intervention) & (rows["subset"] == subset)
        same &= rows["control"].isna() if control is None else rows["control"] == control
        found = rows[same if metric is None else same & (rows["metric"] == metric)]
        return None if found.empty else found.iloc[0]

    def above(intervention: str, *controls: str) -> bool:
        against = [c for name in controls if (c := cell(intervention, name)) is not None]
        return bool(all(cell(intervention)["ci_low"] > c["ci_high"] for c in against))

    angle = cell("compare", None, f"to {learned}", "principal_angle")
    random = cell("compare", "random_direction", f"to {learned}", "principal_angle")
    kept, before = cell("ablate"), cell("ablate", "null")
    controls = ("null", "random_direction") + (("shuffled_labels", "random_init") if name == learned else ())
    return Finding(
        space=name, reads=above("read", "null"), enough=above("interchange", *controls),
        needed=bool(kept["ci_high"] < min(cell("ablate", "random_subspace")["ci_low"], before["ci_low"])
                    and kept["value"] < cell("ablate", "random_direction")["value"]),
        near=None if angle is None else bool(angle["ci_high"] < random["ci_low"]),
        accuracy=cell("read")["value"], kept=kept["value"], before=before["value"], iia=cell("interchange")["value"],
        null=cell("interchange", "null")["value"], angle=None if angle is None else angle["value"])


def verdict(table: pd.DataFrame) -> str:
    """The report in plain words: a headline on whether the model uses what is read, then a line per space.

    The words follow from `findings`: *reads*, *is needed*, *is enough*. The model *uses* the label where a space is
    both needed and enough. A space that is not enough although the learned one is, or where none is found, is a
    *correlate*: readable, and not what the answer follows here.
    """
    found = findings(table)
    *spaces, learned = found.values()
    rows = table[table["control"].isna() & (table["intervention"] == "read")].iloc[0]
    label, site = rows["label"], f"{rows['stream']}.{rows['layer']}"
    readers = [f for f in spaces if f.reads]
    better = max(spaces, key=lambda f: f.iia)
    if not learned.enough and better.enough:
        head = (f"The search for a subspace at {site} fell short: {better.space}, which it was free to find, does "
                f"{better.share:.0%} of what should change, the learned one {learned.share:.0%}. Search longer (steps) "
                "before concluding.")
    elif not learned.enough:
        head = f"No subspace of its rank was found at {site} whose interchange gives the answers that {label} calls for"
        head += f", though {label} can be read there: what is read is a correlate." if readers else \
            f", and {label} cannot be read there either."
    else:
        used = any(f.needed and f.enough for f in found.values())
        head = f"The model uses {label} at {site}" if used else \
            f"The answers follow {label} when it is changed at {site}, where it is not shown to be needed"
        if enough := [f for f in readers if f.enough]:
            best = max(enough, key=lambda f: f.iia)
            head += (f", and the probe reads what the {'model uses' if used else 'answers follow'}: an interchange "
                     f"along {best.space} does {best.share:.0%} of what should change, the learned subspace "
                     f"{learned.share:.0%}.")
        else:
            head += ", but the probe reads a correlate of it." if readers else ", and no given space reads it."
    return "\n".join([head, *(_line(f, learned) for f in found.values())])


def _line(f: Finding, learned: Finding) -> str:
    parts = [f"{'reads' if f.reads else 'does not read'} the label ({f.accuracy:.3f})",
             f"{'is' if f.needed else 'is not'} needed (answers kept {f.kept:.3f} of {f.before:.3f})",
             f"{'is' if f.enough else 'is not'} enough (interchange accuracy {f.iia:.3f}, without edit {f.null:.3f}; "
             f"{f.share:.0%} of what should change)"]
    if f.angle is not None:
        parts.append(f"{f.angle:.0f} degrees from {learned.space}, "
                     f"{'nearer than' if f.near else 'no nearer than'} random subspaces")
    return f"- {f.space}: " + "; ".join(parts) + "."
