"""Notebooks as pages: `python docs/make_notebooks.py build/notebooks [NAME ...]` runs each and writes Markdown with all
that its cells show, and the figures beside it. Nothing that is made here is committed.

Cells run in this process, one after another, in a namespace of their own: no kernel, no Jupyter.
"""

import ast
import contextlib
import io
import os
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?[^\n]*\n", re.M)


def main(out: str, *names: str) -> None:
    """Renders the named notebooks, or all of them, into the folder `out`."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    there = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.py"))}
    if unknown := [name for name in names if name not in there]:
        sys.exit(f"no notebook {unknown[0]!r}; there are {', '.join(there)}")
    for name in names or there:
        print(render(there[name], Path(out)))


def render(notebook: Path, out: Path) -> Path:
    """Runs a notebook and writes `out/NAME.md` and `out/NAME-1.svg`, ...; returns the page.

    Raises:
        RuntimeError: A cell failed; the message names it.
    """
    out.mkdir(parents=True, exist_ok=True)
    space, parts, pictures = {"__name__": "__main__"}, list[str](), 0
    for number, (kind, source) in enumerate(cells(notebook.read_text(encoding="utf-8")), 1):
        if kind == "markdown":
            parts.append(source)
            continue
        try:
            printed, value = run(source, space, f"{notebook.name}, cell {number}")
        except Exception as error:
            raise RuntimeError(f"{notebook.name}, cell {number} failed: {error!r}") from error
        parts.append(f"```python\n{source}\n```")
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        if value is not None:
            pictures += hasattr(value, "_repr_svg_")
            parts.append(shown(value, out, f"{notebook.stem}-{pictures}"))
    page = out / f"{notebook.stem}.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def cells(text: str) -> list[tuple[str, str]]:
    """(markdown or code, source) of every cell of a notebook in percent format."""
    found, marks = [], [*CELL.finditer(text)]
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        source = text[mark.end() : end].strip("\n")
        if mark["kind"]:
            source = re.sub(r"^# ?", "", source, flags=re.M)
        if source:
            found.append(("markdown" if mark["kind"] else "code", source))
    return found


def run(source: str, space: dict, name: str) -> tuple[str, Any]:
    """(what the cell prints, the value of its last line if that is an expression)."""
    body, printed, value = ast.parse(source), io.StringIO(), None
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(body, name, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
    return printed.getvalue(), value


def shown(value: Any, out: Path, name: str) -> str:
    """A value as a notebook shows it: a picture in a file of its own, HTML as it is, else text."""
    if hasattr(value, "_repr_svg_"):
        (out / f"{name}.svg").write_text(value._repr_svg_(), encoding="utf-8")
        return f"![]({name}.svg)"
    if (html := getattr(value, "_repr_html_", lambda: None)()) is not None:
        lines = [line.strip() for line in html.splitlines() if line.strip()]  # an empty line would end the HTML
        return '<div class="output">' + "\n".join(lines) + "</div>"
    return f"<pre>{escape(repr(value))}</pre>"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
