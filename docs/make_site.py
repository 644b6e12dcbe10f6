"""The documentation as a web site: `python docs/make_site.py build/site`, or `make docs`. Wants the extra `docs`.

The README is the front page and the pages in this folder stand as they are. Added are a page per probe and per edit
and the reference of all public names, from docstrings; the command reference, from the parser; and on the page of a
task what its module says, with the cards of its reference models. Notebooks stand in it with what their cells
show, where `docs/make_notebooks.py build/notebooks` has run them. Nothing that is made here is committed.
"""

import ast
import functools
import re
import shutil
import sys
from pathlib import Path

from command_page import command_page
from docstrings import PACKAGES, ROOT, Public, markdown, methods, public_names, signature, tree
from make_notebooks import cells

DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "build" / "notebooks"
START = ("quickstart", "your_own", "concepts", "commands")
TASKS = ("othello", "maze", "space_time", "truthfulness", "decoy")
METHODS = ("probes", "edits", "interventions", "formation")
LISTED = {"probes": "probing", "edits": "interventions"}  # page with tables of methods -> package that has them
LINK = re.compile(r"(?<!!)\[(?:[^\[\]`]|`[^`]*`|\[[^\]]*\])*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


def main(out: str) -> None:
    """Writes the site to `out` and its pages beside it; a warning of Sphinx is an error."""
    from sphinx.cmd.build import build_main

    pages = Path(f"{out}-pages")
    shutil.rmtree(pages, ignore_errors=True)
    assemble(pages)
    sys.exit(build_main(["-q", "-W", "--keep-going", "-b", "html", "-c", str(DOCS), str(pages), out]))


def assemble(pages: Path) -> None:
    """All pages as Markdown, in folders like those of the repository, with the files that they link to."""
    names = {package: public_names(package) for package in PACKAGES}
    own = {name: (page, when) for page in LISTED for name, when in methods_listed(page).items()}
    links = {p.name: f"/api/{package.replace('.', '_')}.md#{_anchor(p)}" for package in reversed(PACKAGES)
             for p in names[package]}
    links |= {name: f"/reference/{page}/{name}.md" for name, (page, _) in own.items()}
    texts = {f"docs/{file.name}": file.read_text(encoding="utf-8") for file in sorted(DOCS.glob("*.md"))}
    texts |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ("LOG.md", "CHANGELOG.md")}
    for task in TASKS:
        texts[f"docs/{task}.md"] += task_sections(task, links)
    for page, package in LISTED.items():
        mine = [p for p in names[package] if own.get(p.name, ("",))[0] == page]
        texts |= {f"reference/{page}/{p.name}.md": method_page(p, own[p.name][1], links) for p in mine}
        texts[f"docs/{page}.md"] = _linked_tables(texts[f"docs/{page}.md"], links) + _toctree(
            "", [f"/reference/{page}/{name}" for name in methods_listed(page)])
    texts["docs/commands.md"] = command_page()
    texts |= {f"notebooks/{file.stem}.md": story(file) for file in sorted((ROOT / "notebooks").glob("*.py"))}
    for package in PACKAGES:
        texts[f"api/{package.replace('.', '_')}.md"] = package_page(package, names[package], own, links)
    texts["index.md"] = (ROOT / "README.md").read_text(encoding="utf-8") + contents(texts)
    for name, text in texts.items():
        text = text.replace("](../README.md", "](../index.md")
        file = pages / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        for target in relative_links(text):
            there = (NOTEBOOKS.parent if name.startswith("notebooks/") else ROOT) / Path(name).parent / target
            if there.is_file() and there.suffix != ".md":
                (file.parent / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, file.parent / target)


def contents(texts: dict[str, str]) -> str:
    """The tree of pages, for the sidebar. A page of `docs` that is named nowhere stands under results."""
    docs = [name.removeprefix("docs/").removesuffix(".md") for name in texts if name.startswith("docs/")]
    rest = [name for name in docs if name not in {*START, *TASKS, *METHODS}]
    stories = [f"/{name.removesuffix('.md')}" for name in texts if name.startswith("notebooks/")]
    return "".join(_toctree(caption, pages) for caption, pages in (
        ("Start", [f"/docs/{name}" for name in START if name in docs]),
        ("Worlds", [f"/docs/{name}" for name in TASKS]),
        ("Methods", [f"/docs/{name}" for name in METHODS if name in docs]),
        ("Stories", stories),
        ("Running, results", [f"/docs/{name}" for name in rest]),
        ("Reference", [f"/api/{package.replace('.', '_')}" for package in PACKAGES]),
        ("Project", ["/CHANGELOG", "/LOG"])))


