"""Board rows as the columns of a table on paper: what LaTeX and Markdown both show."""

from dataclasses import dataclass

import pandas as pd

from ._board_effects import AT_KL

LEFT_OUT = "–"


@dataclass(frozen=True)
class Number:
    """A number with its interval, if it has one."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Column:
    """A column: its heading, and its cells, all text or all `Number` (None where there is nothing)."""

    head: str
    cells: list

    @property
    def is_text(self) -> bool:
        return not any(isinstance(c, Number) for c in self.cells)


_TEXT = {"task": "task", "model": "model", "label": "label", "place": "place", "probe": "probe", "where": "layer",
         "metric": "metric", "edit": "edit"}
_NUMBERS = {"score": ("score", "score_low", "score_high"), "shortcut": ("shortcut",), "selectivity": ("selectivity",),
            "effect": ("effect", "effect_low", "effect_high"), "random directions": ("band", "band_low", "band_high"),
            f"dose at {AT_KL:g} nats": ("dose",), "cost (nats)": ("cost",)}


def paper_columns(rows: pd.DataFrame) -> tuple[dict[str, str], list[Column]]:
    """(what all rows have in common, by heading; the other columns). Columns without anything are left out."""
    common, columns = {}, []
    for name, head in _TEXT.items():
        cells = [None if pd.isna(v) else shown_model(v) if name == "model" else str(v) for v in rows[name]]
        if len(set(cells)) == 1 and name != "probe":
            common |= {head: cells[0]} if cells[0] is not None else {}
        else:
            columns.append(Column(head, cells))
    for head, names in _NUMBERS.items():
        numbers = [Number(*(float(row[n]) for n in names)) for _, row in rows.iterrows()]
        if any(n.value == n.value for n in numbers):
            columns.append(Column(head, [n if n.value == n.value else None for n in numbers]))
    return common, columns


def shown_model(name: str) -> str:
    """The last part of a model's directory; a name as it is."""
    return name.rstrip("/").rpartition("/")[2] or name if name.startswith(("/", "./", "../", "~")) else name


def decimals(value: float) -> str:
    """Three decimals."""
    return f"{value + 0.0:.3f}".replace("-0.000", "0.000")


NOTE = (f"In brackets: 95 % interval of a cluster bootstrap; of random directions, of equal norm, the 5th to 95th "
        f"percentile of the draws. Selectivity: score minus that on shuffled labels. Effect: 0 is no edit, 1 all that "
        f"is to be had. Dose at {AT_KL:g} nats: where the divergence of the next token reaches that.")
