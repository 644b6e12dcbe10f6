"""Public names and what their docstrings say, as Markdown. Read from the source: nothing is imported but the lists of
names, so that building the site does not load torch."""

import ast
import functools
import importlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("tasks", "probing", "probing.formation", "interventions", "worldprobe")
_SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields|Source|Sources): ?(.*)")
_SPECIAL = re.compile(r"([*<\[\]\\]|(?<!\w)_|_(?!\w))")  # what Markdown would read as markup


@dataclass(frozen=True)
class Public:
    """A name that a package offers.

    Attributes:
        file: Where it is defined, relative to the repository.
        node: Its definition; None for a constant or an alias.
        about: The docstring; of a constant, its line of source.
    """

    package: str
    name: str
    file: Path
    node: ast.FunctionDef | ast.ClassDef | None
    about: str

    @property
    def first(self) -> str:
        """The first sentence."""
        return re.split(r"(?<=[.?])\s", " ".join(self.about.split("\n\n")[0].split()))[0]

    @property
    def source(self) -> str | None:
        """What the docstring gives as its source."""
        return next((body for name, body in sections(self.about) if name == "Source"), None)


@functools.cache
def tree(file: Path) -> ast.Module:
    """A parsed Python file."""
    return ast.parse(file.read_text(encoding="utf-8"))


def public_names(package: str) -> list[Public]:
    """Everything in `__all__` but dunders, in its order."""
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    where = {alias.asname or alias.name: node.module for node in ast.walk(tree(init))
             if isinstance(node, ast.ImportFrom) and node.level == 1 for alias in node.names}
    if "." in package:
        names = next(ast.literal_eval(node.value) for node in tree(init).body
                     if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    else:  # lazy packages say where their names are
        module = importlib.import_module(package)
        where |= getattr(module, "_WHERE", None) or module._NAMES
        names = module.__all__
    return [_find(package, name, init.with_name(f"{where[name]}.py") if name in where else init)
            for name in names if not name.startswith("_")]


def _find(package: str, name: str, file: Path) -> Public:
    for node in tree(file).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return Public(package, name, file.relative_to(ROOT), node, ast.get_docstring(node) or "")
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in map(ast.unparse, _targets(node)):
            return Public(package, name, file.relative_to(ROOT), None, f"    {ast.unparse(node)}")
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _find(package, name, file.with_name(f"{node.module}.py"))
    raise LookupError(f"{package} offers {name}, which {file} does not define")


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """`name(...)`, of a class what its constructor takes; a line per parameter where it is long."""
    parts, returns = _parameters(node), getattr(node, "returns", None)
    end = f") -> {ast.unparse(returns)}" if returns is not None else ")"
    line = f"{node.name}({', '.join(parts)}{end}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{node.name}(", *(f"    {part}," for part in parts), end])


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None:  # a dataclass, or what has no constructor of its own
            made = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
            return [_field(n) for n in node.body if isinstance(n, ast.AnnAssign)] if made else []
        return [p for p in _parameters(init) if p != "self"]
    given = node.args
    plain, n_plain = [*given.posonlyargs, *given.args], len(given.posonlyargs) + len(given.args)
    values = [None] * (n_plain - len(given.defaults)) + list(given.defaults)
    parts = [_parameter(a, v) for a, v in zip(plain, values, strict=True)]
    if given.vararg:
        parts.append(f"*{ast.unparse(given.vararg)}")
    elif given.kwonlyargs:
        parts.append("*")
    parts += [_parameter(a, v) for a, v in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [*parts, f"**{ast.unparse(given.kwarg)}"] if given.kwarg else parts


def _parameter(argument: ast.arg, value: ast.expr | None) -> str:
    text = ast.unparse(argument)
    return text if value is None else f"{text}{' = ' if argument.annotation else '='}{ast.unparse(value)}"


def _field(node: ast.AnnAssign) -> str:
    """A field of a dataclass; of `field(...)` only whether there is a default."""
    text = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    if isinstance(node.value, ast.Call):
        return text + " = ..." * any((k.arg or "").startswith("default") for k in node.value.keywords)
    return text if node.value is None else f"{text} = {ast.unparse(node.value)}"


def methods(node: ast.ClassDef) -> list[tuple[str, str]]:
    """(signature, first paragraph) of the public methods that say what they do."""
    found = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    said = [(n, (ast.get_docstring(n) or "").split("\n\n")[0]) for n in found]
    return [(n.name if any("property" in ast.unparse(d) for d in n.decorator_list) else
             f"{n.name}({', '.join(p for p in _names(n) if p not in ('self', 'cls'))})", text)
            for n, text in said if text]


def _names(node: ast.FunctionDef) -> list[str]:
    given = node.args
    return [a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs]]