def story(notebook: Path) -> str:
    """A notebook as it was run, else what is in its cells."""
    if (ran := NOTEBOOKS / f"{notebook.stem}.md").exists():
        return ran.read_text(encoding="utf-8")
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```"
                       for kind, source in cells(notebook.read_text(encoding="utf-8"))) + "\n"


def _toctree(caption: str, pages: list[str]) -> str:
    return "\n\n```{toctree}\n:hidden:\n" + (f":caption: {caption}\n" if caption else "") + "\n" + "\n".join(
        pages) + "\n```\n"


def methods_listed(page: str) -> dict[str, str]:
    """Name -> when to use it, from the tables of `docs/probes.md` or `docs/edits.md`."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.M)
    return dict(rows)


def _linked_tables(text: str, links: dict[str, str]) -> str:
    return re.sub(r"^\| `(\w+)` \|", lambda m: f"| [`{m[1]}`]({links[m[1]]}) |", text, flags=re.M)


def method_page(public: Public, when: str, links: dict[str, str]) -> str:
    """A probe or an edit: when to use it, what its docstring says, and the tests that hold it."""
    return "\n\n".join([f"# {public.name}", f"**When to use it.** {when}", *_definition(public, links, "##"),
                        "## Checks that hold it", _checks(public)]) + "\n"


def package_page(package: str, names: list[Public], own: dict[str, tuple[str, str]], links: dict[str, str]) -> str:
    """All public names of a package; those that have a page of their own with their first sentence."""
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    out = [f"# {package}", markdown(ast.get_docstring(tree(init)) or "", links)]
    for public in names:
        out.append(f"({_anchor(public)})=\n## {public.name}")
        if public.name in own:
            out.append(f"{markdown(public.first, links)} [More]({links[public.name]})")
        else:
            out += _definition(public, links, "###")
    return "\n\n".join(out) + "\n"


def task_sections(task: str, links: dict[str, str]) -> str:
    """What the module of a task says, its `load` and `cases`, and the cards of its reference models."""
    folder = ROOT / "tasks" / task
    doc = ast.get_docstring(tree(folder / "__init__.py")) or ""
    out = ["", "## In code", markdown(doc, links)]
    for name in ("load", "cases"):
        node = next((n for file in sorted(folder.glob("*.py")) for n in tree(file).body
                     if isinstance(n, ast.FunctionDef) and n.name == name), None)
        if node is not None:
            out += [f"### tasks.{task}.{name}", f"```python\n{signature(node)}\n```",
                    markdown(ast.get_docstring(node) or "", links)]
    cards = sorted(folder.glob("models/*/README.md"))
    for card in cards:
        text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.S)
        text = re.sub(r"^#+ ", "#### ", re.sub(r"\A\s*# .*\n", "", text), flags=re.M)
        out += ["## Reference models"] * (card == cards[0]) + [f"### {card.parent.name}", text.strip()]
    return "\n\n".join(out) + "\n"


def _definition(public: Public, links: dict[str, str], level: str) -> list[str]:
    others = {name: address for name, address in links.items() if name != public.name}
    if public.node is None:
        return [markdown(public.about, others)]
    out = [f"```python\n{signature(public.node)}\n```", markdown(public.about, others)]
    found = methods(public.node) if isinstance(public.node, ast.ClassDef) else []
    if found:
        out += [f"{level} Methods", "\n".join(f"- `{name}`: {' '.join(markdown(text, others).split())}"
                                              for name, text in found)]
    return [*out, f"Defined in `{public.file}`."]


def _checks(public: Public) -> str:
    """The tests about a name, as the sentences that their names are; its own file first."""
    found, own = [], f"test{public.file.stem}"  # test_mass_mean.py is about _mass_mean.py
    tested = _tests(ROOT / "tests" / public.package.replace(".", "/"))
    for file, tests in sorted(tested.items(), key=lambda item: item[0].stem != own):
        said = [name for name, words in tests.items() if file.stem == own or public.name in words]
        if said:
            found.append(f"`{file.relative_to(ROOT)}`\n\n" + "\n".join(f"- {_sentence(name)}" for name in said))
    return "\n\n".join(found)


@functools.cache
def _tests(folder: Path) -> dict[Path, dict[str, set[str]]]:
    """File -> name of a test -> the names that it uses."""
    return {file: {node.name: {name for n in ast.walk(node) for name in (getattr(n, "id", ""), getattr(n, "attr", ""))}
                   for node in tree(file).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
            for file in sorted(folder.glob("test_*.py"))}


def _sentence(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


def _anchor(public: Public) -> str:
    """Anchors have no case: `Sweep` is a class, `sweep` is not."""
    kind = "class-" * isinstance(public.node, ast.ClassDef)
    return f"{public.package.replace('.', '-')}-{kind}{public.name}".lower()


def relative_links(text: str) -> list[str]:
    """Where a Markdown text leads, but for addresses of the web and fenced code."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    found = [next(filter(None, match.groups())) for match in LINK.finditer(text)]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


if __name__ == "__main__":
    main(*sys.argv[1:])
