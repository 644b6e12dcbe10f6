"""The documentation says what is there: links lead somewhere, commands parse, every public name has its page."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import probing
from worldprobe import _cli

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # scripts there import one another by name
command_page, docstrings, make_site = map(importlib.import_module, ("command_page", "docstrings", "make_site"))

PAGES = [ROOT / name for name in ("README.md", "LOG.md", "CHANGELOG.md")] + sorted((ROOT / "docs").glob("*.md"))
PUBLIC = [public for package in docstrings.PACKAGES for public in docstrings.public_names(package)]
FENCE = re.compile(r"^```(?:sh)?\n(.*?)^```", re.M | re.S)


@cache
def anchors(page: Path) -> set[str]:
    """Headings as GitHub and MyST turn them into anchors."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    for link in make_site.relative_links(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} leads to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} leads to {link}; headings: {anchors(target)}"


def test_links_in_code_and_of_the_web_are_not_followed():
    text = "[a](b.md#c) ![d](e.png) <img src=\"f.png\"> [g](https://h) [`i`](j.md)\n```\n[k](l.md)\n```\n[m](n.md)"
    assert make_site.relative_links(text) == ["b.md#c", "e.png", "f.png", "j.md", "n.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_documentation_parses(page):
    lines = [line for block in FENCE.findall(page.read_text(encoding="utf-8"))
             for line in block.replace("\\\n", " ").splitlines()]
    for line in (line for line in lines if line.startswith("worldprobe ")):
        words = shlex.split(line, comments=True)[1:]
        assert _cli.parser().parse_args(words).command == words[0], line


def test_the_command_reference_has_every_command_and_option():
    page = command_page.command_page()
    commands = command_page.commands(_cli.parser())
    assert {"run", "reproduce", "formation", "intervene", "models path", "cache prune", "export", "leaderboard build",
            "cite"} <= set(commands)
    sections = dict(re.findall(r"^##+ ([\w ]+)\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    assert list(sections) == list(commands)
    for name, parser in commands.items():
        for action in command_page.shown(parser):
            for option in action.option_strings or [action.metavar or action.dest]:
                assert f"`{option}" in sections[name], f"{name} {option}"
    assert _cli._EXIT_CODES.removeprefix("Exit codes: ") in page


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: f"{public.package}.{public.name}")
def test_every_public_name_says_what_it_is(public):
    assert public.about, f"{public.package}.{public.name} has no docstring"
    if public.node is not None:
        assert re.match(r"\S.*[.?:)]", public.first), f"the docstring of {public.name} opens with {public.first!r}"


@pytest.mark.parametrize("page", make_site.LISTED)
def test_every_probe_and_edit_has_a_page_with_its_source(page):
    listed = make_site.methods_listed(page)
    here = {public.name: public for public in PUBLIC if public.package == make_site.LISTED[page]}
    assert set(listed) <= set(here)
    for name in listed:
        source = here[name].source or ""
        assert re.search(r"arXiv|\d{4}|github|scikit|\.\w+/|^ours", source), f"{name} names no source: {source!r}"
        assert make_site._checks(here[name]), f"no test is about {name}"


def test_no_probe_and_no_edit_is_left_out():
    probes = {name for name in probing.__all__ if name.endswith("Probe")}
    assert probes <= set(make_site.methods_listed("probes"))
    offered = [public for public in PUBLIC if public.package == "interventions"]
    erasers = {public.name for public in offered if isinstance(public.node, ast.ClassDef)
               and "Eraser" in map(ast.unparse, public.node.bases)}
    plain = {public.name for public in offered if public.file.stem in ("_edits", "_nonlinear_edits")}
    assert len(erasers) >= 4 and len(plain) >= 8
    assert erasers | plain - {"Edit", "compose", "hook"} <= set(make_site.methods_listed("edits"))


def test_a_docstring_becomes_a_page():
    doc = ("Sum of `x` and theta_*, see `Probe`.\n\n    s = x + theta\n\nMore:\n- one,\n  at length\n- two\n\n"
           "Args:\n    x, y: (row,) in nats,\n        or more.\nRaises:\n    ValueError: None of <these>.\n"
           "Source: Doe, arXiv:1; theirs\n    is other.")
    assert docstrings.markdown(doc, {"Probe": "p.md"}) == (
        "Sum of `x` and theta\\_\\*, see [`Probe`](p.md).\n\n```text\ns = x + theta\n```\n\nMore:\n\n- one, at length\n"
        "- two\n\n**Arguments**\n\n- `x, y`: (row,) in nats, or more.\n\n**Raises**\n\n- `ValueError`: None of "
        "\\<these>.\n\n**Source.** Doe, arXiv:1; theirs is other.")


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the site is built with the extra `docs`")
    pytest.importorskip("myst_parser", reason="the site is built with the extra `docs`")
    pytest.importorskip("furo", reason="the site is built with the extra `docs`")
    out = tmp_path / "site"
    done = subprocess.run([sys.executable, ROOT / "docs" / "make_site.py", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(out).as_posix() for page in out.rglob("*.html")}
    assert {"index.html", "docs/commands.html", "reference/probes/MassMeanProbe.html", "reference/edits/LEACE.html",
            "api/probing.html", "docs/maze.html", "LOG.html"} <= pages
    for page in pages:
        text = (out / page).read_text(encoding="utf-8")
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?:", text), f"{page} asks the network"
