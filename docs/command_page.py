"""The command reference, from the parser itself."""

import argparse
import textwrap

from worldprobe import _cli

_USAGE_WIDTH = 100


def command_page() -> str:
    """Every command with its arguments and options, as Markdown."""
    top = _cli.parser()
    codes = _cli._EXIT_CODES.removeprefix("Exit codes: ")
    out = ["# Commands", "Made from the parser: `worldprobe COMMAND --help` prints the same. Options that are not "
           "given are not passed on, so that the defaults are those of the functions.", "```text",
           textwrap.dedent((_cli.__doc__ or "").split("\n\n")[1]), "```",
           f"**Exit codes.** {codes} An error is one line on standard error that says what came and what to do; "
           "`--debug` shows its traceback."]
    for name, parser in commands(top).items():
        out += _section(name, parser)
    return "\n\n".join(out).replace("```text\n\n", "```text\n").replace("\n\n```\n", "\n```\n") + "\n"


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> dict[str, argparse.ArgumentParser]:
    """`cache prune` -> its parser, for every command and every action of one, in the order of --help."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found |= {f"{prefix}{name}": sub} | commands(sub, f"{prefix}{name} ")
    return found


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, but for --help and what is hidden."""
    return [action for action in parser._actions if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)]


def _section(name: str, parser: argparse.ArgumentParser) -> list[str]:
    level = "##" if " " not in name else "###"
    out = [f"{level} {name}", parser.description or "", "```text", _usage(parser), "```"]
    rows = [f"| {_names(action)} | {_cell(parser, action)} |" for action in shown(parser)]
    if rows:
        out.append("\n".join(["| | |", "|---|---|", *rows]))
    if parser.epilog:
        out += ["```sh", "\n".join(line.strip() for line in parser.epilog.splitlines()[1:]), "```"]
    return [part for part in out if part]


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=_USAGE_WIDTH)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _names(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest}"
    names = action.option_strings or [str(action.metavar or action.dest)]
    return ", ".join(f"`{name}{value if action.option_strings else ''}`" for name in names)


def _cell(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The help of an option, safe inside a table."""
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return f"{text} (required)" if action.required and action.option_strings else text
