"""What labelled prompts look like: a few lines on a terminal, tables and pictures in a notebook."""

import importlib
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ._html import Html, marked, on_paper, table

if TYPE_CHECKING:
    from ._prompts import LabelledPrompts

SHOWN = 3  # prompts of a notebook's first look
AROUND = 14  # words shown before the probed one
FEW = 4  # classes and targets named one by one


def picture(prompts: "LabelledPrompts", rows: Sequence[int] = (0,)) -> Html:
    """Examples as their task draws them (a board, a maze, a map), beside their text with the probed token marked; the
    text alone where the task draws nothing. It needs no network.

    Args:
        rows: Which rows of `prompts.examples`.
    Raises:
        IndexError: There is no such row.
    """
    if beyond := [r for r in rows if not -len(prompts) <= r < len(prompts)]:
        raise IndexError(f"there is no row {beyond[0]}, the prompts have {len(prompts)} examples")
    chosen = [r % len(prompts) for r in rows]
    draw = getattr(_world(prompts), "picture", None)
    drawn = on_paper(draw(prompts, chosen)) if draw is not None and chosen else ""
    lines = []
    for row in chosen:
        words, at = _words(prompts, row)
        labels = escape("; ".join(_labels(prompts, row)))
        lines.append(f'<div>{marked(words, at)} <span style="margin-left:1em">{labels}</span></div>')
    return Html("".join(lines) + drawn)


def as_text(prompts: "LabelledPrompts") -> str:
    """Sizes, labels and the first prompts, in a few lines."""
    lines = [_title(prompts), *(f"  {name:<11}{sizes}" for name, sizes in _splits(prompts))]
    lines += [f"  {label}: {targets}; {values}{beside}" for label, targets, values, beside in _schemes(prompts, "; ")]
    for row in _first(prompts):
        words, at = _words(prompts, row)
        shown = " ".join(f"[{w}]" if i == at and prompts.vocabulary else w for i, w in enumerate(words))
        lines.append("  " + "   ".join([shown, *_labels(prompts, row)]))
    return "\n".join(lines)


def as_html(prompts: "LabelledPrompts") -> str:
    """The same for a notebook, with the task's picture of the first prompts."""
    schemes = _schemes(prompts)
    columns = ("label", "targets", "values", "shortcuts")[: 4 if any(row[3] for row in schemes) else 3]
    return (table(("split", "examples and groups"), _splits(prompts), _title(prompts))
            + table(columns, [row[: len(columns)] for row in schemes])
            + picture(prompts, _first(prompts)))


def _title(prompts: "LabelledPrompts") -> str:
    return (f"LabelledPrompts: {prompts.task}, {len(prompts.tokens):,} prompts of up to {prompts.tokens.shape[1]} "
            f"tokens, {len(prompts):,} examples")


def _splits(prompts: "LabelledPrompts") -> list[tuple[str, str]]:
    found = prompts.examples.groupby("split")["group"].agg(["size", "nunique"])
    return [(str(name), f"{found.loc[name, 'size']:,} examples in {found.loc[name, 'nunique']:,} groups")
            for name in ("train", "validation", "test") if name in found.index]


def _schemes(prompts: "LabelledPrompts", lead: str = "") -> list[tuple[str, str, str, str]]:
    """(label, its targets, its classes or range, its shortcuts) of every scheme that is no prediction."""
    predictions = {s for names in prompts.shortcuts.values() for s in names}
    rows = []
    for scheme in prompts.schemes:
        if scheme in predictions:
            continue
        targets, values = prompts.targets(scheme), prompts.labels(scheme)
        classes = prompts.classes.get(scheme)
        said = _listed(classes) if classes else (f"numbers, {values.min():.4g} to {values.max():.4g}" if values.size
                                                 else "numbers")
        beside = [s for s in prompts.shortcuts.get(scheme, ()) if s in prompts.schemes]
        rows.append((scheme, targets[0] if len(targets) == 1 else f"{len(targets)} targets ({_listed(targets)})", said,
                     f"{lead}{'shortcut ' if lead else ''}{', '.join(beside)}" if beside else ""))
    return rows


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names)) if len(names) <= FEW else f"{names[0]}, {names[1]}, ... {names[-1]}"


def _first(prompts: "LabelledPrompts") -> list[int]:
    """The first rows of the first prompts; where a prompt has many, the one in its middle."""
    found = prompts.examples.reset_index(drop=True).groupby("prompt", sort=False).indices
    return [int(rows[len(rows) // 2]) for rows in list(found.values())[:SHOWN]]


def _words(prompts: "LabelledPrompts", row: int) -> tuple[list[str], int]:
    """What an example is, in words, and which of them is probed (-1: it cannot be told)."""
    example = prompts.examples.iloc[row]
    prompt, pos = int(example["prompt"]), int(example["pos"])
    tokens = prompts.tokens[prompt, : int(prompts.lengths[prompt])].tolist()
    if prompts.vocabulary:
        start = max(0, pos - AROUND)
        words = [prompts.vocabulary[t] if t < len(prompts.vocabulary) else str(t) for t in tokens[start : pos + 3]]
        return ["..."] * (start > 0) + words + ["..."] * (pos + 3 < len(tokens)), pos - start + (start > 0)
    targets = [t for s in prompts.schemes for t in prompts.targets(s) if t not in ("prompt", "pos", "split")]
    named = [t for t in (*targets, "text") if t in prompts.examples]
    text = str(example[named[0]] if named else example["group"])
    token = f": {example['probed']}" if "probed" in prompts.examples else ""
    return [text if len(text) <= 160 else text[:157] + "...", f"(token {pos} of {len(tokens)}{token})"], 1


def _labels(prompts: "LabelledPrompts", row: int) -> list[str]:
    """`truth: true` for every label of one target."""
    predictions, said = {s for names in prompts.shortcuts.values() for s in names}, []
    for scheme in prompts.schemes:
        if scheme not in predictions and len(prompts.targets(scheme)) == 1:
            value, classes = prompts.labels(scheme)[row, 0], prompts.classes.get(scheme)
            said.append(f"{scheme}: {classes[int(value)] if classes else f'{value:.4g}'}")
    return said


def _world(prompts: "LabelledPrompts"):
    """The module of the prompts' task, if it is one of ours."""
    import tasks

    world = prompts.task.partition("-")[0]
    return importlib.import_module(f"tasks.{world}") if world in tasks.available() else None