def sections(doc: str) -> list[tuple[str, str]]:
    """(title, text) of a docstring in order; the title of running text is ""."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in doc.splitlines():
        head = _SECTION.fullmatch(line)
        if head:
            found.append((head[1].removesuffix("s") if head[1] == "Sources" else head[1], [head[2]] if head[2] else []))
        elif found[-1][0] and line.strip() and not line.startswith(" "):
            found.append(("", [line]))  # running text goes on below a section
        else:
            found[-1][1].append(line)
    return [(name, _dedent(lines) if name else "\n".join(lines).strip("\n")) for name, lines in found if any(lines)]


def _dedent(lines: list[str]) -> str:
    """The text of a section; what stands beside its title has no indentation, unlike what stands below."""
    first, *rest = lines
    if first.startswith(" "):
        return textwrap.dedent("\n".join(lines)).strip("\n")
    return f"{first}\n{textwrap.dedent(chr(10).join(rest))}".strip("\n")


def markdown(doc: str, links: dict[str, str]) -> str:
    """A docstring as Markdown.

    Args:
        links: Name -> address; a name alone in backticks becomes a link.
    """
    out = []
    for name, text in sections(doc):
        if name == "":
            out += [_paragraph(part, links) for part in text.split("\n\n") if part.strip()]
        elif name in ("Args", "Arguments", "Attributes", "Raises"):
            title = {"Args": "Arguments"}.get(name, name)
            out.append(f"**{title}**\n\n" + "\n".join(_items(text, links)))
        else:
            out.append(f"**{name}.** {_inline(text, links)}")
    return "\n\n".join(out)


def _items(text: str, links: dict[str, str]) -> list[str]:
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(line.strip())
    named = [re.fullmatch(r"([\w*, .]+): (.*)", item) for item in items]
    return [f"- `{m[1]}`: {_inline(m[2], links)}" if m else f"- {_inline(item, links)}"
            for m, item in zip(named, items, strict=True)]


def _paragraph(text: str, links: dict[str, str]) -> str:
    """Formulas and code are indented in a docstring; the rest is text, or a list."""
    lines = text.strip("\n").splitlines()
    if all(line.startswith("    ") for line in lines if line.strip()):
        return "```text\n" + textwrap.dedent("\n".join(lines)) + "\n```"
    if lines[0].lstrip().startswith("- "):
        return "\n".join(f"- {_inline(item, links)}" for item in re.split(r"(?m)^\s*- ", "\n".join(lines))[1:])
    code = next((i for i, line in enumerate(lines) if line.startswith("    ")), len(lines))
    listed = next((i for i, line in enumerate(lines) if line.startswith("- ")), len(lines))
    cut = min(code, listed)
    if 0 < cut < len(lines):
        return f"{_inline(chr(10).join(lines[:cut]), links)}\n\n{_paragraph(chr(10).join(lines[cut:]), links)}"
    return _inline(text, links)


def _inline(text: str, links: dict[str, str]) -> str:
    """One paragraph: code stays code, a name that has a page leads there, the rest is no markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(_link(part, links) if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in parts)


def _link(code: str, links: dict[str, str]) -> str:
    name = code.strip("`").removesuffix("()").rpartition(".")[2]
    return f"[{code}]({links[name]})" if name in links else code
