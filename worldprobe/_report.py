"""One self-contained HTML file: verdicts, numbers with their intervals, figures with their data, how to run it again.

The file asks the network for nothing, shows text from results as text and runs one script, its own, named by digest in
its policy: it unpacks the SVG and CSV files that lie in the page compressed. It knows no task: a section is a heading,
a text, figures and tables; `worldprobe._sections` makes sections from a results table.
"""

import base64
import gzip
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from tasks._files import write_whole
from worldprobe._csv import csv_text
from worldprobe._ink import inline_svg, to_svg
from worldprobe._page import digest, environment, source
from worldprobe._rows import number, with_interval
from worldprobe._verdicts import Verdict

POLICY = ("default-src 'none'; style-src 'unsafe-inline'; script-src '{script}'; img-src data:; base-uri 'none'; "
          "form-action 'none'")


@dataclass(frozen=True)
class Exhibit:
    """A figure of the report.

    Attributes:
        title: What it shows, in a few words.
        picture: A matplotlib figure, or SVG text that only draws (no script, no link, nothing fetched).
        caption: What is seen, on how many cases and groups, and what the interval is.
        data: The rows behind it, offered as CSV; None takes those that a worldprobe plot carries.
    """

    title: str
    picture: Figure | str
    caption: str
    data: pd.DataFrame | None = None


