"""Commands that hand results on: `export`, `leaderboard`, `cite`. What they call is imported when they run."""

import argparse
import sys
from typing import Any

FORMATS = "csv,parquet,json,latex,md,eee,hf-yaml"
_EXPORT_EXAMPLES = """examples:
  worldprobe export runs/othello --to csv,latex
  worldprobe export runs/othello --to eee,hf-yaml --dataset my-org/my-benchmark --out shared
"""
_BOARD_EXAMPLES = """examples:
  worldprobe leaderboard build runs/othello runs/maze board --out site
  worldprobe leaderboard validate results.json --samples scores.json
  worldprobe leaderboard add results.json --to board
"""


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Adds the parsers of the three."""
    settings: dict[str, Any] = {"parents": [shared], "allow_abbrev": False,
                                "formatter_class": argparse.RawDescriptionHelpFormatter}
    words = "write the results of a run in the formats of others"
    command = commands.add_parser("export", help=words, epilog=_EXPORT_EXAMPLES, **settings,
                                  description=f"{words[0].upper()}{words[1:]}; the last lines are the files.")
    command.add_argument("run", metavar="DIR", help="folder of a run, or a results file (.parquet or .json)")
    command.add_argument("--to", required=True, type=_formats, metavar="A,B", help=f"of {FORMATS}")
    command.add_argument("--out", metavar="DIR", help="folder of the files (default: export in the folder of the run)")
    command.add_argument("--dataset", metavar="ORG/NAME", help="hf-yaml: the benchmark on the Hub that the scores "
                         "belong to (default: worldprobe/TASK)")

    words = "build the leaderboard's page, check a submission, or add one to a board"
    board = commands.add_parser("leaderboard", help=words, epilog=_BOARD_EXAMPLES, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter,
                                description=f"{words[0].upper()}{words[1:]}.")
    actions = board.add_subparsers(dest="action", required=True, metavar="build | validate | add")
    build = actions.add_parser("build", help="write the page", description="Write the page, its rows as CSV, and the "
                               "reports of the runs. The last line is the page; it opens from disk.", **settings)
    build.add_argument("results", nargs="+", metavar="RESULTS", help="run folders, results files, and boards (folders "
                       "of submissions); their rows come in this order")
    build.add_argument("--out", default="site", metavar="DIR", help="folder of the page (default: site)")
    check = actions.add_parser("validate", help="check a submission; exit code 1 if it is refused",
                               description="Check a submission: its form, its rules, and its numbers where samples are "
                               "given. Exit code 1 if it is refused.", **settings)
    put = actions.add_parser("add", help="check a submission and put it into a board; exit code 1 if it is refused",
                             description="Check a submission and put it into a board. Exit code 1 if it is refused.",
                             **settings)
    for command in (check, put):
        command.add_argument("file", metavar="FILE", help="results.json of a run")
        command.add_argument("--samples", metavar="FILE", help="scores of single examples (default: FILE's name with "
                             ".samples.json, if there is one)")
    put.add_argument("--to", required=True, dest="board", metavar="DIR", help="folder of the board")

    words = "print how to cite worldprobe, and the papers whose methods a run used"
    command = commands.add_parser("cite", help=words, description=f"{words[0].upper()}{words[1:]}.", **settings)
    command.add_argument("run", nargs="?", metavar="DIR", help="folder of a run, or a results file")


def export(arguments: argparse.Namespace) -> int:
    """Writes the files and prints their paths."""
    from ._export import export as write

    for path in write(arguments.run, arguments.to, arguments.out, dataset=arguments.dataset):
        print(path)
    return 0


def leaderboard(arguments: argparse.Namespace) -> int:
    """Builds the page, or checks or adds a submission; 1 when it is refused."""
    from . import _leaderboard
    from ._submission import SubmissionError

    if arguments.action == "build":
        print(_leaderboard.build(arguments.results, arguments.out))
        return 0
    try:
        print(_leaderboard.validate(arguments.file, arguments.samples) if arguments.action == "validate" else
              _leaderboard.add(arguments.file, arguments.board, arguments.samples))
    except SubmissionError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


def cite(arguments: argparse.Namespace) -> int:
    """Prints the citation."""
    from ._cite import citation

    print(citation(arguments.run))
    return 0


def _formats(text: str) -> list[str]:
    names, known = [name.strip() for name in text.split(",")], FORMATS.split(",")
    if wrong := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"no format {wrong[0]!r}; there are {', '.join(known)}")
    return names