@dataclass(frozen=True)
class Table:
    """A table of the report: `shown` is what is read, `data` (if any) the rows behind it, offered as CSV; the columns
    in `prose` hold sentences, which may be broken."""

    title: str
    shown: pd.DataFrame
    caption: str = ""
    data: pd.DataFrame | None = None
    prose: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report. A section with nothing to show says why in `text`, in paragraphs. `about` is what it is
    about, for links to it: `reading:NAME`, `change:NAME` or `label:NAME`, as in the results."""

    heading: str
    text: str | Sequence[str] = ()
    exhibits: Sequence[Exhibit] = ()
    tables: Sequence[Table] = ()
    subsections: Sequence["Section"] = field(default=())
    about: str = ""


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: str | Sequence[str] = (),
    verdicts: Sequence[Verdict] | Mapping[str, Sequence[Verdict]] = (),
    numbers: pd.DataFrame | None = None,
    checks: pd.DataFrame | Sequence[Mapping] | None = None,
    sections: Sequence[Section] = (),
    run: Mapping[str, object] | None = None,
) -> Path:
    """Write the report to `path`, whole or not at all, and return its path.

    Args:
        summary: Paragraphs under the title.
        verdicts: From `worldprobe._verdicts.verdicts(table, label)`; of several labels, by label.
        numbers: What to read first: columns `what, value, ci_low, ci_high` and, if known, `n, n_groups`; see
            `worldprobe._sections.headline`.
        checks: Objects with `id, what, paper, ours, ci_low, ci_high, pass_mark, pass`; left out when None.
        run: What is needed to run it again. `command`, `citation` (text); any other entry is a mapping (`versions`,
            `configuration`, `seeds`, `hashes`) or a single value.
    Raises:
        ValueError: A number without its interval, or a picture that is more than a picture.
    """
    parts = [_part(s, f"s{i}") for i, s in enumerate(sections, 1)]
    run = dict(run or {})
    verdicts = verdicts if isinstance(verdicts, Mapping) else {"": verdicts} if verdicts else {}
    script = source("report.js")
    environment().filters["unbroken"] = _unbroken
    page = environment().get_template("report.html").render(
        policy=POLICY.format(script=digest(script)), script=script, title=title, summary=_paragraphs(summary),
        verdicts=verdicts, numbers=_numbers(numbers),
        checks=_checks(checks), sections=parts, command=run.pop("command", None), citation=run.pop("citation", None),
        run=[(_words(k), _named(v) if isinstance(v, Mapping) else v) for k, v in run.items()],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())
    return path


def _unbroken(text: str) -> str:
    """Text in which a number stays on one line with its interval, its unit sign or its `n =`."""
    return re.sub(r"\S (\[[^\]]*\])|n = \S|\d %", lambda found: found[0].replace(" ", "\u00a0"), text)


def _part(section: Section, anchor: str) -> dict:
    exhibits = [_exhibit(e, f"{anchor}-f{i}") for i, e in enumerate(section.exhibits, 1)]
    return {"heading": section.heading, "anchor": anchor, "about": section.about, "text": _paragraphs(section.text),
            "exhibits": exhibits,
            "tables": [_table(t) for t in section.tables],
            "parts": [_part(s, f"{anchor}-{i}") for i, s in enumerate(section.subsections, 1)]}


def _exhibit(exhibit: Exhibit, anchor: str) -> dict:
    picture = to_svg(exhibit.picture)
    svg = inline_svg(picture, anchor)
    data = exhibit.data if exhibit.data is not None else getattr(exhibit.picture, "frame", None)
    box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', svg)
    if box is None:
        raise ValueError(f"the picture {exhibit.title!r} needs a viewBox that starts at 0 0, to be scaled to the page; "
                         'write <svg viewBox="0 0 WIDTH HEIGHT" ...>')
    return {"title": exhibit.title, "caption": exhibit.caption, "anchor": anchor, "name": _file_name(exhibit.title),
            "svg": Markup(svg), "width": round(float(box[1])), "svg_file": _packed(picture), "csv_file": _csv(data)}


def _table(table: Table) -> dict:
    data = table.shown if table.data is None else table.data
    rows = [[_cell(v) for v in row] for row in table.shown.itertuples(index=False)]
    return {"title": table.title, "caption": table.caption, "columns": [str(c) for c in table.shown.columns],
            "rows": rows, "prose": [c in table.prose for c in table.shown.columns], "name": _file_name(table.title),
            "csv_file": _csv(data)}


def _numbers(rows: pd.DataFrame | None) -> list[dict]:
    """The numbers to read first, each with its interval."""
    found = []
    for row in () if rows is None else rows.to_dict("records"):
        text = with_interval(row["value"], row["ci_low"], row["ci_high"])
        if "no interval" in text:
            raise ValueError(f"{row['what']!r} needs its interval, got {text}; give ci_low and ci_high, "
                             "or leave the number out")
        counts = [f"{int(row[c]):,} {c.removeprefix('n_')}" if c != "n" else f"n = {int(row[c]):,}"
                  for c in ("n", "n_groups") if c in row and pd.notna(row[c])]
        value, _, interval = text.partition(" ")
        found.append({"what": row["what"], "value": value, "interval": interval, "counts": ", ".join(counts)})
    return found


def _checks(checks: pd.DataFrame | Sequence[Mapping] | None) -> list[dict]:
    found = []
    for check in _with_parts(() if checks is None else pd.DataFrame(checks).astype(object).to_dict("records")):
        given: list[Any] = [check.get(k) for k in ("ours", "ci_low", "ci_high")]
        if isinstance(given[0], int | float) and not isinstance(given[0], bool):
            has_interval = all(isinstance(v, int | float) and pd.notna(v) for v in given[1:])
            ours = with_interval(*given) if has_interval else f"{number(given[0])} (exact)"
        else:
            ours = _cell(given[0])
        found.append({k: _cell(check.get(k)) for k in ("id", "what", "paper", "pass_mark")}
                     | {"ours": ours, "passed": bool(check.get("pass")), "whole": not check.get("of"),
                        "judged": check.get("pass_mark") != "none"})
    return found


def _with_parts(checks: Iterable[Mapping]) -> Iterator[Mapping]:
    """Every check, then its parts, numbered within it."""
    for check in checks:
        yield check
        parts = check.get("parts")
        for i, part in enumerate(parts if isinstance(parts, list) else (), 1):
            yield {**part, "id": f"{check.get('id')}.{i}", "of": True}


def _paragraphs(text: str | Sequence[str]) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and pd.isna(value)):
        return "–"
    return number(value) if isinstance(value, float) else str(value)


def _named(settings: Mapping) -> dict[str, str]:
    return {_words(key): _cell(value) for key, value in settings.items()}


def _words(key: object) -> str:
    return str(key).replace("_", " ")


def _file_name(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "figure"


def _csv(data: pd.DataFrame | None) -> str | None:
    return None if data is None else _packed(csv_text(data))


def _packed(text: str) -> str:
    """A file as its button holds it: the rows behind a figure repeat themselves, and take a fifteenth of their size."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
